"""A report's charts as SVG text, drawn by matplotlib."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..replies import AUTO
from ..rounds import Spread
from .auto import AutoRate
from .costs import Costs
from .findings import VariantFindings
from .frontier import Frontier

# Okabe and Ito's palette, which colour-blind people can tell apart, too.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_AUTO_COLOUR = "#333333"
_MARKERS = ("o", "^", "s", "D", "v", "P")
# Labels of an axis of costs, which doubles rather than adds.
_COSTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# Narrow, so that the letters stay readable on a phone.
_SIZE_INCHES = (5.2, 3.6)


def latency_curves(found: Mapping[str, VariantFindings], slo_s: float | None) -> str:
    """p95 (solid lines) and p50 (dashed lines) against the offered rate.

    A hollow triangle on the SLO is a rate that had certainly missed it before its p95 was decided.
    """
    figure, axes = _axes("offered requests a second (open loop)", "seconds")
    for name, colour in zip(found, _COLOURS, strict=False):
        rungs = found[name].rungs
        half = [(rung.rate_per_s, rung.p50_s) for rung in rungs if rung.p50_s is not None]
        axes.plot(*_columns(half), "--.", color=colour, linewidth=1, markersize=4)
        most = [(rung.rate_per_s, rung.p95_s) for rung in rungs if rung.p95_s is not None]
        axes.plot(*_columns(most), "-o", color=colour, label=name)
        cut = [rung for rung in rungs if rung.p95_s is None and rung.slo == "missed"]
        if cut and slo_s is not None:
            axes.plot([rung.rate_per_s for rung in cut], [slo_s] * len(cut), "^", color=colour,
                      markerfacecolor="white", markersize=8)  # fmt: skip
    if slo_s is not None:
        axes.axhline(slo_s, color="#555", linewidth=1, linestyle=":")
        axes.annotate(
            "SLO", (1, slo_s), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    axes.set_ylim(bottom=0)
    _legend_above(figure)
    return _svg(figure)


def cost_bars(costs: Mapping[str, Costs]) -> str:
    """What an image costs within the SLO, beside the same at saturation; in money with a price.

    Whiskers reach down to the rate that missed the SLO, and over the rounds.
    """
    priced = all(cost.at_saturation.per_1000 is not None for cost in costs.values())
    figure, axes = _axes("", "cost of 1,000 images" if priced else "device-seconds an image")
    beside: dict[str, Any] = {"alpha": 0.5, "hatch": "//"}
    for index, (name, colour) in enumerate(zip(costs, _COLOURS, strict=False)):
        for place, cost, style in (
            (index - 0.2, costs[name].at_slo, {}),
            (index + 0.2, costs[name].at_saturation, beside),
        ):
            words = "not decided"
            if cost is not None:
                value, rate = cost.per_1000 or cost.device_s_per_image, cost.images_per_s
                # Quotients first: where they are 1, rounding must not reach past the bar.
                ends = value * (rate.median / rate.high), value * (rate.median / rate.low)
                spread = {place: Spread(value, *ends, 1)}
                _bars(axes, spread, 0.38, color=colour, capsize=3, **style)
                words = f"{value:.3g}"
            looks = {"color": "black" if style else "white"} if cost else {"rotation": 90}
            axes.annotate(words, (place, 0), (0, 3), textcoords="offset points", ha="center",
                          **looks)  # fmt: skip
    axes.set_xticks(range(len(costs)), list(costs))
    axes.bar(0, 0, color="#777", label="within the SLO")
    axes.bar(0, 0, color="#777", label="at saturation (batch jobs)", **beside)
    _legend_above(figure)
    return _svg(figure)


def auto_shares(rates: Sequence[AutoRate], variants: Sequence[str]) -> str:
    """One bar a rate, of the variants' shares of `auto`'s pictures."""
    figure, axes = _axes("offered requests a second", "share of auto's pictures")
    bottoms = [0.0] * len(rates)
    for name, colour in zip(variants, _COLOURS, strict=False):
        shares = [rate.share(name) for rate in rates]
        axes.bar(range(len(rates)), shares, 0.6, bottom=bottoms, color=colour, label=name)
        for place, (share, bottom) in enumerate(zip(shares, bottoms, strict=True)):
            if share > 0.05:
                axes.annotate(f"{share:.0%}", (place, bottom + share / 2), ha="center",
                              va="center", color="white")  # fmt: skip
        bottoms = [bottom + share for bottom, share in zip(bottoms, shares, strict=True)]
    axes.set_xticks(range(len(rates)), [f"{rate.rate_per_s:.2f}" for rate in rates])
    axes.set_ylim(0, 1)
    _legend_above(figure)
    return _svg(figure)


def auto_goodput(rates: Sequence[AutoRate], variants: Sequence[str]) -> str:
    """A group of bars a rate: `auto` and each pinned variant, with what was offered as a line."""
    figure, axes = _axes("offered requests a second", "pictures a second within the SLO")
    names = [AUTO, *variants]
    width = 0.8 / len(names)
    for place, (name, colour) in enumerate(zip(names, (_AUTO_COLOUR, *_COLOURS), strict=False)):
        left = (place - (len(names) - 1) / 2) * width
        found = {
            index + left: rate.contenders[name].goodput_per_s.spread
            for index, rate in enumerate(rates)
            if name in rate.contenders
        }
        _bars(axes, found, width, color=colour, capsize=2, label=name)
    for index, rate in enumerate(rates):
        axes.plot([index - 0.45, index + 0.45], [rate.rate_per_s] * 2, ":", color="#555")
    axes.set_xticks(range(len(rates)), [f"{rate.rate_per_s:.2f}" for rate in rates])
    axes.set_ylim(bottom=0)
    _legend_above(figure)
    return _svg(figure)


def frontier(found: Frontier, variants: Sequence[str]) -> str:
    """Quality against cost: a colour a variant, a marker a scheduler; the Pareto line through them.

    Numbers along the line are steps; the recommended setting is ringed.
    """
    figure, axes = _axes(f"cost ({found.base} is 1)".replace("`", ""), str(found.measure))
    colours = dict(zip(variants, itertools.cycle(_COLOURS), strict=False))
    schedulers = dict.fromkeys(point.setting.scheduler for point in found.points)
    markers = dict(zip(schedulers, itertools.cycle(_MARKERS), strict=False))
    judged = [(p, p.cost, p.quality) for p in found.points if p.quality is not None]
    line = [(cost, quality) for point, cost, quality in judged if point.dominated_by is None]
    axes.plot(*_columns(line), color="#777", linewidth=1, zorder=1)
    for point, cost, quality in judged:
        axes.plot(cost, quality, markers[point.setting.scheduler], markersize=6, alpha=0.8,
                  color=colours[point.setting.variant])  # fmt: skip
        if point.dominated_by is None:
            axes.annotate(str(point.setting.steps), (cost, quality), (-3, 4), ha="right",
                          textcoords="offset points", fontsize="small")  # fmt: skip
        if point.setting == found.recommended:
            axes.plot(cost, quality, "o", markersize=14, color="#333", fillstyle="none")
    axes.set_xscale("log")
    axes.margins(0.08)
    ticks = [cost for cost in _COSTS if judged[0][1] / 1.5 < cost < judged[-1][1] * 1.5]
    axes.set_xticks(ticks, [f"{cost:g}" for cost in ticks])
    axes.minorticks_off()
    for name in variants:
        axes.plot([], [], "s", color=colours[name], label=name)
    for name, marker in markers.items():
        axes.plot([], [], marker, color="#777", label=name)
    _legend_above(figure)
    return _svg(figure)


def histograms(latencies_s: Mapping[str, Sequence[float]], below: str) -> str:
    """Latencies by variant, over shared bins."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    rows = [name for name in latencies_s if latencies_s[name]]
    longest = max((max(latencies_s[name]) for name in rows), default=1.0)
    panels = figure.subplots(max(1, len(rows)), 1, sharex=True, squeeze=False)[:, 0]
    bins = [longest * edge / 30 for edge in range(31)]
    for axes, name, colour in zip(panels, rows, _COLOURS, strict=False):
        axes.hist(latencies_s[name], bins=bins, color=colour, label=name)
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(below)
    return _svg(figure)


def _bars(axes: Axes, spreads: Mapping[float, Spread], width: float, **style: Any) -> None:
    """Medians, with whiskers from the lowest to the highest."""
    middles = [spread.median for spread in spreads.values()]
    reach = [
        [spread.median - spread.low for spread in spreads.values()],
        [spread.high - spread.median for spread in spreads.values()],
    ]
    axes.bar(list(spreads), middles, width, yerr=reach, **style)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _axes(below: str, beside: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_above(figure: Figure) -> None:
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")


def _svg(figure: Figure) -> str:
    """Only the element, without XML's head; text stays text, and the same data the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
