"""The engine under load as text: policies, what goes on beside the steps, the simulation."""

from typing import Any

from ..markdown import table
from .extrapolation import H200_BEFORE_CUTS, H200_BEFORE_MS
from .policies import POLICIES

# Percentiles from fewer latencies hang on one or two of them.
_DECIDED = {95: 100, 99: 500}


def policies(result: dict[str, Any]) -> str:
    """Saturation, and latencies under the same arrivals."""
    found = result["policies"]
    decoding = "beside the steps" if found["decode_beside"] else "between the steps"
    intro = (
        f"## Policies, `{found['variant']}`\n\n"
        f"The engine by wall clock: {found['cap']} slots (`serial`: one request at a time), "
        f"pictures decoded {decoding}, one-image requests. Mixed steps are 10, 25 and 50, as many "
        "of each; uniform ones 25. Loads are shares of what `batch` draws from a full queue. "
        f"{found['repeats']} repeats, each with Poisson arrivals of its own that all policies get, "
        "in turn; a repeat begins idle. In `batch` an image leaves as soon as it is done, "
        "so its slot is empty until the batch is through."
    )
    return "\n\n".join([intro, _saturation(found), _latencies(found)])


def _saturation(found: dict[str, Any]) -> str:
    rows = [
        [
            mix,
            *(spread(one["images_per_s"][policy]) for policy in POLICIES),
            spread(one["step_against_batch"]),
        ]
        for mix, one in found["saturation"].items()
    ]
    return table(
        "Images/s from a queue that is always full; median (lowest to highest).",
        ["steps", *(f"`{policy}`" for policy in POLICIES), "`step` / `batch`"],
        rows,
    )


def _latencies(found: dict[str, Any]) -> str:
    rows = []
    for cell in found["cells"]:
        where = [cell["mix"], f"{cell['load']:.0%} ({cell['rate_per_s']:.2f}/s)"]
        for policy, one in cell["policies"].items():
            ratio = cell["mean_against_batch"].get(policy)
            rows.append(
                [
                    *where,
                    f"`{policy}`",
                    spread(one["mean_s"]),
                    f"{one['p50_s']:.2f}",
                    *(percentile(one, percent) for percent in (95, 99)),
                    f"{one['images_per_s']['median']:.2f}",
                    f"{one['calls_against_sweep']['median']:.2f}",
                    "1" if ratio is None else spread(ratio),
                ]
            )
        rows += [
            [*where, f"`{policy}`", f"not run: {why}", *["-"] * 6]
            for policy, why in cell["left_out"].items()
        ]
    return table(
        "Latency from the instant a request is due to its last picture, s: mean (lowest to highest "
        "repeat), percentiles of all repeats together (in brackets where they hang on a few "
        "latencies: under 100 for p95, under 500 for p99), and the mean as a share of `batch`'s, "
        "median of the repeats. *Calls*: how long UNet calls took, in what they take undisturbed.",
        ["steps", "load", "policy", "mean", "p50", "p95", "p99", "images/s", "calls",
         "mean / `batch`"],
        rows,
    )  # fmt: skip


def forecast(result: dict[str, Any]) -> str:
    """How long requests took, in forecasts of it."""
    rows = [
        [
            one["mix"],
            f"{one['load']:.0%}",
            str(one["requests"]),
            *(f"{one[f'p{percent}']:.2f}" for percent in (10, 50, 90)),
            f"{one['worst']:.2f}",
            f"{one['mean_error_s']:.2f}",
        ]
        for one in result["forecast"]
    ]
    return "## Forecast\n\n" + table(
        "What the engine holds a deadline against, made when a request is submitted: real over "
        "forecast time, policy `step`. Who comes later shares the device, so it can only grow.",
        ["steps", "load", "requests", "p10", "median", "p90", "worst", "mean error, s"],
        rows,
    )


def beside(result: dict[str, Any]) -> str:
    """Decoding, previews, cancels."""
    return "\n\n".join(
        ["## Beside the steps", _decoding(result), _previews(result), _cancels(result)]
    )


def _decoding(result: dict[str, Any]) -> str:
    found = result["decoding"]
    rows = [
        [
            "throughput, images/s",
            *(spread(found["images_per_s"][way]) for way in ("beside", "between")),
            spread(found["throughput_ratio"]),
        ],
        [
            f"mean latency at {found['rate_per_s']:.2f} requests/s, s",
            *(spread(found["mean_s"][way]) for way in ("beside", "between")),
            spread(found["mean_ratio"]),
        ],
    ]
    return table(
        f"Decoding on a thread of its own, `{found['variant']}`, {found['cap']} slots, 25 steps, "
        f"{found['requests']} requests a repeat; ratios within repeats.",
        ["", "beside the steps", "between the steps", "beside / between"],
        rows,
    )


def _previews(result: dict[str, Any]) -> str:
    found = result["previews"]
    if not found:
        return "Previews: not run, the variant has no VAE for them."
    rows = [
        [
            f"{way} ({one['previews']})",
            f"{one['shown']:.1f}",
            f"{one['skipped']:.1f}",
            f"{1000 * one['preview_s']['median']:.1f}",
            spread(one["others_mean_ratio"]),
            spread(one["work_ratio"]),
        ]
        for way, one in found["ways"].items()
    ]
    return table(
        f"Previews of one request of 50 steps, `{found['variant']}`, with {found['others']} of 25 "
        f"steps beside it, {found['rounds']} rounds, against the same without previews. *Skipped* "
        "were those that would have cost the others more than 5 %; *work* is all that the process "
        f"did, in {result['clock']}, the requests' own part included.",
        ["previews asked", "shown", "skipped", "ms each", "others' mean latency", "work"],
        rows,
    )


def _cancels(result: dict[str, Any]) -> str:
    found = result["cancels"]
    return (
        f"Cancels, `{found['variant']}`, {found['cap']} slots kept full: {found['cancels']} "
        f"requests cancelled at random moments of their first ten steps, {found['under_way']} of "
        f"them under way. UNet calls that held the image and were running when it was cancelled: "
        f"{_counts(found['in_flight'])}; that began afterwards: {_counts(found['begun_after'])}. "
        f"At most {found['most']} in all."
    )


def _counts(histogram: dict[str, int]) -> str:
    return ", ".join(f"{many} for {requests}" for many, requests in histogram.items())


def simulation(result: dict[str, Any]) -> str:
    """The simulation held to what was measured, and then by itself."""
    found = result["simulation"]
    call_ms = " / ".join(f"{1000 * one:.1f}" for one in found["device"]["call_s"].values())
    sizes = " / ".join(map(str, found["device"]["call_s"]))
    intro = (
        "## Simulated\n\n"
        "The engine's own rules (`serve.engine.slots`) with a virtual clock. Here it is fed with "
        f"what the calls above took on average, {call_ms} ms for {sizes} images, "
        f"{1000 * found['device']['begin_s']:.1f} ms to begin a request and "
        f"{1000 * found['device']['decode_s']:.1f} ms to decode a picture; elsewhere with modelled "
        "times that know of neither."
    )
    return "\n\n".join(
        [
            intro,
            _against_measured(found),
            _simulated([found["here"]], ("mixed", "uniform")),
            _simulated(found["elsewhere"], ("mixed",)),
            _before(found),
        ]
    )


def _against_measured(found: dict[str, Any]) -> str:
    rows = [
        [
            one["mix"],
            f"{one['load']:.0%}",
            f"`{one['policy']}`",
            f"{one['measured_s']:.2f}",
            f"{one['simulated_s']:.2f}",
            f"{one['ratio']:.2f}" + ("" if one["within"] else ", outside"),
        ]
        for one in found["against_measured"]
    ]
    return table(
        "Simulated against measured means over the same arrivals, s. Tolerance: "
        f"{found['tolerance']:.0%}.",
        ["steps", "load", "policy", "measured", "simulated", "ratio"],
        rows,
    )


def _simulated(tables: list[dict[str, Any]], mixes: tuple[str, ...]) -> str:
    rows = []
    for one, row in ((device, row) for device in tables for row in device["rows"]):
        figures = row["policies"]
        if one["cap"] == 1 or row["mix"] not in mixes:
            continue
        step_s = figures["step"]["mean_s"]
        rows.append(
            [
                f"{one['name']}, {one['cap']} slots",
                row["mix"],
                f"{row['load']:.0%}",
                *(
                    f"{figures[policy]['mean_s']:.2f} / {figures[policy]['p95_s']:.2f}"
                    if policy in figures
                    else "too much"
                    for policy in ("serial", "together", "batch", "step")
                ),
                f"{1 - step_s / figures['batch']['mean_s']:.0%}",
                f"{1 - step_s / figures['together']['mean_s']:.0%}",
            ]
        )
    single = "".join(
        f" The sweep's rule gives {one['name']} one slot: there all policies are the same."
        for one in tables
        if one["cap"] == 1
    )
    full = "; ".join(
        f"{one['name']}, {mix} "
        + " / ".join(f"{one['saturation'][mix][policy]:.2f}" for policy in POLICIES)
        for one in tables
        for mix in mixes
    )
    return table(
        f"Simulated: about {tables[0]['requests']} Poisson arrivals a row, mean / p95 in s. "
        "*Together*: as `batch`, but no picture is handed out before its batch is through, as a "
        "server has it that calls a pipeline. *Too much*: beyond 95 % of what it can serve. "
        f"Images/s from a full queue, serial / batch / step: {full}.{single}",
        ["device", "steps", "load", "serial", "together", "batch", "step",
         "step cuts batch's mean", "and together's"],
        rows,
    )  # fmt: skip


def _before(found: dict[str, Any]) -> str:
    """The modelled H200 beside an independent simulation."""
    h200 = next(one for one in found["elsewhere"] if one["name"] == "H200")
    rows = []
    for row in h200["rows"]:
        figures = row["policies"]
        if row["mix"] == "uniform":
            rows += [
                [
                    f"uniform, {row['load']:.0%}",
                    f"`{policy}`: mean / p95, ms",
                    " / ".join(map(str, before[row["load"]])),
                    f"{1000 * figures[policy]['mean_s']:.0f} / "
                    f"{1000 * figures[policy]['p95_s']:.0f}",
                ]
                for policy, before in H200_BEFORE_MS.items()
                if row["load"] in before and policy in figures
            ]
        elif row["load"] in H200_BEFORE_CUTS:
            cut = 1 - figures["step"]["mean_s"] / figures["together"]["mean_s"]
            rows.append(
                [
                    f"mixed, {row['load']:.0%}",
                    "how far `step` cuts *together*",
                    f"{H200_BEFORE_CUTS[row['load']]} %",
                    f"{cut:.0%}".replace("%", " %"),
                ]
            )
    return table(
        "Simulated: the modelled H200 beside an independent simulation that came before this "
        "engine. Its call times are derived from that simulation's column for one at a time.",
        ["steps, load", "figure", "before", "here"],
        rows,
    )


def percentile(figures: dict[str, Any], percent: int) -> str:
    """In brackets where it hangs on a few latencies."""
    shown = f"{figures[f'p{percent}_s']:.2f}"
    return shown if figures["requests"] >= _DECIDED[percent] else f"({shown})"


def spread(one: dict[str, float]) -> str:
    """Median, lowest and highest."""
    return f"{one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
