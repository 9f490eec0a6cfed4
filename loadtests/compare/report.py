"""Writes a comparison down: report.html, report.md, report.json, samples.csv."""

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..bodies import STRENGTH
from ..replies import AUTO
from ..samples import latencies_s
from . import charts
from .conclusion import Conclusion
from .endpoint import Endpoint
from .tables import Table, tables

# Rows of the picture grid, and the width of a picture in it: enough to look, small enough to mail.
_ROWS = 8
_WIDEST_PX = 256
# Prompts that are shown as each setting of the Pareto line drew them.
_SHEET_ROWS = 2


def write(conclusion: Conclusion, out: Path) -> None:
    """All four files into a folder, which is made.

    Raises:
        OSError: it can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    conclusion.record.write_samples(out / "samples.csv")
    (out / "report.json").write_text(json.dumps(conclusion.as_json(), indent=1) + "\n")
    page = Page(
        title=f"Which variant to pay for: `{conclusion.endpoint.family}` on "
        f"{conclusion.setup.device}",
        asked=_asked(conclusion),
        warnings=_warnings(conclusion),
        verdict=conclusion.verdict,
        tables=tables(conclusion),
        facts=facts(conclusion),
        charts=_charts(conclusion),
        variants=conclusion.design.variants,
        pictures=_picture_rows(conclusion),
        sheet=_sheet(conclusion),
        serve_config=conclusion.setup.serve_config,
    )
    page.write(out)


@dataclass(frozen=True)
class Page:
    """A report for people. Charts and pictures are in the HTML only, as `data:` URLs."""

    title: str
    verdict: Sequence[str]
    tables: Sequence[Table]
    facts: Sequence[str]
    asked: str = ""
    warnings: Sequence[str] = ()
    charts: Sequence[Mapping[str, str]] = ()
    variants: Sequence[str] = ()
    pictures: Sequence[Mapping[str, Any]] = ()
    sheet: Sequence[Mapping[str, Any]] = ()
    serve_config: str = ""

    def write(self, out: Path) -> None:
        """As report.md, and as report.html, one file that needs no other."""
        parts = [f"# {self.title}", *filter(None, [self.asked]), *self.warnings]
        parts.append(_bullets(self.verdict))
        parts += [f"## {each.title}\n\n{each.markdown()}" for each in self.tables]
        parts.append(f"## To repeat it\n\n{_bullets(self.facts)}")
        if self.serve_config:
            parts.append(f"```\n{self.serve_config.rstrip()}\n```")
        (out / "report.md").write_text("\n\n".join(parts) + "\n")
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        html = environment.get_template("report.html.jinja").render(vars(self))
        (out / "report.html").write_text(html, encoding="utf-8")


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _asked(conclusion: Conclusion) -> str:
    """What a reader must know of edits; nothing where there were none."""
    design = conclusion.design
    if not design.workload.edits:
        return ""
    alone = conclusion.record.of("closed loop", design.variants[0], users=1)
    drawn = {sample.edit for run in alone for sample in run.samples if sample.outcome == "ok"}
    slo = ", and with it the SLO," if design.slo_s is None else ""
    return (
        f"{100 * design.workload.edits:g} % of the requests of the closed and open loop were edits "
        f"of the bundled pictures, strength {STRENGTH:g}. Rates, costs and latencies are of edits "
        "and generations together, except where a column names one of them. One picture's time"
        f"{slo} is that of {'edits' if drawn == {True} else 'generations'}. The seed workload and "
        "the pictures that are compared are generations."
    )


def _warnings(conclusion: Conclusion) -> list[str]:
    warnings = []
    if conclusion.record.interrupted:
        warnings.append("PARTIAL: interrupted; what was measured until then is below.")
    if conclusion.endpoint.random_weights:
        warnings.append("Random weights: the speeds count, the pictures say nothing.")
    left_off = [
        f"{name}: {', '.join(f'{part} ({why})' for part, why in parts.items())}"
        for name, parts in conclusion.endpoint.left_off.items()
        if name in conclusion.design.variants
    ]
    if left_off:
        warnings.append(
            f"Optimisations left off: {'; '.join(left_off)}. These variants are slower than they "
            "could be, so the comparison isn't fair."
        )
    if conclusion.record.left_out:
        warnings.append("Left out: " + "; ".join(conclusion.record.left_out) + ".")
    if failed := conclusion.record.failures():
        kinds = "; ".join(sorted(set(failed))[:5])
        warnings.append(f"{len(failed)} requests failed: {kinds}.")
    return warnings


def facts(conclusion: Conclusion) -> list[str]:
    """What it takes to repeat the run."""
    made, design, workload = conclusion.made, conclusion.design, conclusion.design.workload
    packages = ", ".join(f"{name} {number}" for name, number in made["packages"].items())
    sizes = sorted({model["defaults"]["size"] for model in conclusion.endpoint.models.values()})
    replicas = ", ".join(f"{name} {count}" for name, count in conclusion.endpoint.replicas.items())
    steps = ", ".join(map(str, workload.num_inference_steps)) or "each variant's own"
    return [
        f"Command: `{conclusion.setup.command}`",
        f"Begun {made['began']}, commit {made['commit']}.",
        f"Service: {conclusion.endpoint.url}, family `{conclusion.endpoint.family}`, replicas: "
        f"{replicas}; device: {conclusion.setup.device}.",
        *_replica_facts(conclusion.endpoint),
        f"Client: {made['client']}, {os.cpu_count()} cores, Python {made['python']}; {packages} "
        "(installed here; the service's own where it runs here).",
        f"Regime: over HTTP, every variant warmed up in both shapes first, one variant loaded at a "
        f"time, variants in turn; {steps} steps, size "
        f"{workload.size or ', '.join(sizes)}, guidance "
        f"{workload.guidance_scale or 'of the variant'}.",
        f"Workload: request i is the same for every variant; seed {workload.seed}, "
        f"{len(workload.prompts)} prompts. Open loop: {design.samples_a_rate} requests a "
        "rate in two rounds; the search begins where a queue with the closed loop's even work "
        "would have the p95 of these arrivals at the SLO.",
        f"Policy of `auto`: {_policy(conclusion.endpoint.auto)}"
        f"{'' if design.auto_against else '; not measured (`--auto`)'}.",
        f"Budget: {design.whole_s / 60:.1f} minutes.",
    ]


def _replica_facts(endpoint: Endpoint) -> list[str]:
    """What is on and off in a replica of each variant, and how long its preparation took."""
    return [
        f"A replica of `{name}`: switched on: {_codes(info['switched_on'])}; left off: "
        f"{_codes(info['left_off'])}; preparation: "
        f"{', '.join(f'{part} {s:.1f} s' for part, s in info['preparation_s'].items()) or '-'}."
        for name, info in endpoint.replica_info.items()
    ]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def _policy(policy: Mapping[str, Any] | None) -> str:
    if policy is None:
        return "none"
    return ", ".join(f"{name} {value}" for name, value in policy.items() if value)


def _charts(conclusion: Conclusion) -> list[dict[str, str]]:
    """Title and source of each chart that there is something for."""
    found, auto, drawn = conclusion.found, conclusion.auto, {}
    if conclusion.costs:
        title = "What an image costs; whiskers: to the rate that missed the SLO, and over rounds"
        drawn[title] = charts.cost_bars(conclusion.costs)
    if conclusion.frontier is not None and conclusion.frontier.measure is not None:
        title = "The frontier: cost against quality; the line: Pareto's; ringed: recommended"
        drawn[title] = charts.frontier(conclusion.frontier, conclusion.design.variants)
    if any(figures.rungs for figures in found.values()):
        title = "Latency by offered rate: p95 solid, p50 dashed; hollow: certainly missed the SLO"
        drawn[title] = charts.latency_curves(found, conclusion.slo_s)
    if any(AUTO in rate.contenders for rate in auto):
        drawn["Who drew for auto, by offered rate"] = charts.auto_shares(auto, list(found))
        title = "Pictures within auto's SLO; dotted: offered; whiskers: lowest and highest round"
        drawn[title] = charts.auto_goodput(auto, list(found))
    for section, title, below in (
        ("closed loop", "One user: latency of each picture", "seconds, one user"),
        ("open loop", "Open loop: latency of each picture, all rates", "seconds, open loop"),
    ):
        latencies_s = _latencies_s(conclusion, section)
        if any(latencies_s.values()):
            drawn[title] = charts.histograms(latencies_s, below)
    return [
        {"title": title, "source": _data("image/svg+xml", svg.encode())}
        for title, svg in drawn.items()
    ]


def _latencies_s(conclusion: Conclusion, section: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {variant: [] for variant in conclusion.design.variants}
    for run in conclusion.record.runs:
        if run.section == section and run.users in (None, 1):
            found[run.variant] += latencies_s(run.samples)
    return found


def _picture_rows(conclusion: Conclusion) -> list[dict[str, Any]]:
    """Prompt and pictures side by side, for the first requests that every variant drew."""
    workload, variants = conclusion.design.workload, conclusion.design.variants
    rows = []
    for index, drawn in [*conclusion.record.drawn_by_all(variants).items()][:_ROWS]:
        sources = [_thumbnail(drawn[variant]) for variant in variants]
        rows.append({**workload.body(index, variants[0]), "sources": sources})
    return rows


def _sheet(conclusion: Conclusion) -> list[dict[str, Any]]:
    """The first prompts, each as the Pareto line's settings drew it, the base and the reference."""
    frontier = conclusion.frontier
    if frontier is None or frontier.measure is None:
        return []
    line = [point.setting for point in frontier.line]
    settings = list(dict.fromkeys([*line, frontier.base, frontier.reference]))
    drawn = conclusion.record.frontier
    return [
        {
            **conclusion.design.workload.body(index, ""),
            "pictures": [
                {
                    "source": _thumbnail(drawn[setting][index].picture),
                    "name": str(setting),
                    "cost": f"{frontier.point(setting).cost:.2f}",
                }
                for setting in settings
                if index in drawn[setting]
            ],
        }
        for index in sorted(drawn[frontier.reference])[:_SHEET_ROWS]
    ]


def _thumbnail(picture: bytes) -> str:
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDEST_PX, _WIDEST_PX))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90)
    return _data("image/webp", buffer.getvalue())


def _data(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
