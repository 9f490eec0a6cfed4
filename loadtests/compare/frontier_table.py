"""The frontier as a table: every setting, the cheapest first."""

from collections.abc import Callable

from ..markdown import number
from .frontier import SAME_COST, Frontier, Point


def frontier_cells(frontier: Frontier | None) -> tuple[str, list[str], list[list[str]]]:
    """Caption, head and rows; no rows where there is no frontier."""
    if frontier is None:
        return "", [], []
    columns = _columns(frontier)
    rows = [[cell(point) for cell in columns.values()] for point in frontier.points]
    return _caption(frontier), list(columns), rows


def _caption(frontier: Frontier) -> str:
    words = [
        "The same prompts and seeds in every setting, one request at a time, settings in turn. "
        "Device seconds: denoising and decoding as the replica timed them, median (lowest to "
        "highest). Cost: the median of their ratio to the same picture's in "
        f"{frontier.base}, which costs 1."
    ]
    if frontier.measure is None:
        return f"{words[0]} Random weights: only the time is known."
    words.append(
        f"Similarity to the reference, {frontier.reference}. Quality is the {frontier.measure}; "
        f"*below* is how far it lies below the reference's (its standard error"
        + (", at least one picture" if frontier.measure == "share judged right" else "")
        + ")."
    )
    if frontier.measure == "SSIM":
        words.append(
            "SSIM says how alike pictures are, not how good: another UNet's may be as good."
        )
    if frontier.measure == "share judged right":
        words.append("Judged right: the colours that the prompt names are there, by rules.")
    if any(point.cmmd is not None for point in frontier.points):
        words.append(
            "CMMD (Jayasumana et al., CVPR 2024) to the reference's pictures: with so few only a "
            "rough distance."
        )
    words.append(
        f"Recommended is the cheapest setting on the Pareto line that lies, standard error "
        f"included, at most {frontier.tolerance:.2g} below the reference; costs within "
        f"{SAME_COST - 1:.0%} are taken for the same."
    )
    return " ".join(words)


def _columns(frontier: Frontier) -> dict[str, Callable[[Point], str]]:
    """By its head, what a column says of a setting; what wasn't measured has none."""
    columns: dict[str, Callable[[Point], str]] = {
        "setting": lambda point: str(point.setting),
        "cost": lambda point: f"{point.cost:.2f}",
    }
    if any(point.judged is not None for point in frontier.points):
        columns["judged right"] = lambda point: number(point.judged)
    if any(point.clip is not None for point in frontier.points):
        columns["CLIP score"] = lambda point: number(point.clip, ".4f")
        columns["CMMD"] = lambda point: number(point.cmmd)
    if frontier.measure is not None:
        columns |= {
            "SSIM": lambda p: "-" if p.similar is None else f"{p.similar.ssim:.3f}",
            "PSNR dB": lambda p: "-" if p.similar is None else f"{p.similar.psnr_db:.1f}",
            "below": lambda p: "-" if p.quality is None else f"{p.shortfall:+.3f} ({p.noise:.3f})",
            "Pareto line": lambda p: _place(frontier, p),
        }
    columns["device s"] = lambda point: point.device_s.text(digits=3)
    columns["pictures"] = lambda point: str(point.device_s.count)
    return columns


def _place(frontier: Frontier, point: Point) -> str:
    over, words = point.dominated_by, "not judged" if point.quality is None else "on it"
    if over is not None:
        words = f"dominated by {over.variant}, {over.steps} {over.scheduler}"
    return f"{words}; recommended" if point.setting == frontier.recommended else words
