"""The findings in words: what to pay for, and what each variant gives for it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..replies import AUTO
from .auto import AutoRate
from .costs import Costs, cheapest
from .findings import Comparison, VariantFindings
from .frontier import DECIDING_PICTURES, Frontier
from .quality import Similarity
from .ratios import Ratio


def verdict(
    found: Mapping[str, VariantFindings],
    comparisons: Sequence[Comparison],
    costs: Mapping[str, Costs],
    similar: Mapping[str, Similarity],
    slo_s: float | None,
    peak_bytes: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """Sentences, the most important first; what is not decided says so."""
    if not costs:
        return ["Nothing is decided: no throughput was measured."]
    # One variant alone is no choice.
    words = [_cheapest(found, costs, similar, slo_s)] if len(costs) > 1 else []
    for name, figures in found.items():
        if name in costs:
            parts = _of_variant(name, figures, comparisons, costs[name], similar, slo_s)
            if name in peak_bytes:
                parts.append(f"peak memory {peak_bytes[name] / 2**30:.2f} GiB a replica")
            words.append(f"`{name}`: {'; '.join(parts)}.")
    return words


def of_auto(rates: Sequence[AutoRate], slo_s: float | None) -> list[str]:
    """What `auto` brought at the highest rate that was offered to others, too; one sentence."""
    shared = [rate for rate in rates if AUTO in rate.contenders and len(rate.contenders) > 1]
    if not shared or slo_s is None:
        return []
    rate = shared[-1]
    ours = rate.contenders[AUTO].goodput_per_s
    parts = [
        f"{other.goodput_per_s.median:.2f} of `{name}` ({rate.outcome(name)})"
        for name, other in rate.contenders.items()
        if name != AUTO
    ]
    drawn = ", ".join(f"`{name}` {rate.share(name):.0%}" for name in rate.answers)
    return [
        f"`auto` at {rate.rate_per_s:.2f}/s: {ours.median:.2f} pictures/s within {slo_s:.2f} s, "
        f"against {', '.join(parts)}; drawn by {drawn or 'none'}."
    ]


def of_frontier(frontier: Frontier | None) -> list[str]:
    """Which setting to take, what it costs and how good its pictures are; one sentence."""
    if frontier is None:
        return []
    if frontier.measure is None:
        cheapest = frontier.points[0]
        return [
            f"{cheapest.setting} costs {cheapest.cost:.2f} of {frontier.base}; what the frontier's "
            "pictures are worth is not known."
        ]
    best = frontier.point(frontier.reference)
    if frontier.recommended is None:
        if best.device_s.count < DECIDING_PICTURES:
            why = f"it takes {DECIDING_PICTURES} pictures a setting"
        else:
            why = (
                f"the pictures of its reference, {best.setting}, are too poor to measure others by"
            )
        return [f"The frontier recommends nothing: {why}."]
    point = frontier.point(frontier.recommended)
    words = (
        f"{point.setting} costs {point.cost:.2f} of {frontier.base}: the cheapest on the frontier "
        f"within {frontier.tolerance:.2g} of the reference, {frontier.reference} "
        f"({frontier.measure} {point.quality:.2f} against {best.quality:.2f}"
    )
    if point.similar is not None and frontier.measure != "SSIM":
        words += f"; SSIM {point.similar.ssim:.2f}"
    return [f"{words}; {point.device_s.count} pictures)."]


def _cheapest(
    found: Mapping[str, VariantFindings],
    costs: Mapping[str, Costs],
    similar: Mapping[str, Similarity],
    slo_s: float | None,
) -> str:
    """The variant with the lowest cost a picture, its ties, and how alike its pictures are."""
    least = cheapest(costs)
    both = [(found[name], cost) for name, cost in costs.items()]
    if least.by == "at_slo":
        words = f"Most pictures for the money with p95 <= {slo_s:.2f} s"
    else:
        why = "which variant it is within the SLO is not decided"
        if all(figures.carried.missed_per_s and not cost.at_slo for figures, cost in both):
            why = f"no variant met p95 <= {slo_s:.2f} s at any rate tried"
        words = f"Most pictures for the money at saturation, as in batch jobs ({why})"
    equals = sorted(least.variants, key=list(costs).index)
    if len(equals) == 1:
        words += f": `{equals[0]}`"
        if equals[0] in similar:
            ssim = similar[equals[0]].ssim
            words += f", if its pictures are good enough (SSIM {ssim:.2f}; look at them below)"
        return f"{words}."
    names = " and ".join(f"`{name}`" for name in equals)
    words += f": {names}, which this run could not tell apart"
    if set(equals) <= set(similar):
        likest = max(equals, key=lambda name: similar[name].ssim)
        reference = next(iter(found))
        words += f"; `{likest}` stays closer to `{reference}` (SSIM {similar[likest].ssim:.2f})"
    return f"{words}."


def _of_variant(
    name: str,
    figures: VariantFindings,
    comparisons: Sequence[Comparison],
    cost: Costs,
    similar: Mapping[str, Similarity],
    slo_s: float | None,
) -> list[str]:
    parts = [_within_slo(figures, cost, slo_s)]
    if cost.at_slo is not None and cost.at_slo.per_1000 is not None:
        parts.append(f"1,000 cost {cost.at_slo.per_1000:.3g}")
    against = [comparison for comparison in comparisons if comparison.variant == name]
    parts += [
        f"{comparison.carried_ratio:.1f}x the rate of `{comparison.against}`"
        for comparison in against
        if comparison.carried in ("better", "worse") and comparison.carried_ratio
    ]
    parts.append(
        f"{cost.at_saturation.images_per_device_hour:,.0f} images per device-hour at saturation"
    )
    parts += [
        _throughput(comparison.throughput, comparison.against)
        for comparison in against
        if comparison.throughput is not None
    ]
    if figures.single_s is not None:
        parts.append(f"one picture in {figures.single_s.median:.2f} s")
    if name in similar:
        like = similar[name]
        parts.append(
            f"SSIM {like.ssim:.2f}, PSNR {like.psnr_db:.1f} dB to the reference's pictures"
        )
    return parts


def _throughput(ratio: Ratio, against: str) -> str:
    if ratio.outcome == "tie":
        return f"throughput a tie with `{against}`'s ({ratio.interval()}x)"
    interval = ratio.interval() or "one round: not decided"
    return f"{ratio.value:.2f}x `{against}`'s throughput ({interval})"


def _within_slo(figures: VariantFindings, cost: Costs, slo_s: float | None) -> str:
    met, missed = figures.carried.met_per_s, figures.carried.missed_per_s
    if slo_s is None or (met is None and missed is None):
        return "what it carries within the SLO is not decided"
    limit = f"p95 <= {slo_s:.2f} s"
    if cost.at_slo is None:
        return f"missed {limit} at {missed:.2f}/s, the lowest rate tried"
    words = f"{cost.at_slo.images_per_device_hour:,.0f} images per device-hour with {limit}"
    if figures.carried.at_capacity:
        return f"{words} ({met:.2f}/s, all that it draws)"
    if missed is None:
        return f"at least {words} ({met:.2f}/s, the highest rate tried)"
    return f"{words} ({met:.2f}/s; missed at {missed:.2f}/s)"
