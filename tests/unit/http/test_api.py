"""The HTTP face over a fake router: no Ray, no server."""

import base64
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.catalogue import MINIATURE, SD_V1
from serve.config import AppArgs
from serve.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    Flagged,
    OutOfDeviceMemory,
    Overloaded,
    ServingError,
    VariantNotFound,
    VariantUnavailable,
    shown,
)
from serve.generation import (
    Choice,
    Drawing,
    FinishedPicture,
    Generation,
    PartialPicture,
    PictureEvent,
    PictureFormat,
    Timings,
)
from serve.http.api import build_api
from serve.http.body import MAX_BODY_BYTES
from serve.http.options import HttpOptions
from serve.miniature import WEIGHTS_DIR
from serve.replica.encoding import encode
from serve.replica_info import Memory, ReplicaInfo
from serve.routing.auto import QualityFirstPolicy
from serve.variants import Family, Variant, offered_models
from serve.weights.manifest import Manifest, Origin, PinnedComponent, read_manifest
from tests import asgi

URL = "/v1/images/generations"
JSON = {"content-type": "application/json"}


class FakeRouter:
    """Draws pictures of one grey, the seed's; remembers what it was asked."""

    family: Family = MINIATURE
    variants: dict[str, Variant] = AppArgs().served
    manifest = read_manifest(WEIGHTS_DIR)

    def __init__(self) -> None:
        self.chosen: list[str] = []
        self.asked: list[tuple[str, Generation, PictureFormat]] = []
        self.fault: Exception | None = None
        # After the previews.
        self.late_fault: Exception | None = None
        self.warnings: tuple[str, ...] = ()
        # The seeds whose pictures are flagged.
        self.flagged: set[int] = set()
        self.replicas = dict.fromkeys(self.variants, 1)
        self.info: dict[str, ReplicaInfo | None] = dict.fromkeys(self.variants)

    default_model = "original"
    auto: QualityFirstPolicy | None = QualityFirstPolicy(kind="quality-first", slo_s=5)

    @property
    def models(self) -> list[str]:
        return offered_models(self.variants, self.auto is not None)

    async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
        self.chosen.append(model)
        if model == "auto" and self.auto is not None:
            # Whichever draws it, it is the same request.
            assert len({resolve(variant).seeds for variant in self.variants.values()}) == 1
            return Choice(resolve(self.variants["distilled"]), "degraded under load")
        if model not in self.variants:
            raise VariantNotFound(f"model: {shown(model)} was given", "model")
        return Choice(resolve(self.variants[model]), None)

    async def forecast(self, generation: Generation) -> float:
        return 1.0

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        self.asked.append((generation.variant, generation, picture_format))
        if self.fault is not None:
            raise self.fault
        size = (generation.height_px, generation.width_px, 3)
        pictures = [
            None
            if seed in self.flagged
            else encode(np.full(size, seed % 256, np.uint8), picture_format)
            for seed in generation.seeds
        ]
        return Drawing(tuple(pictures), Timings(0.1, 0.2, 0.3, 0.4), self.warnings)

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        drawing = await self.draw(generation, picture_format)
        for image, picture in enumerate(drawing.pictures):
            if picture is None:
                continue
            for index in range(generation.previews):
                yield PartialPicture(image, index, picture)
            if self.late_fault is not None:
                raise self.late_fault
            yield FinishedPicture(image, picture, drawing.timings, drawing.warnings)

    async def warm_replicas(self) -> dict[str, int]:
        return self.replicas

    async def replica_info(self) -> dict[str, ReplicaInfo | None]:
        return self.info


Call = Callable[..., httpx.Response]


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def call(router: FakeRouter) -> Call:
    return partial(asgi.call, build_api(router, HttpOptions()))


def assert_openai_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


def test_the_reply_has_the_images_apis_shape(call: Call, router: FakeRouter) -> None:
    router.warnings = ("prompt: 90 tokens, cut to the first 77",)
    body = {"model": "distilled", "prompt": "a star", "seed": 2**32 - 1, "n": 2, "size": "64x72"}
    response = call("POST", URL, json=body)
    assert response.status_code == 200
    reply = response.json()
    assert set(reply) == {
        "created", "model", "model_reason", "data", "output_format", "size", "timings", "warnings",
    }  # fmt: skip
    assert reply["model"] == "distilled"
    assert [image["seed"] for image in reply["data"]] == [2**32 - 1, 0]
    assert reply["size"] == "64x72"
    assert reply["timings"] == {"queue_s": 0.1, "denoise_s": 0.2, "decode_s": 0.3, "encode_s": 0.4}
    assert reply["warnings"] == list(router.warnings)
    for image, grey in zip(reply["data"], (255, 0), strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))
        assert (picture.format, picture.size) == ("PNG", (64, 72))
        assert picture.getpixel((0, 0)) == (grey, grey, grey)


def test_lcm_is_refused_naming_the_served_variants_that_allow_it(
    call: Call, router: FakeRouter
) -> None:
    for served, named in (("all", '"original-lcm", "distilled-lcm"'), ("original", "none that is")):
        router.variants = AppArgs(variants=(served,)).served
        response = call("POST", URL, json={"prompt": "x", "model": "original", "scheduler": "lcm"})
        error = assert_openai_error(response, 400, "invalid_value")
        assert f"was distilled for it: {named}" in error["message"]


def test_what_auto_chose_is_named_with_the_reason(call: Call) -> None:
    body = {"prompt": "x", "model": "auto"}
    response = call("POST", URL, json=body)
    assert response.json()["model"] == response.headers["x-model"] == "distilled"
    assert response.json()["model_reason"] == "degraded under load"
    assert response.headers["x-model-reason"] == "degraded under load"
    (event,) = events_of(call("POST", URL, json={**body, "stream": True}))
    assert (event["model"], event["model_reason"]) == ("distilled", "degraded under load")
    pinned = call("POST", URL, json={"prompt": "x", "model": "original"})
    assert pinned.json()["model_reason"] is None
    assert "x-model-reason" not in pinned.headers
    assert call("GET", "/v1/models").json()["auto"]["kind"] == "quality-first"


def test_a_flagged_picture_is_null_and_says_so(call: Call, router: FakeRouter) -> None:
    router.flagged = {6}
    router.warnings = ("image 1 (seed 6): flagged by the safety checker, and left out",)
    response = call("POST", URL, json={"prompt": "x", "n": 3, "seed": 5})
    assert response.status_code == 200
    first, flagged, last = response.json()["data"]
    assert flagged == {"b64_json": None, "seed": 6, "flagged": True}
    for image, seed in ((first, 5), (last, 7)):
        assert (image["seed"], image["flagged"]) == (seed, False)
        assert Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).getpixel((0, 0))[0] == (
            seed
        )
    assert response.json()["warnings"] == list(router.warnings)
    events = events_of(call("POST", URL, json={"prompt": "x", "n": 3, "seed": 5, "stream": True}))
    assert [event["seed"] for event in events] == [5, 7]


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
def test_a_request_whose_pictures_are_all_flagged_is_refused_as_the_images_api_does(
    call: Call, router: FakeRouter, accept: str
) -> None:
    router.fault = Flagged("every picture of this request was flagged by the safety checker")
    body = {"prompt": "x", "stream": accept == "text/event-stream"}
    response = call("POST", URL, json=body, headers={"accept": accept})
    error = assert_openai_error(response, 400, "content_policy_violation")
    assert error["type"] == "image_generation_user_error"
    assert error["param"] is None


@pytest.mark.parametrize("body", [{}, {"model": None}], ids=["absent", "null"])
def test_without_a_model_the_services_own_draws(
    call: Call, router: FakeRouter, body: dict[str, None]
) -> None:
    router.default_model = "distilled"
    assert call("POST", URL, json={"prompt": "x", **body}).json()["model"] == "distilled"
    assert router.asked[0][0] == "distilled"
    assert call("GET", "/v1/models").json()["default_model"] == "distilled"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        pytest.param("image/png", "image/png", id="png"),
        pytest.param("image/jpeg", "image/jpeg", id="jpeg"),
        pytest.param("image/webp", "image/webp", id="webp"),
        pytest.param("image/webp;q=0.9, image/jpeg", "image/jpeg", id="highest-q"),
        pytest.param("application/json;q=0.1, image/png", "image/png", id="png-before-json"),
        pytest.param("*/*", "application/json", id="anything"),
        pytest.param("application/json", "application/json", id="json"),
        pytest.param("text/html", "application/json", id="a-browsers-least"),
        pytest.param(
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "application/json",
            id="a-browser",
        ),
        pytest.param(
            "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "application/json", id="java"
        ),
        pytest.param("image/png, */*;q=0.1", "application/json", id="png-and-anything"),
        pytest.param("image/png, application/json;q=0.5, */*", "image/png", id="png-over-json"),
        pytest.param("image/png, application/json", "application/json", id="png-or-json"),
        pytest.param("application/json;q=0, */*", "image/png", id="anything-but-json"),
        pytest.param("image/jpg", "image/jpeg", id="jpg"),
        pytest.param("*", "application/json", id="star"),
        pytest.param("text/*", "application/json", id="any-text"),
        pytest.param("image/png;q=0, */*", "application/json", id="png-refused"),
        pytest.param("image/*", "image/png", id="any-picture"),
        pytest.param("application/*;q=0.2, image/*;q=0.3", "image/png", id="ranges"),
    ],
)
def test_accept_decides_between_json_and_bytes(call: Call, accept: str, media_type: str) -> None:
    response = call("POST", URL, json={"prompt": "x", "seed": 9}, headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    if media_type != "application/json":
        picture = Image.open(io.BytesIO(response.content))
        assert picture.get_format_mimetype() == media_type
        assert response.headers["x-seed"] == "9"
        assert response.headers["x-model"] == "original"


def test_the_bodys_format_decides_among_pictures(call: Call) -> None:
    body = {"prompt": "x", "output_format": "webp"}
    response = call("POST", URL, json=body, headers={"accept": "image/*"})
    assert response.headers["content-type"] == "image/webp"


@pytest.mark.parametrize(
    "accept", ["application/xml", "image/gif", "image/png;q=0", "image/png;q=x"]
)
def test_an_accept_header_that_nothing_fits_is_refused(
    call: Call, router: FakeRouter, accept: str
) -> None:
    response = call("POST", URL, json={"prompt": "x"}, headers={"accept": accept})
    error = assert_openai_error(response, 406, "not_acceptable")
    assert "image/webp" in error["message"]
    assert router.asked == []


def test_headers_name_variant_seed_and_times(call: Call) -> None:
    for accept in ("application/json", "image/png"):
        body = {"prompt": "x", "seed": 3, "model": "distilled"}
        headers = call("POST", URL, json=body, headers={"accept": accept}).headers
        assert (headers["x-model"], headers["x-seed"]) == ("distilled", "3")
        assert headers["server-timing"] == (
            "queue;dur=100.0, denoise;dur=200.0, decode;dur=300.0, encode;dur=400.0"
        )


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The data of a stream's events, each checked against its name, up to the end mark."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *messages, last = response.text.strip().split("\n\n")
    assert last == "data: [DONE]"
    found = []
    for message in messages:
        name, data = message.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def test_a_stream_has_the_images_apis_events(call: Call, router: FakeRouter) -> None:
    router.warnings = ("prompt: cut",)
    body = {"prompt": "x", "n": 2, "seed": 5, "stream": True, "partial_images": 2}
    response = call("POST", URL, json=body)
    events = events_of(response)
    assert [(event["type"].split(".")[1], event["image_index"]) for event in events] == [
        ("partial_image", 0), ("partial_image", 0), ("completed", 0),
        ("partial_image", 1), ("partial_image", 1), ("completed", 1),
    ]  # fmt: skip
    assert [event["seed"] for event in events] == [5] * 3 + [6] * 3
    assert [event["partial_image_index"] for event in events if "usage" not in event] == [0, 1] * 2
    for event in events:
        assert Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))).format == "PNG"
        assert (event["size"], event["output_format"]) == ("96x96", "png")
    assert events[-1]["timings"]["denoise_s"] == 0.2
    assert events[-1]["warnings"] == ["prompt: cut"]
    assert response.headers["cache-control"] == "no-store"
    assert router.asked[0][1].previews == 2


def test_an_error_before_the_first_event_has_its_status(call: Call, router: FakeRouter) -> None:
    router.fault = Overloaded("full", 4.2)
    response = call("POST", URL, json={"prompt": "x", "stream": True})
    assert_openai_error(response, 429, "overloaded")
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param(VariantUnavailable("gone", 3), "variant_unavailable", id="known"),
        pytest.param(Flagged("flagged"), "content_policy_violation", id="flagged"),
        pytest.param(RuntimeError("secret"), "internal_error", id="unexpected"),
    ],
)
def test_an_error_after_the_stream_began_is_an_event(
    call: Call, router: FakeRouter, fault: Exception, code: str
) -> None:
    router.late_fault = fault
    response = call("POST", URL, json={"prompt": "x", "stream": True, "partial_images": 1})
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.split("data: ")[1])["error"]["code"] == code
    assert "secret" not in response.text
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*"])
def test_a_stream_is_for_whoever_accepts_one_or_json(call: Call, accept: str) -> None:
    body = {"prompt": "x", "stream": True}
    assert events_of(call("POST", URL, json=body, headers={"accept": accept}))
    refused = call("POST", URL, json=body, headers={"accept": "image/png"})
    assert_openai_error(refused, 406, "not_acceptable")


def test_whose_request_it_is_goes_hashed_into_the_log(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "ray.serve"):
        call("POST", URL, json={"prompt": "x", "user": "jane@example.org"})
    assert "jane" not in caplog.text
    assert f"user {hashlib.sha256(b'jane@example.org').hexdigest()[:16]}" in caplog.text


@pytest.mark.parametrize(
    ("asked", "allowed_s"),
    [
        pytest.param({}, 5, id="none-given"),
        pytest.param({"deadline_s": 600}, 5, id="a-later-one"),
        pytest.param({"deadline_s": 2}, 2, id="an-earlier-one"),
    ],
)
def test_the_servers_latest_deadline_counts_for_everyone(
    router: FakeRouter, asked: dict[str, float], allowed_s: float
) -> None:
    app = build_api(router, HttpOptions(max_request_s=5))

    before = time.time()
    asgi.call(app, "POST", URL, json={"prompt": "x", **asked})
    ((_, generation, _),) = router.asked
    assert generation.deadline_at is not None
    assert before + allowed_s <= generation.deadline_at <= time.time() + allowed_s


def test_bytes_are_for_one_picture_only(call: Call, router: FakeRouter) -> None:
    response = call("POST", URL, json={"prompt": "x", "n": 2}, headers={"accept": "image/png"})
    assert assert_openai_error(response, 400, "invalid_value")["param"] == "n"
    assert router.asked == []


def test_warnings_travel_with_bytes_as_a_header(call: Call, router: FakeRouter) -> None:
    router.warnings = ("prompt: cut", "negative_prompt: cut")
    response = call("POST", URL, json={"prompt": "x"}, headers={"accept": "image/png"})
    assert response.headers["x-warnings"] == "prompt: cut; negative_prompt: cut"


def test_a_charset_beside_the_content_type_is_fine(call: Call) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert call("POST", URL, content=b'{"prompt": "x"}', headers=headers).status_code == 200


def test_a_body_of_64_kib_is_read_and_one_byte_more_is_not(call: Call) -> None:
    body = json.dumps({"prompt": "x"}).encode()
    fits = body + b" " * (MAX_BODY_BYTES - len(body))
    assert call("POST", URL, content=fits, headers=JSON).status_code == 200
    assert_openai_error(call("POST", URL, content=fits + b" ", headers=JSON), 413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        pytest.param(b"{", 400, "malformed_body", None, id="malformed"),
        pytest.param(b"{}", 400, "invalid_value", "prompt", id="missing-prompt"),
        pytest.param(b'{"prompt":"x","x":1}', 400, "unknown_parameter", "x", id="unknown-field"),
        pytest.param(b'{"prompt":"x","model":"y"}', 404, "model_not_found", "model", id="variant"),
        pytest.param(b'{"prompt":"x","size":"100x96"}', 400, "invalid_value", "size", id="size"),
        pytest.param(
            b'{"prompt":"x","n":8,"num_inference_steps":150}', 400, "invalid_value", "n", id="work"
        ),
    ],
)
def test_bad_input_is_refused_before_any_work(
    call: Call, router: FakeRouter, body: bytes, status: int, code: str, param: str | None
) -> None:
    response = call("POST", URL, content=body, headers=JSON)
    error = assert_openai_error(response, status, code)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert router.asked == []


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        pytest.param(Overloaded("full", 4.2), 429, "5", id="overloaded"),
        pytest.param(DeadlineUnreachable("late", 2.1), 429, "3", id="deadline-unreachable"),
        pytest.param(DeadlineExceeded("over"), 504, None, id="deadline-exceeded"),
        pytest.param(OutOfDeviceMemory("no room"), 503, None, id="out-of-memory"),
        pytest.param(VariantUnavailable("gone", 3), 503, "3", id="unavailable"),
        pytest.param(ServingError("odd"), 500, None, id="root"),
    ],
)
def test_errors_become_statuses_with_retry_after(
    call: Call, router: FakeRouter, fault: ServingError, status: int, retry_after: str | None
) -> None:
    router.fault = fault
    response = call("POST", URL, json={"prompt": "x"})
    assert_openai_error(response, status, fault.code)
    assert response.headers.get("retry-after") == retry_after


def test_an_unexpected_error_leaks_nothing(call: Call, router: FakeRouter) -> None:
    router.fault = RuntimeError("secret path /etc/shadow")
    error = assert_openai_error(call("POST", URL, json={"prompt": "x"}), 500, "internal_error")
    assert "secret" not in json.dumps(error)


def test_models_tell_what_they_are_made_of(call: Call) -> None:
    models = {model["id"]: model for model in call("GET", "/v1/models").json()["data"]}
    assert list(models) == list(MINIATURE.default_variants)
    assert models["distilled-tiny-vae"]["components"]["vae"]["component_class"] == "AutoencoderTiny"
    assert models["original"]["defaults"]["guidance_scale"] == 2.0
    assert models["original"]["random_weights"] is False


def test_the_published_weights_licences_and_commits_are_named(
    call: Call, router: FakeRouter
) -> None:
    names = SD_V1.default_variants
    router.family, router.variants = SD_V1, {name: SD_V1.variants[name] for name in names}
    pinned = {}
    for name, component in SD_V1.components(names).items():
        assert component.source is not None
        origin = Origin(
            kind="hub",
            licence=component.source.licence,
            repository=component.source.repository,
            revision="0" * 40,
        )
        pinned[name] = PinnedComponent(origin=origin, files={})
    router.manifest = Manifest(family="sd-v1", components=pinned)
    models = {model["id"]: model for model in call("GET", "/v1/models").json()["data"]}
    # Its previews come from the tiny VAE.
    assert models["original"]["licences"] == ["CreativeML OpenRAIL-M", "MIT"]
    assert models["distilled-tiny-vae"]["licences"] == ["CreativeML OpenRAIL-M", "MIT"]
    vae = models["distilled-tiny-vae"]["components"]["vae"]
    assert vae["origin"]["repository"] == "sayakpaul/taesd-diffusers"
    assert vae["origin"]["revision"] == "0" * 40


def test_ready_means_the_minimum_of_warm_replicas_of_every_variant(
    call: Call, router: FakeRouter
) -> None:
    assert call("GET", "/readyz").status_code == 200
    router.replicas["distilled"] = 0
    response = call("GET", "/readyz")
    assert response.status_code == 503
    assert response.json()["warm_replicas"]["distilled"] == 0
    assert call("GET", "/healthz").status_code == 200


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v1/models", "/openapi.json", "/docs", "/"]
)
def test_head_is_answered_as_get_without_a_body(call: Call, path: str) -> None:
    got, head = call("GET", path), call("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        pytest.param("/healthz", "GET, HEAD, OPTIONS", id="get"),
        pytest.param(URL, "OPTIONS, POST", id="post"),
        pytest.param(
            "/static-offline-docs/swagger-ui.css", "GET, HEAD, OPTIONS", id="a-file-of-docs"
        ),
    ],
)
def test_options_and_a_refused_method_say_what_is_allowed(
    call: Call, path: str, allowed: str
) -> None:
    options = call("OPTIONS", path)
    assert (options.status_code, options.headers["allow"]) == (204, allowed)
    refused = call("DELETE", path)
    assert_openai_error(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == allowed


def test_models_tell_what_a_replica_says_of_itself_where_one_answers(
    call: Call, router: FakeRouter
) -> None:
    router.info["distilled"] = ReplicaInfo(
        "NVIDIA L4",
        Memory(1, 2, 3, 4, 5, 6, 7),
        ("unet: compile",),
        {"unet: CUDA graphs": "RuntimeError: no"},
        {"load": 2.5},
    )
    router.info["original"] = ReplicaInfo("CPU, plain", Memory())
    models = {model["id"]: model for model in call("GET", "/v1/models").json()["data"]}
    assert models["distilled-tiny-vae"]["replica"] is None
    plain = models["original"]["replica"]
    assert (plain["switched_on"], plain["left_off"], plain["preparation_s"]) == ([], {}, {})
    assert models["distilled"]["replica"] == {
        "device": "NVIDIA L4",
        "memory": {
            "rss_bytes": 1, "peak_rss_bytes": 2, "allocated_bytes": 3, "peak_allocated_bytes": 4,
            "reserved_bytes": 5, "peak_reserved_bytes": 6, "free_bytes": 7,
        },
        "switched_on": ["unet: compile"],
        "left_off": {"unet: CUDA graphs": "RuntimeError: no"},
        "preparation_s": {"load": 2.5},
    }  # fmt: skip
    assert call("GET", "/v1/models/distilled").json() == models["distilled"]


def test_one_model_is_told_as_in_the_list(call: Call) -> None:
    listed = {model["id"]: model for model in call("GET", "/v1/models").json()["data"]}
    assert call("GET", "/v1/models/distilled").json() == listed["distilled"]
    error = assert_openai_error(call("GET", "/v1/models/sdxl"), 404, "model_not_found")
    assert "original" in error["message"]


def test_the_openapi_document_describes_the_request(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    schema = document["paths"][URL]["post"]["requestBody"]["content"]["application/json"]["schema"]
    steps = schema["properties"]["num_inference_steps"]
    assert steps["anyOf"][0]["maximum"] == 150
    assert "default" not in steps  # It is each variant's own.
    assert document["paths"][URL]["post"]["responses"]["429"]


def test_every_route_is_documented_with_an_example(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            content = operation["responses"]["200"]["content"]["application/json"]
            name = content.get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
            assert "example" in content or "example" in schemas[name], path
