"""A report's whole content: what was asked, measured, found and left out."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from serve.replica_info import cpu_name

from ..machine import commit
from ..replies import AUTO
from .auto import AutoRate, find_auto, slo_of_auto_s
from .costs import Costs, cheapest, costs
from .design import Design
from .endpoint import Endpoint
from .findings import Comparison, VariantFindings, compare, find, slo_s
from .frontier import Frontier, find_frontier
from .gate import Change
from .plan_check import PlanCheck
from .quality import ClipScores, Similarity, to_reference
from .record import Record, Setting
from .verdict import of_auto, of_frontier, verdict

_PACKAGES = ("ray", "torch", "diffusers", "transformers", "aiohttp")


@dataclass(frozen=True)
class Setup:
    """What only the caller knows: the command, the service's device, its price and file."""

    command: str
    device: str
    devices_per_replica: float
    price_per_hour: float | None
    serve_config: str


@dataclass(frozen=True)
class Conclusion:
    """A comparison, complete or not. Built by `conclude`."""

    design: Design
    endpoint: Endpoint
    setup: Setup
    made: Mapping[str, Any]
    slo_s: float | None
    found: Mapping[str, VariantFindings]
    comparisons: Sequence[Comparison]
    costs: Mapping[str, Costs]
    similar: Mapping[str, Similarity]
    verdict: Sequence[str]
    record: Record
    auto: Sequence[AutoRate] = ()
    auto_slo_s: float | None = None
    plan_checks: Sequence[PlanCheck] = ()
    vaes: Mapping[tuple[str, str], Similarity] = field(default_factory=dict)
    clip: Mapping[str, float] = field(default_factory=dict)
    frontier: Frontier | None = None
    gate: Sequence[Change] = ()

    def as_json(self) -> dict[str, Any]:
        """As it is read back, without the raw samples, which lie in samples.csv."""
        design = asdict(self.design)
        design["workload"]["prompts"] = len(self.design.workload.prompts)
        report = {
            "report": "comparison",
            "complete": not self.record.interrupted,
            "made": self.made,
            "setup": self.setup,
            "endpoint": {
                "url": self.endpoint.url,
                "family": self.endpoint.family,
                "random_weights": self.endpoint.random_weights,
                "replicas": self.endpoint.replicas,
                "replica_info": self.endpoint.replica_info,
                "peak_memory_bytes": self.endpoint.peak_memory_bytes,
                "defaults": {
                    name: model["defaults"] for name, model in self.endpoint.models.items()
                },
            },
            "design": design,
            "slo_s": self.slo_s,
            "verdict": self.verdict,
            "variants": self.found,
            "comparisons": [_comparison_json(comparison) for comparison in self.comparisons],
            "costs": self.costs,
            "cheapest": cheapest(self.costs) if self.costs else None,
            "quality": {
                "to_reference": self.similar,
                "vaes_on_identical_latents": [
                    {"kl": kl, "other": other, **asdict(similarity)}
                    for (kl, other), similarity in self.vaes.items()
                ],
                "clip": self.clip,
            },
            "auto": {
                "policy": self.endpoint.auto,
                "slo_s": self.auto_slo_s,
                "rates": [_auto_json(rate) for rate in self.auto],
            },
            "frontier": self.frontier,
            "plan_checks": self.plan_checks,
            "left_out": self.record.left_out,
        }
        plain: dict[str, Any] = json.loads(json.dumps(report, default=asdict))
        return plain


def conclude(
    design: Design,
    endpoint: Endpoint,
    setup: Setup,
    began: str,
    record: Record,
    *,
    frontier_clip: Mapping[Setting, ClipScores] | None = None,
    **more: Any,
) -> Conclusion:
    """Compute what the record says; `more` is what was found beside it (VAEs, CLIP, a plan)."""
    frontier = find_frontier(design, endpoint, record, frontier_clip or {})
    found = find(design, record)
    comparisons = compare(found)
    limit_s = slo_s(design, record)
    prices = costs(
        found,
        endpoint.replicas,
        setup.devices_per_replica,
        setup.price_per_hour,
        design.workload.n,
    )
    similar = to_reference(record.pictures, design.variants)
    judged = {} if endpoint.random_weights else similar
    auto, auto_slo_s = find_auto(design, record), slo_of_auto_s(design, record)
    said = verdict(found, comparisons, prices, judged, limit_s, endpoint.peak_memory_bytes)
    return Conclusion(
        design=design,
        endpoint=endpoint,
        setup=setup,
        made={
            "began": began,
            "commit": commit(),
            "client": cpu_name(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
        },
        slo_s=limit_s,
        found=found,
        comparisons=comparisons,
        costs=prices,
        similar=similar,
        # What to pay for, and how many steps; then the details.
        verdict=[*said[:1], *of_frontier(frontier), *said[1:], *of_auto(auto, auto_slo_s)],
        record=record,
        auto=auto,
        auto_slo_s=auto_slo_s,
        frontier=frontier,
        **more,
    )


def _auto_json(rate: AutoRate) -> dict[str, Any]:
    outcomes = {name: rate.outcome(name) for name in rate.contenders if name != AUTO}
    return {**asdict(rate), "outcomes": outcomes}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    ratios = {
        name: ratio and {**asdict(ratio), "outcome": ratio.outcome}
        for name, ratio in vars(comparison).items()
        if name in ("throughput", "single", "seed_workload")
    }
    return {
        "variant": comparison.variant,
        "against": comparison.against,
        **ratios,
        "carried": {"ratio": comparison.carried_ratio, "outcome": comparison.carried},
    }
