"""The frontier: which settings there are, what each costs and is worth, and which to take."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..rounds import Spread
from ..workload import Workload
from .design import Design
from .endpoint import Endpoint
from .quality import ClipScores, Similarity, cmmd, pixels, similarity, standard_error
from .record import Record, Setting

Measure = Literal["share judged right", "CLIP score", "SSIM"]

# How far below the reference a setting is still good enough, unless the base setting itself, which
# is what the service draws by default, lies further below it.
_TOLERANCES: dict[Measure, float] = {
    # One wrong picture of 24 and as much noise; less could not be decided with so few.
    "share judged right": 0.1,
    # A third of what BK-SDM lost by its authors' figures: 0.2958 to 0.2677.
    "CLIP score": 0.01,
    # Much the same picture, with other details.
    "SSIM": 0.1,
}
# Costs closer than this are the same: medians of two runs differ by up to so much.
SAME_COST = 1.05
# Of fewer pictures nothing is recommended.
DECIDING_PICTURES = 8


@dataclass(frozen=True)
class Point:
    """One setting. `cost` is its device time by that of the base setting, picture by picture.

    `shortfall` is how far its quality lies below the reference's by the frontier's measure, picture
    by picture, and `noise` the standard error of that; `quality` is the reference's less that.
    `dominated_by` is None on the Pareto line. What is None was not measured.
    """

    setting: Setting
    device_s: Spread
    cost: float
    similar: Similarity | None = None
    clip: float | None = None
    cmmd: float | None = None
    judged: float | None = None
    quality: float | None = None
    shortfall: float = 0.0
    noise: float = 0.0
    dominated_by: Setting | None = None


@dataclass(frozen=True)
class Frontier:
    """All settings, the cheapest first. `base` costs 1; `reference` is as good as it gets.

    `measure` is None where the pictures say nothing. `recommended` is the cheapest setting on the
    Pareto line that is at most `tolerance` below the reference, its noise included; None where
    there are too few pictures, or the reference's are worth no more than that.
    """

    base: Setting
    reference: Setting
    points: Sequence[Point]
    measure: Measure | None
    tolerance: float = 0.0
    recommended: Setting | None = None

    def point(self, setting: Setting) -> Point:
        """The setting's."""
        return next(point for point in self.points if point.setting == setting)

    @property
    def line(self) -> list[Point]:
        """The Pareto line: each costs more than the one before, and is better."""
        return [p for p in self.points if p.quality is not None and p.dominated_by is None]


def base_setting(design: Design, endpoint: Endpoint) -> Setting:
    """What the first variant draws by default; its cost is 1."""
    defaults = endpoint.models[design.variants[0]]["defaults"]
    return Setting(design.variants[0], defaults["num_inference_steps"], defaults["scheduler"])


def reference_setting(design: Design, base: Setting) -> Setting:
    """The first variant at the most steps that it allows: the best that it can do."""
    most = design.most_steps.get(base.variant)
    allowed = [steps for steps in design.frontier_steps if most is None or steps <= most]
    return replace(base, steps=max([base.steps, *allowed]))


def levels(design: Design, endpoint: Endpoint) -> list[list[Setting]]:
    """The settings, coarse ones first; each level makes the frontier finer where there is time.

    First the base setting, the reference and every other number of steps below the base's; then the
    others up to it; in the end what costs more than the base. Empty where no frontier is asked for.
    """
    if not design.frontier_steps:
        return []
    base = base_setting(design, endpoint)
    steps = sorted(design.frontier_steps)
    coarse = [count for count in steps if count < base.steps][::2]
    level, found = dict.fromkeys([base, reference_setting(design, base)]), dict[Setting, int]()
    for number, counts in enumerate((coarse, [s for s in steps if s <= base.steps], steps)):
        for variant in design.variants:
            # DPM-Solver++ (https://arxiv.org/abs/2211.01095) takes the fewest steps. It adds no
            # noise on the way, as euler-a does, so its pictures can be held to the reference's.
            model = endpoint.models[variant]
            schedulers = design.frontier_schedulers or (model["defaults"]["scheduler"], "dpm++")
            _, most = model["bounds"]["num_inference_steps"]
            level |= dict.fromkeys(
                Setting(variant, count, scheduler)
                for scheduler in schedulers
                for count in counts
                if scheduler in model["schedulers"] and count <= most
            )
        found |= {setting: number for setting in level if setting not in found}
    every = [[setting for setting in found if found[setting] == number] for number in range(3)]
    return [level for level in every if level]


def prompts(workload: Workload, indices: Sequence[int]) -> list[str]:
    """Of the requests with these numbers."""
    return [workload.body(index, "")["prompt"] for index in indices]


def find_frontier(
    design: Design,
    endpoint: Endpoint,
    record: Record,
    clip: Mapping[Setting, ClipScores],
) -> Frontier | None:
    """What the record says of every setting; None where it lacks the base or the reference."""
    if not record.frontier:
        return None
    base = base_setting(design, endpoint)
    reference = reference_setting(design, base)
    if not {base, reference} <= record.frontier.keys():
        return None
    indices = sorted(record.frontier[reference])
    # Settings that time cut short have fewer; those with too few could only mislead.
    least = min(DECIDING_PICTURES, len(indices))
    shots = {
        setting: [drawn[index] for index in indices if index in drawn]
        for setting, drawn in record.frontier.items()
    }
    points = {
        setting: Point(
            setting,
            Spread.of(shot.device_s for shot in drawn),
            statistics.median(shot.device_s / shot.base_s for shot in drawn),
        )
        for setting, drawn in shots.items()
        if len(drawn) >= least
    }
    measure: Measure | None = None
    if not endpoint.random_weights:
        pictures = {name: [pixels(shot.picture) for shot in shots[name]] for name in points}
        theirs = pictures[reference]
        for setting, ours in pictures.items():
            similar = similarity(ours, theirs[: len(ours)])
            points[setting] = replace(
                points[setting],
                similar=similar,
                quality=similar.ssim,
                shortfall=1 - similar.ssim,
                noise=similar.ssim_error,
            )
        measure = "SSIM"
        if reference in clip:
            measure = "CLIP score"
            points |= _with_clip(points, clip, reference)
        asked = prompts(design.drawn, indices)
        if endpoint.family == "miniature" and (right := _judged(asked, pictures)):
            measure = "share judged right"
            for setting, verdicts in right.items():
                # One picture more or less is noise even where all were judged alike.
                picture = 0.0 if setting == reference else 1 / len(verdicts)
                judged = replace(points[setting], judged=statistics.fmean(verdicts))
                points[setting] = _paired(judged, verdicts, right[reference], picture)
    return conclude_frontier(base, reference, list(points.values()), measure)


def conclude_frontier(
    base: Setting, reference: Setting, points: Sequence[Point], measure: Measure | None
) -> Frontier:
    """The Pareto line and the recommendation."""
    ordered = with_dominators(sorted(points, key=lambda point: point.cost))
    found = Frontier(base, reference, ordered, measure)
    default = found.point(base)
    if measure is None or default.quality is None:
        return found
    found = replace(found, tolerance=max(_TOLERANCES[measure], default.shortfall + default.noise))
    # Pictures that show nothing would be good enough, too.
    nothing = (found.point(reference).quality or 0.0) <= found.tolerance
    if default.device_s.count < DECIDING_PICTURES or nothing:
        return found
    # A hair more, for sums of rounded numbers.
    enough = found.tolerance + 1e-9
    fit = [point.setting for point in found.line if point.shortfall + point.noise <= enough]
    return replace(found, recommended=next(iter(fit), base))


def with_dominators(points: Sequence[Point]) -> list[Point]:
    """Each with what dominates it: something as good or better for the same cost or less.

    Costs within `SAME_COST` are the same, so that noise doesn't decide: of such settings the best
    dominates, and of equally good ones the one more similar to the reference.

    Args:
        points: the cheapest first; those without a quality dominate nothing.
    """
    dominators: dict[Setting, Setting] = {}
    waiting = [point for point in points if point.quality is not None]
    line: Point | None = None
    while waiting:
        same = [point for point in waiting if point.cost <= SAME_COST * waiting[0].cost]
        waiting = waiting[len(same) :]
        best = max(same, key=_worth)
        if line is None or _worth(best)[0] > _worth(line)[0]:
            line = best
        dominators |= {point.setting: line.setting for point in same if point is not line}
    return [replace(point, dominated_by=dominators.get(point.setting)) for point in points]


def _worth(point: Point) -> tuple[float, float]:
    return point.quality or 0.0, 0.0 if point.similar is None else point.similar.ssim


def _with_clip(
    points: Mapping[Setting, Point], clip: Mapping[Setting, ClipScores], reference: Setting
) -> dict[Setting, Point]:
    """Those without CLIP scores have no quality by this measure."""
    theirs, found = clip[reference], {}
    for setting, point in points.items():
        found[setting] = replace(point, quality=None)
        if ours := clip.get(setting):
            found[setting] = replace(
                _paired(point, ours.cosines, theirs.cosines),
                clip=statistics.fmean(ours.cosines),
                cmmd=cmmd(ours.embeddings, theirs.embeddings[: len(ours.embeddings)]),
            )
    return found


def _paired(
    point: Point, ours: Sequence[float], theirs: Sequence[float], least_noise: float = 0.0
) -> Point:
    """Picture by picture, so that neither hard prompts nor fewer pictures count against it."""
    less = [their - our for our, their in zip(ours, theirs, strict=False)]
    shortfall, noise = statistics.fmean(less), max(standard_error(less), least_noise)
    quality = statistics.fmean(theirs) - shortfall
    return replace(point, quality=quality, shortfall=shortfall, noise=noise)


def _judged(
    asked: Sequence[str], pictures: Mapping[Setting, Sequence[NDArray[np.uint8]]]
) -> dict[Setting, list[bool]]:
    """Of the prompts that the miniature's judges can judge, whether each picture is right."""
    # Only a frontier needs what the miniature was trained with.
    from serve.miniature.training.drawing import SIZE_PX
    from serve.miniature.training.judges import shows

    found = {}
    for setting, drawn in pictures.items():
        # The judges know where in a picture of this size things are.
        if any(picture.shape != (SIZE_PX, SIZE_PX, 3) for picture in drawn):
            return {}
        verdicts = [shows(prompt, picture) for prompt, picture in zip(asked, drawn, strict=False)]
        found[setting] = [verdict for verdict in verdicts if verdict is not None]
    return found if all(found.values()) else {}
