"""A benchmark's result as text: tables for people, in Markdown."""

from typing import Any

from ..markdown import table
from ..published import FLOP_BOUND, PUBLISHED_MS
from .engine_report import beside, forecast, policies, simulation, spread


def render(result: dict[str, Any]) -> str:
    """The report, ending in a line break."""
    sections = [
        _head(result),
        _bars(result),
        _against_stock(result),
        _seed_workload(result),
        _stages(result),
        _architecture(result),
        policies(result),
        forecast(result),
        beside(result),
        simulation(result),
        _profiles(result),
        _not_run(result),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def regime(result: dict[str, Any]) -> str:
    """Names what bounds the time at the seed workload's batch, from how a UNet step grows."""
    name, costs = next(iter(result["variants"].items()))
    share = costs["stages"]["step_fixed_share"]
    if share is None:
        return "not decided: fewer than three batch sizes were measured"
    if share < 0.15:
        kind = "saturated: time grows with the work, so the ratios should be near the FLOP ratios"
    elif share > 0.5:
        kind = "launch-bound: most of a step's time doesn't depend on the work in it"
    else:
        kind = "between launch-bound and saturated"
    peak_share = max(cell["peak_share"] for cell in costs["batches"].values())
    return (
        f"{kind} ({share:.0%} of a UNet step of 4 images of `{name}` is fixed; at best "
        f"{peak_share:.0%} of the matmul peak)"
    )


def _head(result: dict[str, Any]) -> str:
    weights = "Random values" if result["random_weights"] else "Trained weights"
    size = result["size_px"]
    return "\n".join(
        [
            f"# Engine and pipelines: `{result['family']}` on {result['device']}",
            "",
            f"- `{result['command']}`, {result['seconds'] / 60:.0f} minutes.",
            f"- Commit {result['commit']}; Python {result['python']}, torch {result['torch']}, "
            f"diffusers {result['diffusers']}, transformers {result['transformers']}.",
            f"- {weights}, {result['dtype']}, {size}x{size}, {result['steps']} steps PNDM "
            f"({result['steps'] + 1} UNet calls), guidance {result['guidance_scale']:g}.",
            f"- Ours: the engine with a replica's threads and slots, policy `step`, decoding "
            "beside the steps. Slots as the start-up sweep of a replica finds them: "
            f"{_slots(result)}. Optimisations: {_optimisations(result)}.",
            f"- Times against stock, in the seed workload and of stages: {result['clock']}; of the "
            "engine under load: wall time. Median (lowest to highest), contenders in turn within a "
            "round, ratios taken within rounds.",
            f"- Matmul peak measured here: {result['matmul_flop_per_s'] / 1e12:.3g} TFLOP/s.",
            f"- Regime: {regime(result)}.",
        ]
    )


def _slots(result: dict[str, Any]) -> str:
    return ", ".join(f"{costs['cap']} for `{name}`" for name, costs in result["variants"].items())


def _optimisations(result: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in result["optimisations"].items())


def _bars(result: dict[str, Any]) -> str:
    rows = [
        [bar["name"], bar["wanted"], bar["found"], f"**{bar['state']}**"]
        for bar in result["bars"]
        if bar["state"] != "not run"
    ]
    why: dict[str, list[str]] = {}
    for bar in result["bars"]:
        if bar["state"] == "not run":
            why.setdefault(bar["found"], []).append(f"{bar['name']}, {bar['wanted']}")
    left_out = [
        f"Not run ({reason}):\n\n" + "\n".join(f"- {one}" for one in names)
        for reason, names in why.items()
    ]
    made = table("## Bars", ["what", "wanted", "found", ""], rows) if rows else "## Bars"
    return "\n\n".join([made, *left_out])


def _seed_workload(result: dict[str, Any]) -> str:
    """The seed workload beside the published row and the ratio of the FLOPs."""
    flop = {name: costs["flop_per_picture"] for name, costs in result["variants"].items()}
    first = next(iter(flop))
    rows = []
    for name, ways in result["seed_workload"].items():
        rows.append(
            [
                name,
                _ms(ways["ours"]["total_s"]),
                spread(ways["ours"]["speed_against_original"]),
                _ms(ways["stock"]["total_s"]),
                spread(ways["stock"]["speed_against_original"]),
                f"{flop[first] / flop[name]:.2f}",
                *_published(name),
            ]
        )
    rounds = next(iter(result["seed_workload"].values()))["ours"]["total_s"]["count"]
    return table(
        f"Seed workload, {rounds} rounds: 3 calls x 4 images x 25 steps, total ms and speed "
        f"against `{first}`. *Published*: fp16 512x512, against `original`, GPU not named; "
        "*FLOP-bound*: calculated for the published architectures.",
        ["variant", "ours ms", "x", "stock ms", "x", "FLOP ratio of these models",
         "published ms", "published x", "FLOP-bound x"],
        rows,
    )  # fmt: skip


def _published(name: str) -> list[str]:
    if name not in PUBLISHED_MS:
        return ["-"] * 3
    total_ms = PUBLISHED_MS[name]
    ratio = PUBLISHED_MS["original"] / total_ms
    return [f"{total_ms:.1f}", f"{ratio:.2f}", f"{FLOP_BOUND[name]:.2f}"]


def _against_stock(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            str(batch),
            _ms(cell["ours_s"]),
            _ms(cell["stock_s"]),
            spread(cell["speed_against_stock"]),
            f"{cell['images_per_s']:.2f}",
            f"{cell['peak_share']:.1%}",
            f"{cell['parity']:.3f}",
            spread(cell["deterministic_speed"]),
        ]
        for name, costs in result["variants"].items()
        for batch, cell in costs["batches"].items()
    ]
    return table(
        "## Against stock\n\nOne request to our engine against one call of "
        f"`StableDiffusionPipeline`, {result['rounds']} rounds. *Parity* is the pictures' mean "
        "difference in 8-bit values. Where there are more images than slots, the others wait for "
        "one. *Deterministic* is ours with calls of one image each, against ours.",
        ["variant", "images", "ours ms", "stock ms", "ours against stock", "images/s",
         "of matmul peak", "parity", "deterministic"],
        rows,
    )  # fmt: skip


def _stages(result: dict[str, Any]) -> str:
    rows = []
    for name, costs in result["variants"].items():
        stages = costs["stages"]
        steps = " / ".join(f"{1000 * one['median']:.1f}" for one in stages["step_s"].values())
        rows.append(
            [
                name,
                _ms(stages["begin_s"]),
                steps,
                _ms(stages["decode_s"]),
                _ms(stages["encode_png_s"]),
                f"{costs['flop_per_picture'] / 1e9:.1f}",
                f"{costs['peak_memory_bytes'] / 2**30:.2f}",
                f"{costs['load_s']:.2f}",
                f"{costs['first_picture_s']:.2f}",
            ]
        )
    batches = " / ".join(map(str, next(iter(result["variants"].values()))["stages"]["step_s"]))
    memory = (
        "of the process so far"
        if result["device"].startswith("CPU")
        else "of the variant's tensors"
    )
    return table(
        f"Stages, ms; *step* is one UNet call with {batches} images and their schedulers, *decode* "
        f"and *PNG* are one image. Peak memory {memory}; load and first picture in seconds of "
        "wall time.",
        ["variant", "prompt and noise", "step", "decode", "PNG", "GFLOP a picture",
         "peak GiB", "load s", "first picture s"],
        rows,
    )  # fmt: skip


def _architecture(result: dict[str, Any]) -> str:
    if "architecture" not in result:
        return ""
    rows = [
        [name, "x".join(map(str, one["picture"])), str(one["finite"]),
         f"{one['load_step_decode_s']:.0f}"]
        for name, one in result["architecture"].items()
    ]  # fmt: skip
    return table(
        "The full-size models load, make one step and decode (how fast is no finding here).",
        ["variant", "picture", "finite", "seconds in all"],
        rows,
    )


def _profiles(result: dict[str, Any]) -> str:
    """Only where a bar is missed: where a step's time goes."""
    tables = [
        table(
            f"One step of {one['batch']} image(s), `{one['variant']}`: {one['step_ms']:.1f} ms"
            + (f", the GPU busy for {one['busy']:.0%} of them" if "busy" in one else "")
            + " under torch's profiler.",
            ["operator", "share of the step", "calls"],
            [
                [f"`{it['name'][:60]}`", f"{it['share']:.1%}", f"{it['calls']:.0f}"]
                for it in one["operators"]
            ],
        )
        for one in result.get("profiles", ())
    ]
    return "\n\n".join(["## Where a step's time goes", *tables]) if tables else ""


def _not_run(result: dict[str, Any]) -> str:
    if not result["not_run"]:
        return ""
    return "## Not run\n\n" + "\n".join(f"- {one}." for one in result["not_run"])


def _ms(spread: dict[str, float]) -> str:
    low, high = 1000 * spread["low"], 1000 * spread["high"]
    digits = 0 if spread["median"] >= 1 else 1
    return f"{1000 * spread['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
