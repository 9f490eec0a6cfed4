"""A benchmark's result as text: tables for people, in Markdown."""

from typing import Any

from ..markdown import table
from ..published import FLOP_BOUND, PUBLISHED_MS

# On a CPU ours may not be slower than stock by more than this; measurements there scatter by 2 %.
CPU_BAR = 0.97


def bars_missed(result: dict[str, Any]) -> list[str]:
    """On a CPU: every variant and batch at which ours is slower than stock beyond the bar."""
    if not result["device"].startswith("CPU"):
        return []
    return [
        f"{name}, batch {batch}: {cell['speed_against_stock']['median']:.3f}x stock"
        for name, costs in result["variants"].items()
        for batch, cell in costs["batches"].items()
        if cell["speed_against_stock"]["median"] < CPU_BAR
    ]


def render(result: dict[str, Any]) -> str:
    """The report, ending in a line break."""
    sections = [
        _head(result),
        _seed_workload(result),
        _against_stock(result),
        _stages(result),
        _architecture(result),
        _closing(result),
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
            f"# Pipelines: `{result['family']}` on {result['device']}",
            "",
            f"- Commit {result['commit']}; Python {result['python']}, torch {result['torch']}, "
            f"diffusers {result['diffusers']}, transformers {result['transformers']}.",
            f"- {weights}, {result['dtype']}, {size}x{size}, {result['steps']} steps PNDM "
            f"({result['steps'] + 1} UNet calls), guidance {result['guidance_scale']:g}, eager.",
            f"- Times: {result['clock']}; median (lowest to highest), "
            "contenders in turn within a round, ratios taken within rounds.",
            f"- Matmul peak measured here: {result['matmul_flop_per_s'] / 1e12:.3g} TFLOP/s.",
            f"- Regime: {regime(result)}.",
        ]
    )


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
                _ratio(ways["ours"]["speed_against_original"]),
                _ms(ways["stock"]["total_s"]),
                _ratio(ways["stock"]["speed_against_original"]),
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
            _ratio(cell["speed_against_stock"]),
            f"{cell['images_per_s']:.2f}",
            f"{cell['peak_share']:.1%}",
            f"{cell['parity']:.3f}",
        ]
        for name, costs in result["variants"].items()
        for batch, cell in costs["batches"].items()
    ]
    return table(
        f"Ours against stock `StableDiffusionPipeline`, one call, {result['rounds']} rounds; "
        "*parity* is the pictures' mean difference in 8-bit values.",
        ["variant", "images", "ours ms", "stock ms", "ours against stock", "images/s",
         "of matmul peak", "parity"],
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


def _closing(result: dict[str, Any]) -> str:
    lines = []
    if result["device"].startswith("CPU"):
        missed = result["bars_missed"]
        told = "; ".join(missed) if missed else "met by every variant and batch"
        lines.append(f"Bar, ours at least {CPU_BAR}x stock: {told}.")
    if result["not_run"]:
        lines.append("Not run: " + "; ".join(result["not_run"]) + ".")
    return "\n\n".join(lines)


def _ms(spread: dict[str, float]) -> str:
    low, high = 1000 * spread["low"], 1000 * spread["high"]
    digits = 0 if spread["median"] >= 1 else 1
    return f"{1000 * spread['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _ratio(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"
