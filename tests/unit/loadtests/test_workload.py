"""What a load test asks for, when, and how it judges what comes back."""

import asyncio
import base64
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from loadtests import arrivals
from loadtests.bodies import PICTURES, STRENGTH, content_of, path_of
from loadtests.keys import environments_key, without_key
from loadtests.replies import judge, judge_stream
from loadtests.samples import percentile, summarize
from loadtests.workload import Workload
from serve.http.edit_schemas import EditRequest
from serve.http.multipart import read_form
from serve.http.schemas import parse_request
from serve.miniature.training.scenes import parse_caption
from tests.fake_service import reply_to
from tests.machine import HANG_S
from tests.unit.loadtests.samples import sample

ASKED = {"model": "distilled", "prompt": "x", "seed": 2**32 - 1, "n": 2}


def test_every_variant_is_asked_for_the_same() -> None:
    workload = Workload.shipped("miniature", num_inference_steps=(10, 25, 50))
    for index in range(50):
        original, distilled = (workload.body(index, name) for name in ("original", "distilled"))
        assert {**original, "model": ""} == {**distilled, "model": ""}
    bodies = [workload.body(index, "original") for index in range(200)]
    assert {body["num_inference_steps"] for body in bodies} == {10, 25, 50}
    assert len({body["prompt"] for body in bodies}) > 30
    assert len({body["seed"] for body in bodies}) == 200


def test_a_share_of_the_requests_are_edits_and_the_others_stay_the_same() -> None:
    plain, mixed = Workload.shipped("miniature"), Workload.shipped("miniature", edits=0.2)
    bodies = [
        (plain.body(index, "distilled"), mixed.body(index, "distilled")) for index in range(400)
    ]
    edits = [ours for _, ours in bodies if "image" in ours]
    assert 0.13 < len(edits) / len(bodies) < 0.27
    assert {edit["image"] for edit in edits} == set(PICTURES)
    assert all(theirs == ours for theirs, ours in bodies if "image" not in ours)


@pytest.mark.parametrize(("family", "side_px"), [("miniature", 96), ("sd-v1", 512)])
def test_an_edit_is_sent_as_a_form_that_the_service_reads(family: str, side_px: int) -> None:
    asked = Workload.shipped(family, edits=1.0, num_inference_steps=(4,)).body(3, "distilled")
    content, content_type = content_of(asked)

    async def parts() -> AsyncIterator[bytes]:
        yield content

    reading = read_form(
        {"content-type": content_type}, parts(), files=("image", "mask"), max_bytes=2**20,
        timeout_s=HANG_S,
    )  # fmt: skip
    form = asyncio.run(reading)
    read = EditRequest.parse(form.fields)
    assert (read.prompt, read.strength) == (asked["prompt"], STRENGTH)
    assert Image.open(io.BytesIO(form.files["image"])).size == (side_px, side_px)
    assert path_of(asked) == "/v1/images/edits"


def test_another_seed_asks_for_something_else() -> None:
    first, second = (
        Workload.shipped("miniature", seed=seed).body(0, "original") for seed in (0, 1)
    )
    assert first != second
    assert first == Workload.shipped("miniature", seed=0).body(0, "original")


@pytest.mark.parametrize("family", ["miniature", "sd-v1"])
def test_the_shipped_prompts_are_requests(family: str) -> None:
    workload = Workload.shipped(family, n=2, size="64x64", guidance_scale=1.5)
    assert len(workload.prompts) == len(set(workload.prompts)) >= 40
    for index in range(100):
        parse_request(json.dumps(workload.body(index, "original")).encode())


def test_the_miniatures_prompts_lie_within_its_scenes() -> None:
    for prompt in Workload.shipped("miniature").prompts:
        wish = parse_caption(prompt)
        assert wish.thing
        assert wish.colour


def test_poisson_arrivals_have_their_rate_and_irregular_gaps() -> None:
    schedule_s = arrivals.poisson(20, 200, seed=3)
    assert len(schedule_s) == pytest.approx(4000, rel=0.05)
    exact_s = arrivals.poisson_of(4000, 20, seed=3)
    assert len(exact_s) == 4000
    assert 0 <= exact_s[0] <= exact_s[-1] < 200
    for gaps_s in map(np.diff, (schedule_s, exact_s)):
        # As exponential gaps have it.
        assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.1)
    assert schedule_s == arrivals.poisson(20, 200, seed=3) != arrivals.poisson(20, 200, seed=4)
    assert exact_s == arrivals.poisson_of(4000, 20, seed=3) != arrivals.poisson_of(4000, 20, seed=4)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrivals.constant(4, 1) == [0, 0.25, 0.5, 0.75]


def test_a_trace_is_read_sorted_and_begins_at_zero(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    # As spreadsheets and people write it: with a byte order mark, and a blank after the comma.
    path.write_text("user, arrival_s\na, 12.5\nb, 10\n", encoding="utf-8-sig")
    assert arrivals.trace(path) == [0, 2.5]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param("at\n1\n", "no column arrival_s", id="column"),
        pytest.param("arrival_s\n1\nsoon\n", "line 3: 'soon' is no number", id="number"),
        pytest.param("arrival_s\nnan\n", "line 2: 'nan' is no number", id="nan"),
        pytest.param("arrival_s\n", "holds no arrivals", id="empty"),
    ],
)
def test_a_trace_that_is_none_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        arrivals.trace(path)


def _with(change: Callable[[dict[str, Any]], object]) -> bytes:
    reply = reply_to(ASKED)
    change(reply)
    return json.dumps(reply).encode()


def _picture(colour: str, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_right_reply_is_ok_and_its_timings_are_kept() -> None:
    verdict = judge(200, {}, _with(lambda reply: None), ASKED)
    assert verdict.outcome == "ok"
    assert verdict.timings is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda r: r["data"].pop(), "1 pictures, 2 were asked for", id="count"),
        pytest.param(lambda r: r.update(model="original"), "drawn by 'original'", id="variant"),
        pytest.param(
            lambda r: r["data"][1].update(seed=5), "picture 1 has another seed", id="seed"
        ),
        pytest.param(
            lambda r: r["data"][0].update(b64_json="AAAA"), "does not decode", id="no-picture"
        ),
        pytest.param(lambda r: r["data"][0].update(b64_json="?"), "does not decode", id="base64"),
        pytest.param(
            lambda r: r["data"][1].update(b64_json=None, flagged=True),
            "picture 1 was flagged",
            id="flagged",
        ),
        pytest.param(
            lambda r: r["data"][0].update(b64_json=_picture("red", (64, 64))), "blank", id="blank"
        ),
        pytest.param(
            lambda r: r["data"][0].update(b64_json=_picture("red", (32, 64))),
            "is 32x64, the reply says 64x64",
            id="size",
        ),
        pytest.param(lambda r: r.pop("data"), "not a reply of the Images API", id="shape"),
        pytest.param(lambda r: r.update(data=None), "not a reply of the Images API", id="null"),
    ],
)
def test_a_wrong_reply_is_a_failure_and_says_why(
    change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    verdict = judge(200, {}, _with(change), ASKED)
    assert verdict.outcome == "failed"
    assert reason in verdict.reason


AUTO = {**ASKED, "model": "auto"}


def test_for_auto_any_variant_may_answer_that_is_named_with_a_reason() -> None:
    def answer(reply: dict[str, Any]) -> None:
        reply.update(model="distilled", model_reason="degraded under load")

    verdict = judge(200, {}, _with(answer), AUTO)
    assert (verdict.outcome, verdict.model, verdict.model_reason) == (
        "ok", "distilled", "degraded under load",
    )  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"model": "auto", "model_reason": "x"}, id="nobody"),
        pytest.param({"model": "distilled", "model_reason": None}, id="no-reason"),
        pytest.param({"model": None, "model_reason": "x"}, id="null"),
    ],
)
def test_for_auto_a_reply_that_does_not_say_who_and_why_is_a_failure(said: dict[str, Any]) -> None:
    verdict = judge(200, {}, _with(lambda reply: reply.update(said)), AUTO)
    assert "doesn't say which variant answered" in verdict.reason


@pytest.mark.parametrize(
    ("asked", "drawn_by", "reason"),
    [
        pytest.param(AUTO, "distilled", "", id="as-named"),
        pytest.param(AUTO, "original", "is by 'original', the reply says 'distilled'", id="auto"),
        pytest.param(ASKED, "original", "is by 'original'", id="pinned"),
    ],
)
def test_a_picture_by_another_variant_than_the_reply_names_is_a_failure(
    asked: dict[str, Any], drawn_by: str, reason: str
) -> None:
    def draw(reply: dict[str, Any]) -> None:
        chunk, buffer = PngInfo(), io.BytesIO()
        chunk.add_text(
            "parameters", f"a vase, Model: any\nSteps: 2, Model: {drawn_by}, Version: x 1"
        )
        image = Image.linear_gradient("L").resize((64, 64))
        image.save(buffer, "PNG", pnginfo=chunk)
        reply.update(model="distilled", model_reason="degraded under load")
        for item in reply["data"]:
            item["b64_json"] = base64.b64encode(buffer.getvalue()).decode()

    verdict = judge(200, {}, _with(draw), asked)
    assert verdict.outcome == ("failed" if reason else "ok")
    assert reason in verdict.reason


def test_a_picture_that_would_fill_the_memory_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    verdict = judge(200, {}, _with(lambda reply: None), ASKED)
    assert "does not decode" in verdict.reason


def test_timings_of_another_shape_are_left_out() -> None:
    verdict = judge(200, {}, _with(lambda reply: reply.update(timings=[1])), ASKED)
    assert (verdict.outcome, verdict.timings) == ("ok", None)


def test_a_size_that_was_not_asked_for_is_a_failure() -> None:
    verdict = judge(200, {}, _with(lambda reply: None), {**ASKED, "size": "128x64"})
    assert verdict.reason == "size 64x64, 128x64 was asked for"


def test_a_429_is_counted_apart_with_its_retry_after() -> None:
    verdict = judge(429, {"retry-after": "7"}, b"{}", ASKED)
    assert (verdict.outcome, verdict.retry_after_s) == ("rejected", 7)
    assert judge(429, {"retry-after": "soon"}, b"", ASKED).retry_after_s is None


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"error": {"message": "no room"}}'])
def test_any_other_status_is_a_failure_with_its_message(content: bytes) -> None:
    verdict = judge(503, {}, content, ASKED)
    assert verdict.outcome == "failed"
    assert verdict.reason.startswith("status 503: ")


STREAMED = {"model": "distilled", "prompt": "x", "seed": 7, "stream": True, "partial_images": 2}


def _stream(*kinds: str, **changes: object) -> list[bytes]:
    """Events of one picture, as lines of a body."""
    fields = {
        **reply_to(STREAMED)["data"][0], "image_index": 0, "model": "distilled", "size": "64x64",
        **changes,
    }  # fmt: skip
    events = (json.dumps({"type": f"image_generation.{kind}", **fields}) for kind in kinds)
    return [line for event in events for line in (b": waiting", b"data: " + event.encode())]


DONE = [b"data: [DONE]"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param(_stream("partial_image", "completed") + DONE, "", id="right"),
        pytest.param(_stream("partial_image", "completed"), "the stream broke off", id="no-end"),
        pytest.param(_stream("completed") + DONE, "no preview came before", id="no-preview"),
        pytest.param(_stream("partial_image") + DONE, "0 pictures, 1 were", id="no-picture"),
        pytest.param(
            _stream("partial_image", "completed", seed=8) + DONE, "another seed", id="seed"
        ),
        pytest.param(
            [*_stream("partial_image"), b'data: {"error": {"message": "gone"}}'],
            "error event: gone",
            id="error",
        ),
        pytest.param([b"data: {"], "not a stream of the Images API", id="no-json"),
    ],
)
def test_a_stream_is_judged_as_a_whole(lines: list[bytes], reason: str) -> None:
    clock = itertools.count()
    verdict, arrived_s = judge_stream(lines, STREAMED, lambda: float(next(clock)))
    assert verdict.outcome == ("failed" if reason else "ok"), verdict
    assert reason in verdict.reason
    assert arrived_s == [float(at) for at in range(len(arrived_s))]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([3.0], 95) == 3
    assert percentile([], 95) is None


def test_latency_counts_from_the_scheduled_instant() -> None:
    assert sample(0.5, 1.0, fired_s=1.2).latency_s == 0.5


def test_a_summary_counts_every_request_once() -> None:
    samples = [sample(0.1, at_s) for at_s in range(8)]
    samples += [sample(0.01, 8, outcome="rejected"), sample(2.0, 9, outcome="failed")]
    summary = summarize(samples, 10, slo_s=0.2)
    assert (summary.ok, summary.rejected, summary.failed, summary.requests) == (8, 1, 1, 10)
    assert summary.offered_per_s == 1
    assert summary.achieved_per_s == pytest.approx(8 / 11)  # The failed one ended at 11 s.
    assert summary.within_slo == 0.8
    assert summary.void == ""


@pytest.mark.parametrize(("late", "void"), [(1, False), (2, True)])
def test_a_run_that_could_not_keep_up_is_void(late: int, void: bool) -> None:
    samples = [sample(0.1, at_s) for at_s in range(100 - late)]
    samples += [sample(0.1, at_s, fired_s=at_s + 0.011) for at_s in range(late)]
    summary = summarize(samples, 100, None)
    assert summary.late == late
    assert bool(summary.void) == void


def test_unsent_requests_make_a_run_void() -> None:
    assert "1 requests were not sent" in summarize([sample(0, outcome="unsent")], 1, None).void


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["--key", "s3cret", "--quick"], ["--key", "...", "--quick"]),
        (["--key=s3cret"], ["--key=..."]),
        (["--quick"], ["--quick"]),
    ],
)
def test_a_key_is_not_written_down(arguments: list[str], written: list[str]) -> None:
    assert without_key(arguments, "s3cret") == written
    assert without_key(arguments, None) == arguments


def test_a_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSD_API_KEY", raising=False)
    assert environments_key() is None
    monkeypatch.setenv("DSD_API_KEY", "k")
    assert environments_key() == "k"
