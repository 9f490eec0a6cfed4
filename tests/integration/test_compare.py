"""The comparison against a service whose speeds are known, and against the miniature."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fake_service import FakeService, serving
from tests.integration.conftest import ROOT

SPEEDS = {"original": 0.040, "distilled": 0.020, "distilled-tiny-vae": 0.0195}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.compare", *arguments]


def compare(service: FakeService, out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command("--host", service.url, "--out", str(out), *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole default comparison; its folder."""
    out = tmp_path_factory.mktemp("whole")
    config = out / "config.yaml"
    config.write_text("applications: <the file>\n")
    with serving(FakeService(latency_s=0.0, serial_s=SPEEDS)) as service:
        done = compare(
            service, out, "--price-per-hour", "2", "--device", "a fake", "--serve-config",
            str(config), "--minutes", "1",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "words.txt").write_text(done.stdout)
    (out / "bars.txt").write_text(done.stderr)
    return out


@pytest.fixture(scope="module")
def report(whole: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((whole / "report.json").read_text())
    return found


def test_it_finds_the_speeds_that_are_there(report: dict[str, Any]) -> None:
    for name, serial_s in SPEEDS.items():
        assert min(report["variants"][name]["single_s"]["by_round"].values()) >= serial_s
    ratios = {(one["variant"], one["against"]): one["throughput"] for one in report["comparisons"]}
    # Twice as fast, less what HTTP takes; a busy machine may hide it in its noise.
    assert 1.2 < ratios["distilled", "original"]["value"] < 2.2
    assert ratios["distilled", "original"]["outcome"] in ("better", "tie")


def test_the_rate_within_the_slo_lies_below_the_capacity(report: dict[str, Any]) -> None:
    # The last ones are left out where a busy machine takes the time.
    assert report["variants"]["original"]["rungs"]
    for name, serial_s in SPEEDS.items():
        figures = report["variants"][name]
        assert (figures["carried"]["met_per_s"] or 0) < 1.1 / serial_s
        for rung in figures["rungs"]:
            assert rung["slo"] != "met" or rung["p95_s"] <= report["slo_s"]
            assert rung["slo"] != "not decided" or rung["void"] or rung["requests"] < 100


def test_every_request_is_in_the_samples(whole: Path, report: dict[str, Any]) -> None:
    rows = list(csv.DictReader((whole / "samples.csv").open()))
    rungs = [rung for one in report["variants"].values() for rung in one["rungs"]]
    assert sum(row["section"] == "open loop" for row in rows) == sum(r["requests"] for r in rungs)
    assert {row["variant"] for row in rows} == set(SPEEDS)
    assert {row["outcome"] for row in rows} == {"ok"}


def test_variants_take_turns_and_are_asked_for_the_same(whole: Path) -> None:
    rows = [
        row
        for row in csv.DictReader((whole / "samples.csv").open())
        if row["section"] == "closed loop" and row["users"] == "1"
    ]
    asked = {
        name: [(row["round"], row["index"]) for row in rows if row["variant"] == name]
        for name in SPEEDS
    }
    assert asked["original"] == asked["distilled"] == asked["distilled-tiny-vae"]
    firsts = [
        next(row["variant"] for row in rows if row["round"] == round_) for round_ in ("0", "1", "2")
    ]
    assert firsts == list(SPEEDS)


def test_the_page_needs_no_other_file_and_shows_every_picture(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) >= 4 + 3 * 8  # Charts and pictures.
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in page
    assert "Which variant to pay for" in page


def test_the_report_tells_verdict_noise_and_how_to_repeat_it(whole: Path) -> None:
    text = (whole / "report.md").read_text()
    assert "Most pictures for the money" in text
    assert "45781.5" in text
    assert "--price-per-hour 2" in text
    assert "applications: <the file>" in text
    assert "a fake" in text
    assert "noise floor" in text
    words = (whole / "words.txt").read_text()
    assert "Most pictures for the money" in words
    assert "report.html" in words
    assert "<" in (whole / "bars.txt").read_text()  # tqdm's time left.


@pytest.mark.thorough
def test_the_same_again_is_no_worse_and_a_slower_service_is(whole: Path, tmp_path: Path) -> None:
    baseline = ["--baseline", str(whole / "report.json"), "--quick", "--tolerance", "0.5"]
    with serving(FakeService(latency_s=0.0, serial_s=SPEEDS)) as service:
        same = compare(service, tmp_path / "same", *baseline)
    assert same.returncode == 0, same.stdout
    slow = {**SPEEDS, "distilled": 0.2}
    with serving(FakeService(latency_s=0.0, serial_s=slow)) as service:
        worse = compare(service, tmp_path / "worse", *baseline)
    assert worse.returncode == 1
    assert "WORSE than the baseline: distilled, one picture" in worse.stdout
    assert "WORSE than the baseline: original" not in worse.stdout
    assert "Against the baseline" in (tmp_path / "worse" / "report.md").read_text()


@pytest.mark.thorough
def test_a_plan_is_held_to_what_a_later_run_measures(whole: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    planned = subprocess.run(
        [sys.executable, "-m", "loadtests.plan", str(whole / "report.json"), "--rate", "20",
         "--slo-p95", "0.3", "--out", str(plan)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert "autoscaling_config" in planned.stdout
    with serving(FakeService(latency_s=0.0, serial_s=SPEEDS)) as service:
        done = compare(service, tmp_path / "later", "--plan", str(plan), "--quick")
    assert done.returncode == 0, done.stderr
    checks = json.loads((tmp_path / "later" / "report.json").read_text())["plan_checks"]
    assert {one["variant"] for one in checks} == set(json.loads(plan.read_text())["variants"])
    assert all(one["measured_p95_s"] is not None and "%" in one["error"] for one in checks)
    assert "How right the plan was" in (tmp_path / "later" / "report.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_writes_a_partial_report_that_says_so(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(FakeService(latency_s=0.0, serial_s=SPEEDS)) as service:
        process = subprocess.Popen(
            command("--host", service.url, "--out", str(tmp_path)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        deadline = time.monotonic() + 60
        while len(service.asked) < 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, number)
        words, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "INTERRUPTED: the report is partial" in words
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["complete"] is False
    assert report["variants"]["original"]["single_s"] is not None
    assert "PARTIAL" in (tmp_path / "report.md").read_text()
    assert "PARTIAL" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "samples.csv").read_text().splitlines()) > 20


def test_a_wrong_picture_fails_the_run_and_is_named(tmp_path: Path) -> None:
    speeds = {"original": 0.01, "distilled": 0.01}
    with serving(FakeService(latency_s=0.0, serial_s=speeds, wrong_every=40)) as service:
        done = compare(service, tmp_path, "--quick")
    assert done.returncode == 1
    assert "requests FAILED" in done.stdout
    assert "another seed than was asked for" in (tmp_path / "report.md").read_text()


@pytest.mark.thorough
def test_auto_is_held_to_each_pinned_variant(tmp_path: Path) -> None:
    speeds = {"original": 0.05, "distilled": 0.025}
    fake = FakeService(latency_s=0.0, serial_s=speeds, auto_slo_s=0.2)
    with serving(fake) as service:
        done = compare(service, tmp_path, "--minutes", "1", "--rounds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    auto = report["auto"]
    assert (auto["policy"]["slo_s"], auto["slo_s"]) == (0.2, 0.2)
    calm, *loaded = auto["rates"]
    # The best has room, so it draws; above what it carries the cheaper one helps.
    assert set(calm["contenders"]) == {"auto"}
    assert sum(calm["answers"]["original"].values()) > 10
    assert len(loaded) == 2
    for one in loaded:
        assert set(one["contenders"]) == {"auto", *speeds}
        assert sum(one["answers"]["distilled"].values()) > 0
        assert len({contender["requests"] for contender in one["contenders"].values()}) == 1
        for contender in one["contenders"].values():
            goodput = contender["goodput_per_s"]["by_round"].values()
            assert max(goodput) <= one["rate_per_s"] * 1.001
    text = (tmp_path / "report.md").read_text()
    assert "## Who drew for auto" in text
    assert "degraded under load" in text
    assert "Policy of `auto`: kind quality-first, slo_s 0.2" in text
    assert "`auto` at" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "Who drew for auto, by offered rate" in page
    rows = list(csv.DictReader((tmp_path / "samples.csv").open()))
    answered = {row["model"] for row in rows if row["variant"] == "auto"}
    assert answered <= {*speeds, ""}
    assert "distilled" in answered


def test_pictures_of_random_weights_are_not_judged(tmp_path: Path) -> None:
    speeds = {"original": 0.01, "distilled": 0.005}
    fake = FakeService(latency_s=0.0, serial_s=speeds, random_weights=True)
    with serving(fake) as service:
        done = compare(service, tmp_path, "--quick")
    assert done.returncode == 0
    assert "SSIM" not in done.stdout
    assert "Random weights" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--host", "http://127.0.0.1:9"], "does not answer", id="nobody"),
        pytest.param(["--variants", "huge"], "variants: 'huge' was given; ", id="variant"),
        pytest.param(["--steps", "0"], "0 was given; allowed: 1 to 150", id="steps"),
        pytest.param(["--minutes", "nan"], "nan was given; it must be", id="minutes"),
        pytest.param(["--baseline", "/nowhere.json"], "/nowhere.json", id="baseline"),
        pytest.param(["--plan", "pyproject.toml"], "pyproject.toml: not a plan.json", id="plan"),
        pytest.param(["--serve-config", "/nowhere.yaml"], "/nowhere.yaml", id="config"),
    ],
)
def test_what_it_cannot_do_is_one_clear_line(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    with serving(FakeService(serial_s={"original": 0.01})) as service:
        done = compare(service, tmp_path, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_service_that_refuses_from_the_start_is_told_at_once(tmp_path: Path) -> None:
    with serving(FakeService(serial_s={"original": 0.01}, reject_every=1)) as service:
        done = compare(service, tmp_path)
    assert done.returncode == 2
    assert "original: not drawn when warmed up: 429" in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_somebody_elses_endpoint_is_told(tmp_path: Path) -> None:
    with serving(FakeService(serial_s={"original": 0.01}, family="flux")) as service:
        done = compare(service, tmp_path)
    assert done.returncode == 2
    assert "is not this service" in done.stderr


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_loadtest_starts_its_own_service_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["make", "--silent", "loadtest", f"ARGS=--quick --rounds 1 --minutes 0.4 --out {tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen: set[psutil.Process] = set()
    words = ""
    for line in process.stdout:
        words += line
        seen |= set(psutil.Process(process.pid).children(recursive=True))
    assert process.wait(60) == 0, words
    assert len(seen) > 5
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["endpoint"]["family"] == "miniature"
    assert report["quality"]["to_reference"]["distilled"]["ssim"] > 0.5
    # Its own service lets `auto` choose, whether or not there is time to measure it here.
    assert report["auto"]["policy"]["kind"] == "quality-first"
    (vaes,) = report["quality"]["vaes_on_identical_latents"]
    assert (vaes["kl"], vaes["other"]) == ("distilled", "distilled-tiny-vae")
    assert vaes["psnr_db"] > 25
    gone_by = time.monotonic() + 20
    while any(one.is_running() and one.status() != "zombie" for one in seen):
        assert time.monotonic() < gone_by
        time.sleep(0.1)
