"""Comparisons of several devices in one table: what is refused, and what comes of the others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadtests.compare import __main__ as compare_main
from tests.commands import run_main


def a_report(device: str, price: float | None, *, met_per_s: float = 1.0) -> dict[str, Any]:
    """A comparison's report.json as far as it is read; `original` carries half of `distilled`."""

    def cost(per_s: float) -> dict[str, Any]:
        per_1000 = None if price is None else 1000 / per_s / 3600 * price
        return {"images_per_s": {"median": per_s}, "per_1000": per_1000}

    rates = {"original": met_per_s / 2, "distilled": met_per_s}
    return {
        "report": "comparison",
        "complete": True,
        "made": {
            "began": "2026-11-30", "commit": "abc", "python": "3.11", "client": "CPU",
            "packages": {"torch": "2.9"},
        },
        "setup": {
            "command": "python -m loadtests.compare", "device": device, "price_per_hour": price,
            "devices_per_replica": 1.0,
        },
        "endpoint": {
            "family": "sd-v1", "random_weights": False, "replicas": dict.fromkeys(rates, 1),
            "defaults": {"original": {"size": "512x512", "guidance_scale": 7.5}},
            "peak_memory_bytes": {"distilled": 3 * 2**30},
            "replica_info": {"distilled": {"switched_on": ["unet: compile"], "left_off": {}}},
        },
        "design": {
            "most_rejected": 0.01,
            "workload": {
                "num_inference_steps": [25], "size": None, "guidance_scale": None, "n": 1,
                "seed": 0, "prompts": 40,
            },
        },
        "slo_s": 2.0,
        "costs": {
            name: {"devices": 1.0, "at_slo": cost(rate), "at_saturation": cost(2 * rate)}
            for name, rate in rates.items()
        },
        "variants": {
            name: {"carried": {"met_per_s": rate, "missed_per_s": 1.1 * rate}}
            for name, rate in rates.items()
        },
    }  # fmt: skip


def changed(report: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    *path, last = place.split(".")
    found = report
    for name in path:
        found = found[name]
    assert last in found
    found[last] = value
    return report


def join(tmp_path: Path, *reports: dict[str, Any]) -> Any:
    paths = [tmp_path / f"{index}.json" for index in range(len(reports))]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report))
    return run_main(compare_main.main, "join", *paths, "--out", tmp_path / "out")


def test_a_pair_becomes_one_page_with_the_cheapest_and_what_differs(tmp_path: Path) -> None:
    l4 = a_report("NVIDIA L4", 0.72)
    a100 = changed(a_report("NVIDIA A100", 3.6, met_per_s=3.6), "made.packages", {"torch": "2.8"})
    done = join(tmp_path, l4, a100)
    assert done.returncode == 0, done.stderr
    # 0.72 an hour is 0.2 for a thousand seconds; 3.6 is 1, for 3,600 images.
    assert (
        "Most pictures for the money with p95 <= 2.00 s: `distilled` on NVIDIA L4; 1,000 cost 0.2."
        in done.stdout
    )
    joined = json.loads((tmp_path / "out" / "report.json").read_text())
    relative = {(row["device"], row["variant"]): row["relative"] for row in joined["rows"]}
    assert relative == pytest.approx(
        {
            ("NVIDIA L4", "original"): 2,
            ("NVIDIA L4", "distilled"): 1,
            ("NVIDIA A100", "original"): 1 / 0.36,
            ("NVIDIA A100", "distilled"): 1 / 0.72,
        }
    )
    assert list(joined["differences"]) == ["torch"]
    markdown = (tmp_path / "out" / "report.md").read_text()
    row = "| NVIDIA A100 | distilled | 3.60 | 7.20 | 1 | 3.6 | 0.278 | 1.39 | 3.00 |"
    assert row in markdown
    assert "| torch | 2.9 | 2.8 |" in markdown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>NVIDIA A100</td>" in page
    assert not re.findall(r'(?:src|href)="', page)


def test_devices_within_the_width_of_the_search_are_not_told_apart(tmp_path: Path) -> None:
    done = join(tmp_path, a_report("L4", 0.72), a_report("T4", 0.72, met_per_s=1.2))
    assert "`distilled` on L4 and `distilled` on T4, which these runs could not" in done.stdout


def test_other_optimisations_are_stated(tmp_path: Path) -> None:
    plain = {"switched_on": [], "left_off": {"unet: compile": "RuntimeError: no compiler"}}
    l4 = changed(a_report("NVIDIA L4", 0.72), "endpoint.replica_info", {"distilled": plain})
    assert join(tmp_path, l4, a_report("NVIDIA A100", 3.6)).returncode == 0
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "| distilled: switched on | nothing | unet: compile |" in markdown
    assert "| distilled: left off | unet: compile | nothing |" in markdown


def test_without_a_price_nothing_is_called_cheapest(tmp_path: Path) -> None:
    done = join(tmp_path, a_report("L4", None), a_report("T4", None))
    assert done.returncode == 0
    assert "not decided: no report has both a price" in done.stdout


def test_what_might_be_as_cheap_is_named(tmp_path: Path) -> None:
    undecided, missed = a_report("T4", 0.7), a_report("P4", 0.72)
    for report, missed_per_s in ((undecided, None), (missed, 0.5)):
        report["costs"]["distilled"]["at_slo"] = None
        bracket = {"met_per_s": None, "missed_per_s": missed_per_s}
        report["variants"]["distilled"]["carried"] = bracket
    done = join(tmp_path, a_report("L4", 0.72), undecided, a_report("A100", None), missed)
    assert (
        "`distilled` on L4; 1,000 cost 0.2; without a price or a rate within the SLO, so not "
        "known: `distilled` on T4 and `original` on A100 and `distilled` on A100."
    ) in done.stdout


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        pytest.param("design.workload.num_inference_steps", [10],
                     "num_inference_steps: {} has '25', {} has '10'", id="steps"),
        pytest.param("slo_s", 4.0, "slo_s: {} has 2.0, {} has 4.0", id="slo"),
        pytest.param("design.workload.seed", 1, "seed: {} has 0, {} has 1", id="seed"),
        pytest.param("design.workload.size", "64x64", "size: {} has '512x512', {} has '64x64'",
                     id="size"),
        pytest.param("design.workload.guidance_scale", 1.0,
                     "guidance_scale: {} has '7.5', {} has '1.0'", id="guidance"),
        pytest.param("endpoint.family", "miniature", "family: {} has 'sd-v1', {} has 'miniature'",
                     id="family"),
        pytest.param("endpoint.random_weights", True, "random_weights: {} has False, {} has True",
                     id="random-weights"),
        pytest.param("complete", False, "complete: {1} has False; allowed: True", id="incomplete"),
        pytest.param("setup.device", "L4", "device: {} has 'L4', {} has 'L4'", id="same-device"),
        pytest.param("costs", {"original": {"device_s_per_image": 1}},
                     "{1}: not a report of this version's comparison: KeyError('at_slo')",
                     id="old"),
        pytest.param("slo_s", None, "{1}: not a report of this version's comparison: TypeError(",
                     id="no-slo"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_with_field_file_and_both_values(
    place: str, value: Any, complaint: str, tmp_path: Path
) -> None:
    done = join(tmp_path, a_report("L4", 0.72), changed(a_report("T4", 0.5), place, value))
    assert done.returncode == 2
    assert complaint.format(tmp_path / "0.json", tmp_path / "1.json") in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_report_alone_is_refused_and_none_is_overwritten(tmp_path: Path) -> None:
    done = join(tmp_path, a_report("L4", 0.72))
    assert done.returncode == 2
    assert "reports: 1 was given; at least 2" in done.stderr
    path = tmp_path / "0.json"
    twice = run_main(compare_main.main, "join", path, path)
    assert "reports: 1 was given; at least 2" in twice.stderr
    here = run_main(compare_main.main, "join", path, tmp_path / "1.json", "--out", tmp_path)
    assert here.returncode == 2
    assert f"out: {tmp_path} holds one of the reports" in here.stderr


def test_a_size_that_is_the_variants_own_may_be_given(tmp_path: Path) -> None:
    given = changed(a_report("T4", 0.5), "design.workload.size", "512x512")
    assert join(tmp_path, a_report("L4", 0.72), given).returncode == 0
