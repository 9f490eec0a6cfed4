"""A comparison's tables: captions, heads and rows of words, the same for Markdown and HTML."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ..markdown import number, table
from ..published import PROMPT, published_cells
from ..replies import AUTO
from .auto import AutoRate, Contender
from .conclusion import Conclusion
from .costs import Cost
from .findings import ClosedLevel, Comparison
from .frontier_table import frontier_cells
from .quality import PUBLISHED_QUALITY, Similarity
from .rungs import Rung

_UNDECIDED = "not decided"
_seconds = partial(number, unknown=_UNDECIDED)


@dataclass(frozen=True)
class Table:
    """One section of a report."""

    title: str
    caption: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Caption and table."""
        return table(self.caption, self.head, self.rows)


def tables(conclusion: Conclusion) -> list[Table]:
    """In reading order; those without rows are left out."""
    sections = (
        _costs, _differences, _seed_workload, _closed_loop, _open_loop, _auto_shares,
        _auto_goodput, _quality, _frontier, _plan, _gate,
    )  # fmt: skip
    return [table for section in sections if (table := section(conclusion)).rows]


def _costs(conclusion: Conclusion) -> Table:
    setup, found = conclusion.setup, conclusion.found
    an_hour = "not given (`--price-per-hour`)"
    if setup.price_per_hour is not None:
        an_hour = f"{setup.price_per_hour:g} a device-hour"
    peaks = conclusion.endpoint.peak_memory_bytes
    own = {
        name: [f"{cost.devices:g}", f"{peaks[name] / 2**30:.2f}" if name in peaks else "-"]
        for name, cost in conclusion.costs.items()
    }
    rows = []
    for name, cost in conclusion.costs.items():
        carried = found[name].carried
        beyond = f" (missed at {carried.missed_per_s:.2f}/s)" if carried.missed_per_s else ""
        beyond = " (all that it draws)" if carried.at_capacity else beyond
        rows.append(["within the SLO", name, *_cost(cost.at_slo, beyond), *own[name]])
    for name, cost in conclusion.costs.items():
        best = found[name].best
        assert best is not None  # There is no cost without it.
        spread = cost.at_saturation.images_per_s
        rounds = f" ({spread.low:.2f} to {spread.high:.2f}; users: {best.users})"
        rows.append(["at saturation", name, *_cost(cost.at_saturation, rounds), *own[name]])
    return Table(
        "What each variant costs",
        "*Within the SLO*: at the highest rate that met it, which is what an online service costs "
        "(the Server scenario of MLPerf). *At saturation*: at the highest throughput of the closed "
        f"loop, for batch jobs (Offline). A device is {setup.device}. Price: {an_hour}. *Peak "
        "GiB*: of one replica since its start: what torch reserved of a GPU's memory, else the "
        "process's main memory.",
        ["", "variant", "images/s", "device-seconds an image", "images a device-hour",
         "cost of 1,000", "devices", "peak GiB a replica"],
        rows,
    )  # fmt: skip


def _cost(cost: Cost | None, more: str) -> list[str]:
    if cost is None:
        return [f"{_UNDECIDED}{more}", "-", "-", "-"]
    return [f"{cost.images_per_s.median:.2f}{more}", f"{cost.device_s_per_image:.3f}",
            f"{cost.images_per_device_hour:,.0f}", number(cost.per_1000, ".3g")]  # fmt: skip


def _differences(conclusion: Conclusion) -> Table:
    rows = [
        [comparison.variant, comparison.against, *row]
        for comparison in conclusion.comparisons
        for row in _difference_rows(comparison)
    ]
    rounds = {run.round for run in conclusion.record.runs if run.section == "closed loop"}
    return Table(
        "What is decided",
        "Over 1 is better, for all of a variant's replicas. Ratios are taken within rounds "
        f"({len(rounds)} of {conclusion.design.rounds} were run); the interval is their mean's, "
        "95 % by Student's t. *Noise floor*: a smaller difference is a tie. For the rate within "
        "the SLO a difference is decided where one variant met a rate 15 % above one that the "
        "other has missed.",
        ["variant", "against", "what", "ratio", "95 % interval", "noise floor", "outcome"],
        rows,
    )


def _difference_rows(comparison: Comparison) -> Iterator[list[str]]:
    ratios = {
        "throughput": comparison.throughput,
        "one picture's time": comparison.single,
        "seed workload": comparison.seed_workload,
    }
    for what, ratio in ratios.items():
        if ratio is not None:
            interval = ratio.interval() or "one round"
            noise = number(ratio.noise, ".1%", _UNDECIDED)
            yield [what, f"{ratio.value:.2f}", interval, noise, ratio.outcome]
    carried = number(comparison.carried_ratio)
    yield ["rate within the SLO", carried, "-", "-", comparison.carried]


def _seed_workload(conclusion: Conclusion) -> Table:
    reference = conclusion.design.variants[0]
    against = {
        comparison.variant: comparison.seed_workload
        for comparison in conclusion.comparisons
        if comparison.against == reference
    }
    rows = []
    for name, figures in conclusion.found.items():
        if figures.seed_workload_s is None:
            continue
        ratio = against.get(name)
        own = "1" if ratio is None else f"{ratio.value:.2f} ({ratio.interval() or 'one round'})"
        rows.append(
            [name, figures.seed_workload_s.spread.text(1000, 0), own, *published_cells(name)]
        )
    return Table(
        "The seed workload",
        f'12 images of "{PROMPT}": one user, 3 calls of 4 images, '
        "25 steps (few-step variants 4); total ms over HTTP, median (lowest to highest), and "
        f"speed against `{reference}`. *Published*: fp16 at 512x512 without HTTP, no GPU named. "
        "*FLOP-bound*: calculated for the published architectures.",
        ["variant", "total ms", "x", "published ms", "published x", "FLOP-bound x"],
        rows,
    )


def _closed_loop(conclusion: Conclusion) -> Table:
    rows = [
        [name, str(level.users), level.images_per_s.spread.text(), f"{level.p50_s:.2f}",
         *_of_kinds(conclusion, level), _seconds(level.p95_s), str(level.requests),
         str(level.rejected), str(level.failed)]
        for name, figures in conclusion.found.items()
        for level in figures.closed
    ]  # fmt: skip
    return Table(
        "Closed loop",
        "So many users, each asking again when it has its picture. Throughput: median (lowest to "
        "highest) of the rounds. A p95 from fewer than 100 pictures is not decided.",
        ["variant", "users", "images/s", "p50 s", *_kinds(conclusion), "p95 s", "requests",
         "rejected", "failed"],
        rows,
    )  # fmt: skip


def _kinds(conclusion: Conclusion) -> list[str]:
    """Heads beside the p50 of all requests, where some were edits."""
    return ["generations' p50 s", "edits' p50 s"] if conclusion.design.workload.edits else []


def _of_kinds(conclusion: Conclusion, level: ClosedLevel | Rung) -> list[str]:
    found = map(number, (level.generations_p50_s, level.edits_p50_s))
    return list(found) if conclusion.design.workload.edits else []


def _open_loop(conclusion: Conclusion) -> Table:
    rows = []
    for name, figures in conclusion.found.items():
        for rung in figures.rungs:
            notes = [rung.void] if rung.void else []
            notes += ["the service was busy when it began"] if rung.busy_at_start else []
            rows.append(
                [name, f"{rung.rate_per_s:.2f}", f"{rung.achieved_per_s:.2f}", str(rung.requests),
                 _seconds(rung.p50_s), *_of_kinds(conclusion, rung), _seconds(rung.p95_s),
                 _seconds(rung.p99_s),
                 f"{rung.within_slo:.0%}", str(rung.rejected), str(rung.failed), str(rung.late),
                 "; ".join([rung.slo, *notes])]
            )  # fmt: skip
    design = conclusion.design
    slo = "not known" if conclusion.slo_s is None else f"p95 within {conclusion.slo_s:.2f} s"
    origin = "given"
    if design.slo_s is None:
        origin = f"{design.slo_factor:g} times one user's of `{design.variants[0]}`"
    return Table(
        "Open loop",
        f"Requests arrive at random at each rate, whatever has come back; latency counts from the "
        f"scheduled instant. SLO: {slo} ({origin}), at most "
        f"{design.most_rejected:.0%} rejected. A rate ends early once it has certainly "
        "missed the SLO; every run begins with an empty queue.",
        ["variant", "offered/s", "drawn/s", "requests", "p50 s", *_kinds(conclusion), "p95 s",
         "p99 s", "within SLO", "rejected", "failed", "late", "SLO"],
        rows,
    )  # fmt: skip


def _auto_shares(conclusion: Conclusion) -> Table:
    names = list(conclusion.found)
    rows = [
        [f"{rate.rate_per_s:.2f}", *(f"{rate.share(name):.0%}" for name in names), _reasons(rate),
         *_load(rate.contenders[AUTO])]
        for rate in conclusion.auto
        if AUTO in rate.contenders
    ]  # fmt: skip
    return Table(
        "Who drew for auto",
        "Shares of the pictures that `auto` brought at each offered rate, and why. It begins a run "
        "as degraded as its last one left it, and rates rise within a round. Every variant's "
        "replicas are there for `auto`; a pinned variant has only its own.",
        ["offered/s", *names, "reasons", "requests", "rejected", "failed", "p50 s", "within SLO"],
        rows,
    )


def _reasons(rate: AutoRate) -> str:
    return "; ".join(
        f"{name}: {reason} ({count})"
        for name, reasons in rate.answers.items()
        for reason, count in reasons.items()
    )


def _load(contender: Contender) -> list[str]:
    return [str(contender.requests), str(contender.rejected), str(contender.failed),
            _seconds(contender.p50_s), f"{contender.within_slo:.0%}"]  # fmt: skip


def _auto_goodput(conclusion: Conclusion) -> Table:
    rows = [
        [f"{rate.rate_per_s:.2f}", name, _goodput(rate.contenders.get(AUTO)), _goodput(contender),
         _gain(contender), "; ".join([rate.outcome(name), *([rate.void] if rate.void else [])]),
         *_load(contender)]
        for rate in conclusion.auto
        for name, contender in rate.contenders.items()
        if name != AUTO
    ]  # fmt: skip
    slo = "not known" if conclusion.auto_slo_s is None else f"{conclusion.auto_slo_s:.2f} s"
    return Table(
        "auto against each pinned variant",
        f"Pictures drawn within {slo} of their scheduled instant, a second: median (lowest to "
        "highest) of the rounds. In a round all get the same arrivals and requests at a rate, and "
        "nothing ends early. The gain is the mean over rounds of what `auto` brought more, 95 % by "
        "Student's t; fewer than three rounds decide nothing.",
        ["offered/s", "pinned", "auto's", "its own", "gain of auto", "auto is", "requests",
         "rejected", "failed", "p50 s", "within SLO"],
        rows,
    )  # fmt: skip


def _goodput(contender: Contender | None) -> str:
    return "-" if contender is None else contender.goodput_per_s.spread.text()


def _gain(contender: Contender) -> str:
    gain = contender.against
    if gain is None:
        return "-"
    return f"{gain.value:+.2f} ({gain.interval('+') or 'too few rounds'})"


def _quality(conclusion: Conclusion) -> Table:
    reference = conclusion.design.variants[0]
    rows = [
        [name, f"`{reference}`, same prompts and seeds", *_similarity(similarity)]
        for name, similarity in conclusion.similar.items()
    ]
    rows += [
        [f"{name}'s VAE", f"`{kl}`'s VAE, identical latents", *_similarity(similarity)]
        for (kl, name), similarity in conclusion.vaes.items()
    ]
    rows += [
        [name, "CLIP score (cosine) with its prompts", f"{score:.4f}", "-", "-"]
        for name, score in conclusion.clip.items()
    ]
    published = "; ".join(
        f"`{name}` {fid} / {score} / {clip}"
        for name, (fid, score, clip) in PUBLISHED_QUALITY.items()
    )
    return Table(
        "Quality",
        "SSIM and PSNR by scikit-image; LPIPS's weights come from a model hub only, so it isn't "
        "used. Published by BK-SDM's authors for the real weights on MS-COCO 30K, FID / IS / CLIP "
        f"score, not measured here: {published}.",
        ["pictures of", "compared with", "SSIM (lowest to highest)", "PSNR dB", "pictures"],
        rows,
    )


def _similarity(similarity: Similarity) -> list[str]:
    ssim = f"{similarity.ssim:.3f} ({similarity.ssim_low:.3f} to {similarity.ssim_high:.3f})"
    return [ssim, f"{similarity.psnr_db:.1f}", str(similarity.pairs)]


def _frontier(conclusion: Conclusion) -> Table:
    return Table("The frontier", *frontier_cells(conclusion.frontier))


def _plan(conclusion: Conclusion) -> Table:
    rows = [
        [check.variant, f"{check.rate_per_s:.2f}", _seconds(check.predicted_p95_s),
         _seconds(check.measured_p95_s), check.error, check.note]
        for check in conclusion.plan_checks
    ]  # fmt: skip
    return Table(
        "How right the plan was",
        "The plan's p95 at its rate, beside the one measured now at that rate.",
        ["variant", "rate/s", "predicted p95 s", "measured p95 s", "error", "note"],
        rows,
    )


def _gate(conclusion: Conclusion) -> Table:
    rows = [
        [change.variant, change.figure, f"{change.before:.3g}", f"{change.now:.3g}",
         f"{change.change:+.1%}", f"{change.allowed:.1%}", "WORSE" if change.worse else "ok"]
        for change in conclusion.gate
    ]  # fmt: skip
    return Table(
        "Against the baseline",
        "A change for the worse counts beyond the tolerance and the noise of both runs' rounds.",
        ["variant", "figure", "before", "now", "change", "allowed", ""],
        rows,
    )
