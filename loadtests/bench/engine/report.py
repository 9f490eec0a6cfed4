"""A run's result as tables for people, in Markdown."""

from collections.abc import Mapping
from typing import Any

from ...markdown import table
from ...published import published_cells
from ...rounds import Spread
from ..output import bars_table
from .load import POLICIES


def render(result: dict[str, Any]) -> str:
    """The report, ending in a line break."""
    costs = result["variants"].values()
    sections = [_head(result)]
    if result["bars"]:
        sections.append(bars_table(result["bars"]))
    if any(each["batches"] for each in costs):
        sections.append(_against_stock(result))
    if "seed_workload" in result:
        sections.append(_seed_workload(result))
    if any("stages" in each for each in costs):
        sections.append(_stages(result))
    if "policies" in result:
        sections.append(_policies(result["policies"]))
    return "\n\n".join(sections) + "\n"


def regime(costs: Mapping[str, Any]) -> str:
    """What bounds the time at the seed workload's batch, from how a variant's UNet step grows."""
    share = costs.get("stages", {}).get("step_fixed_share")
    if share is None or not costs["batches"]:
        return "not decided: fewer than three batch sizes were measured"
    if share < 0.15:
        kind = "saturated: time grows with the work, so the ratios should be near the FLOP ratios"
    elif share > 0.5:
        kind = "launch-bound: most of a step's time doesn't depend on the work in it"
    else:
        kind = "between launch-bound and saturated"
    peak_share = max(cell["peak_share"] for cell in costs["batches"].values())
    return (
        f"{kind} ({share:.0%} of a UNet step of 4 images is fixed; at best {peak_share:.0%} of the "
        "matmul peak)"
    )


def _head(result: dict[str, Any]) -> str:
    weights = "Random values" if result["random_weights"] else "Trained weights"
    variants = result["variants"]
    slots = ", ".join(f"{costs['cap']} for `{name}`" for name, costs in variants.items())
    optimisations = ", ".join(f"{name}={on}" for name, on in result["optimisations"].items())
    size, first = result["size_px"], next(iter(variants))
    left_out = ""
    if result["left_out"]:
        left_out = f"\n- Left out for want of time: {'; '.join(result['left_out'])}."
    return f"""# Engine and pipelines: `{result["family"]}` on {result["device"]}

- `{result["command"]}`, {result["seconds"] / 60:.0f} minutes.
- Commit {result["commit"]}; Python {result["python"]}, torch {result["torch"]}, diffusers \
{result["diffusers"]}, transformers {result["transformers"]}.
- {weights}, {result["dtype"]}, {size}x{size}, {result["steps"]} steps PNDM ({result["steps"] + 1} \
UNet calls), guidance {result["guidance_scale"]:g}.
- Ours: the engine with a replica's threads and slots, policy `step`. Slots as the start-up sweep \
of a replica finds them: {slots}. Optimisations: {optimisations}.
- Times against stock, in the seed workload and of stages: {result["clock"]}; of the engine under \
load: wall time. Median (lowest to highest), contenders in turn within a round, ratios taken \
within rounds.
- Matmul peak measured here: {result["matmul_flop_per_s"] / 1e12:.3g} TFLOP/s.
- Regime of `{first}`: {regime(variants[first])}.{left_out}"""


def _against_stock(result: dict[str, Any]) -> str:
    rows = [
        [name, batch, _ms(cell["ours_s"]), _ms(cell["stock_s"]), _x(cell["speed_against_stock"]),
         f"{cell['images_per_s']:.2f}", f"{cell['peak_share']:.1%}", f"{cell['parity']:.3f}"]
        for name, costs in result["variants"].items()
        for batch, cell in costs["batches"].items()
    ]  # fmt: skip
    return table(
        "## Against stock\n\nOne request to our engine against one call of "
        f"`StableDiffusionPipeline`, {result['rounds']} rounds. *Parity* is the pictures' mean "
        "difference in 8-bit values. Where there are more images than slots, the others wait.",
        ["variant", "images", "ours ms", "stock ms", "ours against stock", "images/s",
         "of matmul peak", "parity"],
        rows,
    )  # fmt: skip


def _seed_workload(result: dict[str, Any]) -> str:
    """Beside the published figures and the ratio of the FLOPs."""
    flop = {name: costs["flop_per_picture"] for name, costs in result["variants"].items()}
    first, rows = next(iter(flop)), []
    for name, ways in result["seed_workload"].items():
        cells = [
            text
            for way in ("ours", "stock")
            for text in (_ms(ways[way]["total_s"]), _x(ways[way]["speed_against_original"]))
        ]
        flop_ratio = f"{flop[first] / flop[name]:.2f}"
        rows.append([name, *cells, flop_ratio, *published_cells(name)])
    rounds = result["seed_workload"][first]["ours"]["total_s"]["count"]
    return table(
        f"Seed workload, {rounds} rounds: 3 calls x 4 images x {result['steps']} steps, total ms "
        f"and speed against `{first}`. *Published*: fp16 512x512, 25 steps, against `original`, "
        "GPU not named; *FLOP-bound*: calculated for the published architectures.",
        ["variant", "ours ms", "x", "stock ms", "x", "FLOP ratio of these models",
         "published ms", "published x", "FLOP-bound x"],
        rows,
    )  # fmt: skip


def _stages(result: dict[str, Any]) -> str:
    rows = []
    measured = {name: it for name, it in result["variants"].items() if "stages" in it}
    for name, costs in measured.items():
        stages = costs["stages"]
        steps = " / ".join(f"{1000 * step['median']:.1f}" for step in stages["step_s"].values())
        rows.append(
            [name, _ms(stages["begin_s"]), steps, _ms(stages["decode_s"]),
             _ms(stages["encode_png_s"]), f"{costs['flop_per_picture'] / 1e9:.1f}",
             f"{costs['peak_memory_bytes'] / 2**30:.2f}", f"{costs['load_s']:.2f}",
             f"{costs['first_picture_s']:.2f}"]
        )  # fmt: skip
    return table(
        f"Stages, ms; *step* is one UNet call with {' / '.join(stages['step_s'])} images and their "
        "schedulers, *decode* and *PNG* are one image. Peak memory is of a variant on a GPU; load "
        "and first picture in seconds of wall time.",
        ["variant", "prompt and noise", "step", "decode", "PNG", "GFLOP a picture",
         "peak GiB", "load s", "first picture s"],
        rows,
    )  # fmt: skip


def _policies(found: dict[str, Any]) -> str:
    latencies = []
    for load in found["loads"]:
        where = f"{load['load']:.0%} ({load['rate_per_s']:.2f}/s)"
        for policy, figures in load["policies"].items():
            latencies.append(
                [where, f"`{policy}`", _x(figures["mean_s"]), f"{figures['p50_s']:.2f}",
                 f"{figures['p95_s']:.2f}", _x(figures["mean_against_batch"])]
            )  # fmt: skip
    return "\n\n".join(
        [
            f"## Policies, `{found['variant']}`\n\nThe engine by wall clock: {found['cap']} slots, "
            "one-image requests of 10, 25 and 50 steps, as many of each. Loads are "
            f"shares of what `batch` draws from a full queue. {found['rounds']} rounds, each with"
            " Poisson arrivals that all policies get, in turn. In `batch` an image leaves "
            "as soon as it is done, so its slot is empty until the batch is through.",
            table(
                "Images/s from a queue that is always full.",
                [*(f"`{policy}`" for policy in POLICIES), "`step` / `batch`"],
                [[*map(_x, found["images_per_s"].values()), _x(found["step_against_batch"])]],
            ),
            table(
                "Latency from the instant a request is due to its picture, s: mean by round, "
                "percentiles of all rounds together.",
                ["load", "policy", "mean", "p50", "p95", "mean / `batch`"],
                latencies,
            ),
        ]
    )


def _x(spread: Mapping[str, Any]) -> str:
    return Spread(**spread).text()


def _ms(spread: Mapping[str, Any]) -> str:
    return Spread(**spread).text(1000, 0 if spread["median"] >= 1 else 1)
