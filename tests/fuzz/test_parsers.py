"""Parsers of our own: whatever they read, they answer, or refuse in the way that they promise."""

import base64
import hashlib
import io
import json
import math
import re
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loadtests import arrivals
from loadtests.compare.gate import NotComparable, read_report
from loadtests.openloop import _steps
from loadtests.plan import NotPlannable, _mix
from loadtests.replies import judge, judge_stream
from serve.catalogue import MINIATURE
from serve.errors import InvalidRequest, KeysError, NotAcceptable, WeightsError
from serve.generation import PictureFormat, infotext
from serve.http.gate import _authenticated
from serve.http.negotiation import Answer, negotiate
from serve.http.options import RequestLimits
from serve.http.schemas import GenerationRequest, parse_request
from serve.keys import KeyFile, read_keys
from serve.miniature import WEIGHTS_DIR
from serve.replica.encoding import encode
from serve.weights.manifest import read_manifest
from tests.fake_service import reply_to
from tests.fakes import generation

VARIANT = MINIATURE.variants["original"]
OFFERED: tuple[Answer, ...] = ("application/json", "image/png", "image/jpeg", "image/webp")
# Machines are busy.
unhurried = settings(deadline=None)
# Each example writes the same file anew.
one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def words(*known: str) -> st.SearchStrategy[str]:
    """Text of the words that a grammar knows, and of anything between them."""
    parts = st.sampled_from(known) | st.text(max_size=3)
    return st.lists(parts, max_size=12).map("".join)


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """The content cut, with bytes replaced, or with a piece twice."""

    def change(at: int, length: int, new: bytes) -> bytes:
        return content[:at] + new + content[at + length :]

    places = st.integers(0, len(content))
    return st.builds(change, places, st.integers(0, 40), st.binary(max_size=40)) | places.map(
        lambda at: content[:at]
    )


# Requests --------------------------------------------------------------------------------------


@unhurried
@given(accept=words(*OFFERED, "image/*", "*/*", "*", ";q=", "0.5", "nan", ",", ";", " ", "q", "="))
def test_an_accept_header_gets_something_that_is_offered_or_406(accept: str) -> None:
    try:
        assert negotiate(accept, None) in OFFERED
    except NotAcceptable as fault:
        assert fault.message.isascii()


@unhurried
@given(
    weights=st.permutations([0.1, 0.2, 0.7, 1.0]),
    spaces=st.sampled_from(["", " ", "\t "]),
)
def test_of_any_weights_the_highest_wins(weights: list[float], spaces: str) -> None:
    ranges = (f"{kind};{spaces}q={weight}" for kind, weight in zip(OFFERED, weights, strict=True))
    assert negotiate(f",{spaces}".join(ranges), None) == OFFERED[weights.index(1.0)]


@unhurried
@given(size=words("x", "X", "64", "96", "192", "200", "-8", "+", "8", "0", "٩٦", "\n", "1e2"))
def test_a_size_is_refused_or_within_the_variants_bounds(size: str) -> None:
    try:
        body = json.dumps({"prompt": "x", "size": size}).encode()
        drawn = parse_request(body).resolve(VARIANT, RequestLimits(max_image_steps=10**9))
    except InvalidRequest as fault:
        assert fault.param == "size"
    else:
        sides = (drawn.width_px, drawn.height_px)
        assert size in ("auto", f"{sides[0]}x{sides[1]}")
        assert all(64 <= side <= 192 and side % 8 == 0 for side in sides)


NAMES = st.sampled_from([*GenerationRequest.model_fields, "x"])
BODIES = JSON | st.dictionaries(NAMES, JSON).map(lambda fields: {"prompt": "x", **fields})


@unhurried
@given(body=BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=200))
def test_whatever_the_body_it_is_accepted_or_refused_in_ascii(body: bytes) -> None:
    try:
        request = parse_request(body)
    except InvalidRequest as fault:
        assert fault.status == 400
        assert fault.message.isascii()
        assert len(fault.message) < 600
    else:
        assert request.prompt.strip()


@unhurried
@given(pairs=st.lists(st.tuples(NAMES, SCALARS), max_size=6))
def test_a_field_that_comes_twice_is_never_accepted(pairs: list[tuple[str, Any]]) -> None:
    fields = [("prompt", "x"), *pairs]
    body = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields)
    try:
        parse_request(f"{{{body}}}".encode())
    except InvalidRequest:
        return
    assert len({name for name, _ in fields}) == len(fields)


# Without the line break at a prompt's end, which is the form's own.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200)
LAST_LINE = re.compile(
    r"Steps: 5, Sampler: PLMS, CFG scale: 4, Seed: 7, Size: 64x64, Model: original, "
    r"Version: distilled-sd-serve \d+\.\d+\.\d+"
)


@unhurried
@given(
    prompt=st.lists(TEXT | st.just("Steps: 1, Seed: 2"), min_size=1, max_size=3).map("\n".join),
    negative=TEXT | st.just("x\nSteps: 9, Seed: 9"),
)
def test_whatever_a_prompt_says_a_pictures_last_line_is_its_parameters(
    prompt: str, negative: str
) -> None:
    text = infotext(generation(prompt=prompt, negative_prompt=negative), 0)
    assert LAST_LINE.fullmatch(text.rsplit("\n", 1)[-1])
    assert text.startswith(f"{prompt}\nNegative prompt: {negative}\n")


@given(prompt=TEXT)
@settings(max_examples=30, deadline=None)
def test_parameters_come_out_of_a_picture_as_they_went_in(prompt: str) -> None:
    text = infotext(generation(prompt=prompt), 0)
    png = encode(np.zeros((8, 8, 3), np.uint8), PictureFormat("png", 100), parameters=text)
    assert Image.open(io.BytesIO(png)).info["parameters"] == text


# Keys ------------------------------------------------------------------------------------------


@one_file
@given(
    content=st.binary(max_size=300) | words("alice ", "a" * 64, " ", "\n", "#", ",").map(str.encode)
)
def test_a_file_of_keys_is_read_or_refused_and_never_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    try:
        keys = read_keys(path, MINIATURE.variants)
    except KeysError as fault:
        told = str(fault).removeprefix(f"api_keys_file: {str(path)!r}")
        assert re.match(r", line \d+: [a-z0-9' ,:;-]*\Z", told), told
    else:
        assert len({key.name for key in keys}) == len({key.digest for key in keys}) == len(keys)
        assert all(re.fullmatch(r"[\w.-]+", key.name, re.ASCII) for key in keys)


@one_file
@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), unique=True,
                   max_size=5),
    gap=st.sampled_from([" ", "\t", "   "]),
    end=st.sampled_from(["\n", "\r\n", "\n\n# x\n"]),
)  # fmt: skip
def test_every_key_that_a_file_holds_is_found_and_no_other(
    tmp_path: Path, names: list[str], gap: str, end: str
) -> None:
    path = tmp_path / "keys"
    lines = (f"{name}{gap}{hashlib.sha256(name.encode()).hexdigest()}{end}" for name in names)
    path.write_bytes("".join(lines).encode())
    keys = KeyFile(path, MINIATURE.variants)
    for name in names:
        found = keys.find(name.encode())
        assert found is not None
        assert found.name == name
    assert keys.find(b"somebody else") is None


@unhurried
@given(
    value=st.binary(max_size=60)
    | words("Bearer", "bearer", "Basic", " ", "key", "bmFtZTprZXk=").map(str.encode),
    basic=st.booleans(),
)
def test_an_authorization_header_presents_bytes_or_nothing(value: bytes, basic: bool) -> None:
    presented: list[bytes] = []

    class Keys:
        def find(self, one: bytes) -> object:
            presented.append(one)
            return object()

    try:
        _authenticated([(b"authorization", value)], Keys(), basic=basic)  # type: ignore[arg-type]
    except InvalidRequest as fault:
        assert fault.status == 401
        assert presented == []
    else:
        if not (basic and value.strip().lower().startswith(b"basic")):
            assert value.strip().lower().startswith(b"bearer")
            assert value.strip().endswith(presented[0])


# Weights ---------------------------------------------------------------------------------------

MANIFEST = (WEIGHTS_DIR / "manifest.json").read_bytes()


@one_file
@given(content=mutated(MANIFEST) | JSON.map(lambda one: json.dumps(one).encode()) | st.binary())
def test_a_manifest_is_read_or_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    try:
        manifest = read_manifest(tmp_path)
    except WeightsError as fault:
        assert fault.message.startswith(str(tmp_path / "manifest.json"))
    else:
        names = [*manifest.components, *(n for c in manifest.components.values() for n in c.files)]
        assert all(Path(name).name == name for name in names)


# Load tests ------------------------------------------------------------------------------------

ASKED = {"model": "distilled", "prompt": "x", "seed": 7, "n": 1, "partial_images": 0}
REPLY = json.dumps(reply_to(ASKED, "16x16"))
PICTURE = base64.b64decode(json.loads(REPLY)["data"][0]["b64_json"])


def headers_with(retry_after: str) -> Message:
    found = Message()
    found["retry-after"] = "".join(one for one in retry_after if one.isprintable())
    return found


@given(
    content=st.binary() | mutated(REPLY.encode()) | JSON.map(lambda one: json.dumps(one).encode())
)
@unhurried
def test_a_reply_is_judged_whatever_it_is(content: bytes) -> None:
    for status in (200, 500):
        verdict = judge(status, {}, content, ASKED)
        assert verdict.outcome == "failed" or content == REPLY.encode() or status == 200


@given(picture=mutated(PICTURE))
@unhurried
def test_a_damaged_picture_is_a_failure_and_no_crash(picture: bytes) -> None:
    reply = reply_to(ASKED, "16x16")
    reply["data"][0]["b64_json"] = base64.b64encode(picture).decode()
    verdict = judge(200, {}, json.dumps(reply).encode(), ASKED)
    assert verdict.outcome in ("ok", "failed")
    assert judge(200, {}, REPLY.encode(), ASKED).outcome == "ok"


@pytest.mark.parametrize("opened", ["[", '{"data":'])
def test_a_reply_without_a_bottom_is_a_failure(opened: str) -> None:
    deep = opened.encode() * 100_000
    assert judge(200, {}, deep, ASKED).outcome == "failed"
    assert judge(500, {}, deep, ASKED).outcome == "failed"
    assert judge_stream([b"data: " + deep], ASKED, lambda: 0.0)[0].outcome == "failed"


@unhurried
@given(value=words("1", "7", ".", "-", "nan", "inf", "1e309", "Wed, 21 Oct 2026 07:28:00 GMT"))
def test_retry_after_is_a_finite_number_of_seconds_or_nothing(value: str) -> None:
    after_s = judge(429, headers_with(value), b"", ASKED).retry_after_s  # type: ignore[arg-type]
    assert after_s is None or (math.isfinite(after_s) and after_s >= 0)


EVENT = {
    **reply_to(ASKED, "16x16")["data"][0],
    "type": "image_generation.completed", "image_index": 0, "model": "distilled", "size": "16x16",
}  # fmt: skip
LINES = [b"event: image_generation.completed\n", f"data: {json.dumps(EVENT)}\n".encode(), b"\n",
         b": waiting\n", b"data: [DONE]\n"]  # fmt: skip


@given(
    lines=st.lists(
        st.sampled_from(LINES)
        | st.binary(max_size=60)
        | JSON.map(lambda one: f"data: {json.dumps(one)}\n".encode())
        | st.fixed_dictionaries({name: st.just(value) | JSON for name, value in EVENT.items()}).map(
            lambda one: f"data: {json.dumps(one)}\n".encode()
        ),
        max_size=6,
    )
)
@unhurried
def test_a_stream_is_judged_whatever_its_lines(lines: list[bytes]) -> None:
    clock = iter(range(100))
    verdict, arrived_s = judge_stream(lines, ASKED, lambda: float(next(clock)))
    assert verdict.outcome in ("ok", "failed")
    assert arrived_s == sorted(arrived_s)
    if b"data: [DONE]" not in [line.strip() for line in lines]:
        assert verdict.outcome == "failed"


def test_a_whole_stream_is_a_picture() -> None:
    assert judge_stream(LINES, ASKED, lambda: 0.0)[0].outcome == "ok"


@one_file
@given(content=st.binary(max_size=200) | words("arrival_s", "\n", ",", '"', "1.5", "nan", "\0").map(
    lambda text: f"arrival_s\n{text}".encode("utf-8", "surrogatepass")))  # fmt: skip
def test_a_trace_is_instants_from_0_on_or_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    try:
        schedule_s = arrivals.trace(path)
    except ValueError as fault:
        assert str(fault).startswith(str(path))
    else:
        assert schedule_s[0] == 0
        assert schedule_s == sorted(schedule_s)
        assert all(map(math.isfinite, schedule_s))


@unhurried
@given(rate=st.floats(0.01, 100), requests=st.integers(1, 500), seed=st.integers())
def test_schedules_rise_within_their_time(rate: float, requests: int, seed: int) -> None:
    lasts_s = requests / rate
    exact = arrivals.poisson_of(requests, rate, seed)
    assert len(exact) == requests
    for schedule_s in (exact, arrivals.poisson(rate, lasts_s, seed), arrivals.constant(rate, 5)):
        assert schedule_s == sorted(schedule_s)
        assert all(0 <= at_s <= max(lasts_s, 5) for at_s in schedule_s)


@unhurried
@given(text=words("original", "distilled", "=", ",", "0.5", "1", "nan", "-1", "inf", "1e400"))
def test_a_mix_is_shares_of_1_or_refused(text: str) -> None:
    try:
        shares = _mix(text, ("original", "distilled"))
    except NotPlannable:
        return
    assert math.isclose(sum(shares.values()), 1, abs_tol=0.01)
    assert all(0 < share <= 1.01 for share in shares.values())


@unhurried
@given(text=words("1", "25", ",", "²", "٣", "-", " "))
def test_step_counts_are_numbers_or_a_value_error_that_names_them(text: str) -> None:
    try:
        assert all(count >= 0 for count in _steps(text))
    except ValueError as fault:
        assert str(fault).startswith("--steps: ")


@one_file
@given(content=JSON.map(lambda one: json.dumps(one).encode()) | st.binary())
def test_another_file_is_no_earlier_report(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(NotComparable):
        read_report(path)
