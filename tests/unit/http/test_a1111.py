"""AUTOMATIC1111's dialect over a fake router: what its clients send, and what they read."""

import asyncio
import base64
import io
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.catalogue import SD_V1
from serve.errors import Overloaded, RequestInterrupted, VariantUnavailable
from serve.generation import Drawing, Generation, PictureFormat, Source, Timings
from serve.http.a1111.dialect import CONSTANT_ANSWERS, FIXED_OPTIONS, SAMPLER_ALIASES
from serve.http.a1111.jobs import Jobs
from serve.http.api import build_api
from serve.http.body import MAX_BODY_BYTES
from serve.http.options import HttpOptions
from serve.keys import KeyFile, new_key
from serve.pipelines.trajectories import SCHEDULERS
from tests.fakes import generation
from tests.fuzz.pictures import encoded
from tests.machine import HANG_S, until
from tests.unit.http.test_api import Call, FakeRouter
from tests.unit.http.test_edits import picture

TXT2IMG = "/sdapi/v1/txt2img"
IMG2IMG = "/sdapi/v1/img2img"
OPTIONS = "/sdapi/v1/options"
JSON = {"content-type": "application/json"}
# All that `webuiapi` 0.9.17 sends, with its defaults but for the size.
WEBUIAPI: dict[str, Any] = {
    "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0,
    "hr_resize_x": 0, "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None,
    "hr_scheduler": None, "hr_prompt": "", "hr_negative_prompt": "", "denoising_strength": 0.7,
    "firstphase_width": 0, "firstphase_height": 0, "prompt": "a red star", "styles": [],
    "seed": -1, "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0,
    "seed_resize_from_w": 0, "batch_size": 1, "n_iter": 1, "steps": 20, "cfg_scale": 7.0,
    "width": 96, "height": 96, "restore_faces": False, "tiling": False,
    "do_not_save_samples": False, "do_not_save_grid": False, "negative_prompt": "", "eta": 1.0,
    "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "sampler_name": "Euler a",
    "scheduler": "automatic", "sampler_index": "Euler a", "script_name": None,
    "script_args": [], "send_images": True, "save_images": False, "alwayson_scripts": {},
}  # fmt: skip


@asynccontextmanager
async def client(
    router: FakeRouter, keys: KeyFile | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    app = build_api(router, HttpOptions(a1111=True), keys)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as one:
        yield one


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def call(router: FakeRouter) -> Call:
    def send(method: str, url: str, **arguments: Any) -> httpx.Response:
        async def request() -> httpx.Response:
            async with client(router) as one:
                return await one.request(method, url, **arguments)

        return asyncio.run(request())

    return send


def assert_their_error(response: httpx.Response, status: int, error: str) -> str:
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"error", "detail", "body", "errors"}
    assert content["error"] == error
    detail: str = content["detail"]
    return detail


def test_they_are_off_unless_switched_on(router: FakeRouter) -> None:
    app = build_api(router, HttpOptions())
    assert not [one for one in app.openapi()["paths"] if one.startswith("/sdapi")]


def test_what_a_python_client_sends_is_drawn_and_answered_as_it_reads_it(
    call: Call, router: FakeRouter
) -> None:
    response = call("POST", TXT2IMG, json={**WEBUIAPI, "seed": 7, "batch_size": 2, "n_iter": 2})
    assert response.status_code == 200, response.text
    reply = response.json()
    assert set(reply) == {"images", "parameters", "info"}
    assert reply["parameters"]["sampler_name"] == "Euler a"
    info = json.loads(reply["info"])
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert (info["seed"], info["sd_model_name"], info["steps"]) == (7, "original", 20)
    assert "Seed: 8" in info["infotexts"][1]
    greys = [
        Image.open(io.BytesIO(base64.b64decode(one))).getpixel((0, 0))[0]  # type: ignore[index]
        for one in reply["images"]
    ]
    assert greys == info["all_seeds"]
    ((_, asked, _),) = router.asked
    assert (asked.width_px, asked.guidance_scale, asked.scheduler) == (96, 7.0, "euler-a")


def test_a_seed_of_minus_one_is_drawn_and_told(call: Call) -> None:
    seeds = {
        json.loads(call("POST", TXT2IMG, json=WEBUIAPI).json()["info"])["seed"] for _ in range(3)
    }
    assert len(seeds) == 3


def test_what_is_left_out_or_null_is_the_variants(call: Call, router: FakeRouter) -> None:
    body = {"prompt": "x", "steps": None, "cfg_scale": None, "width": None, "height": 64}
    assert call("POST", TXT2IMG, json=body).status_code == 200
    ((variant, asked, _),) = router.asked
    own = router.variants[variant]
    assert asked.num_inference_steps == 25
    assert asked.guidance_scale == own.guidance_scale
    assert (asked.width_px, asked.height_px) == (own.default_size_px, 64)


def test_a_request_may_name_its_own_checkpoint(call: Call, router: FakeRouter) -> None:
    body = {"prompt": "x", "override_settings": {"sd_model_checkpoint": "auto"}}
    info = json.loads(call("POST", TXT2IMG, json=body).json()["info"])
    assert info["sd_model_name"] == "distilled"


def test_an_unknown_checkpoint_is_not_found_wherever_it_is_named(call: Call) -> None:
    body = {"prompt": "x", "override_settings": {"sd_model_checkpoint": "sdxl"}}
    response = call("POST", TXT2IMG, json=body)
    told = assert_their_error(response, 404, "model_not_found")
    assert told.startswith('sd_model_checkpoint: "sdxl" was given; allowed: original, ')


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        pytest.param({"enable_hr": True}, "enable_hr: true", id="hires-fix"),
        pytest.param({"script_name": "x/y plot"}, "script_name", id="script"),
        pytest.param({"alwayson_scripts": {"ControlNet": {}}}, "alwayson_scripts", id="controlnet"),
        pytest.param({"styles": ["film"]}, "styles", id="styles"),
        pytest.param({"subseed_strength": 0.5}, "subseed_strength", id="variation"),
        pytest.param({"tiling": True}, "tiling", id="tiling"),
        pytest.param({"scheduler": "Karras"}, 'scheduler: "Karras"', id="schedule"),
        pytest.param(
            {"sampler_name": "DPM++ SDE"},
            "allowed: PLMS, DDIM, DPM++ 2M, DPM++ 2M Karras, ",
            id="sde",
        ),
        pytest.param({"sampler_name": "Euler a", "eta": 0.5}, "eta: 0.5", id="half-ancestral"),
        pytest.param({"sampler_name": "DDIM", "eta": 1.0}, "eta: 1", id="eta"),
        pytest.param({"override_settings": {"sd_vae": "x"}}, 'sd_vae: "x"', id="override"),
        pytest.param(
            {"override_settings": {"sd_model_checkpoint": True}},
            "override_settings: sd_model_checkpoint: true was given",
            id="checkpoint",
        ),
        pytest.param({"alwayson_scripts": {"x": [None]}}, '{"x": [null]} was given', id="nested"),
        pytest.param(
            {"steps": 151}, "steps: 151 was given; it must be an integer from 1 to", id="steps"
        ),
        pytest.param({"cfg_scale": 31}, "cfg_scale: ", id="cfg"),
        pytest.param({"width": 97}, "width and height: ", id="size"),
        pytest.param({"batch_size": 4, "n_iter": 3}, "batch_size and n_iter: 12 ", id="images"),
        pytest.param({"batch_size": 0}, "batch_size and n_iter: ", id="none"),
        pytest.param({"seed": -2}, "seed: -2", id="seed"),
        pytest.param({"steps": "many"}, 'steps: "many"', id="type"),
        pytest.param({"prompt": ""}, "prompt: ", id="prompt"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    call: Call, router: FakeRouter, sent: dict[str, Any], named: str
) -> None:
    response = call("POST", TXT2IMG, json={**WEBUIAPI, "eta": None, **sent})
    assert named in assert_their_error(response, 400, "invalid_value")
    assert router.asked == []


@pytest.mark.parametrize("url", [TXT2IMG, OPTIONS])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"content-type": "text/plain"}, id="a-form-of-another-host"),
        pytest.param({**JSON, "content-encoding": "gzip"}, id="encoded"),
    ],
)
def test_a_body_that_is_not_said_to_be_plain_json_is_refused(
    call: Call, router: FakeRouter, url: str, headers: dict[str, str]
) -> None:
    sent = b'{"prompt": "x"}' if url == TXT2IMG else b'{"sd_model_checkpoint": "distilled"}'
    assert_their_error(call("POST", url, content=sent, headers=headers), 400, "invalid_value")
    assert router.asked == []


@pytest.mark.parametrize("url", [TXT2IMG, OPTIONS])
def test_a_body_of_brackets_is_malformed(call: Call, url: str) -> None:
    response = call("POST", url, content=b"[" * 60_000, headers=JSON)
    assert_their_error(response, 400, "malformed_body")


def test_numbers_of_thousands_of_digits_are_out_of_bounds(call: Call) -> None:
    sent = '{"prompt": "x", "batch_size": 1%s, "n_iter": 1%s}' % (("0" * 4000,) * 2)
    response = call("POST", TXT2IMG, content=sent, headers=JSON)
    assert assert_their_error(response, 400, "invalid_value").startswith("batch_size: ")


def test_what_has_no_effect_is_skipped(call: Call) -> None:
    sent = '{"prompt": "x", "hr_upscaler": "Latent", "comments": {"a": 1}, "odd": 1e999}'
    response = call("POST", TXT2IMG, content=sent, headers=JSON)
    assert response.status_code == 200
    assert response.json()["parameters"]["odd"] is None


def test_pictures_are_left_out_where_they_are_not_wanted(call: Call) -> None:
    assert call("POST", TXT2IMG, json={**WEBUIAPI, "send_images": False}).json()["images"] == []


def test_a_flagged_picture_is_left_out_and_told(call: Call, router: FakeRouter) -> None:
    router.flagged, router.warnings = {8}, ("image 1 (seed 8): flagged",)
    reply = call("POST", TXT2IMG, json={**WEBUIAPI, "seed": 7, "n_iter": 3}).json()
    info = json.loads(reply["info"])
    assert len(reply["images"]) == len(info["infotexts"]) == 2
    assert info["all_seeds"] == [7, 9]
    assert info["warnings"] == ["image 1 (seed 8): flagged"]


def test_every_scheduler_has_a_sampler_and_is_found_by_it(call: Call, router: FakeRouter) -> None:
    assert set(SAMPLER_ALIASES) == set(SCHEDULERS)
    for one in call("GET", "/sdapi/v1/samplers").json():
        for name in (one["name"], *one["aliases"]):
            body = {"prompt": "x", "sampler_name": name}
            assert call("POST", TXT2IMG, json=body).status_code == 200
    assert [asked.scheduler for _, asked, _ in router.asked] == [
        name
        for name, aliases in SAMPLER_ALIASES.items()
        for _ in range(1 + len(aliases))
        if name != "lcm"  # None of the served variants allows it.
    ]


@pytest.mark.parametrize(
    "named",
    [
        pytest.param({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, id="label"),
        pytest.param({"sampler_name": "DPM++ 2M", "scheduler": "karras"}, id="name"),
        pytest.param({"sampler_name": "DPM++ 2M Karras", "scheduler": "Automatic"}, id="in-one"),
    ],
)
def test_karras_sigmas_are_named_in_the_sampler_or_beside_it(
    call: Call, router: FakeRouter, named: dict[str, Any]
) -> None:
    assert call("POST", TXT2IMG, json={"prompt": "x", **named}).status_code == 200
    ((_, asked, _),) = router.asked
    assert asked.scheduler == "dpm++-karras"


def test_lcm_is_refused_by_its_name_where_no_variant_allows_it(call: Call) -> None:
    response = call("POST", TXT2IMG, json={"prompt": "x", "sampler_name": "LCM"})
    message = assert_their_error(response, 400, "invalid_value")
    assert 'sampler_name: "LCM" was given; "original" allows "PLMS", "DDIM", ' in message
    assert "distilled for it: none that is served here" in message


@pytest.mark.parametrize(
    ("sent", "status", "named"),
    [
        pytest.param({"CLIP_stop_at_last_layers": 2}, 400, "CLIP_stop", id="unknown"),
        pytest.param({"samples_format": "jpg"}, 400, "samples_format", id="fixed"),
        pytest.param({"sd_model_checkpoint": "sdxl"}, 404, '"sdxl" was given', id="checkpoint"),
        pytest.param({"sd_model_checkpoint": {}}, 404, "{} was given", id="no-name"),
        pytest.param([], 400, "JSON object", id="list"),
    ],
)
def test_other_options_are_refused(call: Call, sent: Any, status: int, named: str) -> None:
    response = call("POST", OPTIONS, json=sent)
    assert response.status_code == status
    assert named in response.json()["detail"]


@pytest.mark.parametrize("option", sorted(FIXED_OPTIONS))
def test_an_option_that_changes_nothing_is_accepted_wherever_it_is_sent(
    call: Call, router: FakeRouter, option: str
) -> None:
    assert call("GET", OPTIONS).json()[option] == FIXED_OPTIONS[option][0]
    for value in (*FIXED_OPTIONS[option], None):
        assert call("POST", OPTIONS, json={option: value}).status_code == 200
        body = {"prompt": "x", "override_settings": {option: value}}
        assert call("POST", TXT2IMG, json=body).status_code == 200
    body = {"prompt": "x", "override_settings": {option: 2}}
    assert option in assert_their_error(call("POST", TXT2IMG, json=body), 400, "invalid_value")
    assert option in assert_their_error(
        call("POST", OPTIONS, json={option: 2}), 400, "invalid_value"
    )


@pytest.mark.parametrize("path", sorted(CONSTANT_ANSWERS))
def test_what_clients_ask_for_when_they_connect_is_answered(call: Call, path: str) -> None:
    assert call("GET", f"/sdapi/v1{path}").json() == CONSTANT_ANSWERS[path]


@pytest.fixture
def full_size(router: FakeRouter) -> None:
    """Front ends ask for 512x512 by default."""
    router.family, router.variants = SD_V1, {n: SD_V1.variants[n] for n in SD_V1.default_variants}
    router.replicas = dict.fromkeys(SD_V1.variants, 1)


@pytest.mark.usefixtures("full_size")
def test_what_open_webui_sends_by_default_is_answered(router: FakeRouter) -> None:
    """See `routers/images.py` of open-webui/open-webui at 02530d5."""

    async def story() -> None:
        # No user, no password.
        headers = {"authorization": "Basic "}
        async with client(router, headers=headers) as one:
            assert (await one.get(OPTIONS)).status_code == 200
            models = (await one.get("/sdapi/v1/sd-models")).json()
            assert {"title": "distilled", "model_name": "distilled"}.items() <= models[1].items()
            # It sends back all that it has read.
            options = (await one.get(OPTIONS)).json()
            options["sd_model_checkpoint"] = models[1]["title"]
            assert (await one.post(OPTIONS, json=options)).json() == {}
            assert (await one.get(OPTIONS)).json() == options
            body = {"prompt": "x", "batch_size": 1, "width": 512, "height": 512, "steps": 50}
            drawn = (await one.post(TXT2IMG, json=body)).json()
            assert len(drawn["images"]) == 1
            assert "info" in drawn

    asyncio.run(story())
    ((variant, asked, _),) = router.asked
    assert (variant, asked.num_inference_steps) == ("distilled", 50)


@pytest.mark.usefixtures("full_size")
def test_what_sillytavern_sends_by_default_is_answered(router: FakeRouter) -> None:
    """See `stable-diffusion/index.js` of SillyTavern/SillyTavern at ba6f7b7 and later."""
    body = {
        "url": "http://test", "auth": "", "prompt": "a red star", "negative_prompt": "lowres",
        "sampler_name": "DDIM", "scheduler": "normal", "steps": 20, "cfg_scale": 7, "width": 512,
        "height": 512, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent",
        "hr_scale": 1, "hr_additional_modules": [], "denoising_strength": 0.7,
        "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True,
        "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False,
    }  # fmt: skip

    async def story() -> None:
        async with client(router, headers={"authorization": "Basic "}) as one:

            async def listed(path: str, field: str) -> list[str]:
                return [entry[field] for entry in (await one.get(f"/sdapi/v1/{path}")).json()]

            assert body["sampler_name"] in await listed("samplers", "name")
            assert await listed("schedulers", "name") == ["automatic", "karras"]
            for path in ("upscalers", "latent-upscale-modes"):
                assert await listed(path, "name") == []
            assert await listed("sd-vae", "model_name") == []
            first, *_ = await listed("sd-models", "title")
            assert (await one.get(OPTIONS)).json()["sd_model_checkpoint"] == first
            await one.post(OPTIONS, json={"sd_model_checkpoint": first})
            # It waits until these are 0.
            progress = (await one.get("/sdapi/v1/progress")).json()
            assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
            assert len((await one.post(TXT2IMG, json=body)).json()["images"]) == 1
            # Where the user stops it.
            assert (await one.post("/sdapi/v1/interrupt")).status_code == 200

    asyncio.run(story())
    assert router.asked[0][1].scheduler == "ddim"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({"sampler_name": ""}, id="sampler"),
        pytest.param({"sampler_name": "Euler", "scheduler": "Uniform"}, id="evenly-spaced"),
        pytest.param({"sampler_name": "PLMS", "scheduler": "Karras"}, id="schedule-of-its-own"),
        pytest.param({"s_noise": 0, "s_tmin": 1, "s_tmax": 2}, id="without-churn"),
    ],
)
def test_a_value_that_changes_nothing_is_accepted(call: Call, sent: dict[str, Any]) -> None:
    assert call("POST", TXT2IMG, json={"prompt": "x", **sent}).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "error", "retry_after"),
    [
        pytest.param(Overloaded("full", 4.2), 429, "overloaded", "5", id="overloaded"),
        pytest.param(VariantUnavailable("gone", 5), 503, "variant_unavailable", "5", id="gone"),
        pytest.param(RuntimeError("inside"), 500, "internal_error", None, id="unexpected"),
    ],
)
def test_errors_have_their_shape(
    call: Call, router: FakeRouter, fault: Exception, status: int, error: str, retry_after: str
) -> None:
    router.fault = fault
    response = call("POST", TXT2IMG, json=WEBUIAPI)
    assert "inside" not in assert_their_error(response, status, error)
    assert response.headers.get("Retry-After") == retry_after


def test_what_is_not_there_is_answered_in_their_shape_too(call: Call) -> None:
    assert_their_error(call("POST", "/sdapi/v1/png-info", json={}), 404, "route_not_found")
    assert_their_error(call("GET", TXT2IMG), 405, "method_not_allowed")
    assert "error" in call("GET", "/v1/nothing").json()
    assert "detail" not in call("GET", "/v1/nothing").json()


KEY, LINE = new_key("alice", "original")
OTHER, OTHER_LINE = new_key("bob")


@pytest.mark.parametrize(
    ("site", "status"),
    [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200), (None, 200)],
)
def test_no_page_of_another_host_can_interrupt(call: Call, site: str | None, status: int) -> None:
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    assert call("POST", "/sdapi/v1/interrupt", headers=headers).status_code == status


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    file = tmp_path / "keys.txt"
    file.write_text(f"{LINE}\n{OTHER_LINE}\n")
    return KeyFile(file, ["original", "distilled"])


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        pytest.param(None, 401, id="none"),
        pytest.param(f"Bearer {KEY}", 200, id="bearer"),
        pytest.param(f"Basic {base64.b64encode(f'me:{KEY}'.encode()).decode()}", 200, id="basic"),
        pytest.param(f"Basic {base64.b64encode(b'me:x').decode()}", 401, id="another-password"),
        pytest.param("Basic ?", 401, id="no-base64"),
    ],
)
def test_keys_apply_and_may_be_a_password(
    router: FakeRouter, keys: KeyFile, authorization: str | None, status: int
) -> None:
    async def story() -> tuple[int, int]:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with client(router, keys) as one:
            drawn = await one.post(TXT2IMG, json=WEBUIAPI, headers=headers)
            # A password is one only here.
            other = await one.get("/v1/models", headers=headers)
        return drawn.status_code, other.status_code

    drawn, other = asyncio.run(story())
    assert drawn == status
    basic = authorization is not None and authorization.startswith("Basic")
    assert other == (401 if basic else status)


def test_a_key_for_one_variant_neither_draws_nor_sets_another(
    router: FakeRouter, keys: KeyFile
) -> None:
    async def story() -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with client(router, keys) as one:
            body = {**WEBUIAPI, "override_settings": {"sd_model_checkpoint": "distilled"}}
            refused = await one.post(TXT2IMG, json=body, headers=headers)
            assert_their_error(refused, 403, "model_not_allowed")
            options = {"sd_model_checkpoint": "distilled"}
            refused = await one.post(OPTIONS, json=options, headers=headers)
            assert_their_error(refused, 403, "model_not_allowed")
            assert (await one.get(OPTIONS, headers=headers)).json()["sd_model_checkpoint"] == (
                "original"
            )

    asyncio.run(story())


class SlowRouter(FakeRouter):
    """Draws once `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.drawing = asyncio.Event()
        self.cancelled = 0

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        self.drawing.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().draw(generation, picture_format)


def test_an_interruption_ends_the_callers_own_requests_only(keys: KeyFile) -> None:
    async def story() -> None:
        router = SlowRouter()
        alice, bob = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER))
        async with client(router, keys) as one:
            first = asyncio.create_task(one.post(TXT2IMG, json=WEBUIAPI, headers=alice))
            second = asyncio.create_task(one.post(TXT2IMG, json=WEBUIAPI, headers=bob))
            while router.drawing.is_set() is False or len(await busy(one, alice, bob)) < 2:
                await asyncio.sleep(0.01)
            assert (await one.post("/sdapi/v1/interrupt", headers=alice)).json() == {}
            assert_their_error(await first, 409, "interrupted")
            assert router.cancelled == 1
            router.go.set()
            assert (await second).status_code == 200

    asyncio.run(asyncio.wait_for(story(), HANG_S))


async def busy(one: httpx.AsyncClient, *headers: dict[str, str]) -> list[dict[str, str]]:
    found = []
    for each in headers:
        state = (await one.get("/sdapi/v1/progress", headers=each)).json()["state"]
        if state["job_count"]:
            found.append(each)
    return found


def expecting(seconds: float) -> Any:
    async def forecast() -> float:
        return seconds

    return forecast


async def test_a_request_can_be_interrupted_before_its_forecast_is_there() -> None:
    jobs, asked = Jobs(), asyncio.Event()

    async def forecast() -> float:
        asked.set()
        await asyncio.sleep(2 * HANG_S)
        return 1.0

    request = asyncio.create_task(jobs.run(None, generation(), forecast, expecting(1.0)))
    await asyncio.wait_for(asked.wait(), HANG_S)
    assert jobs.progress(None)["state"]["job"] == "txt2img"
    jobs.interrupt(None)
    with pytest.raises(RequestInterrupted):
        await request


def test_progress_follows_the_forecast_from_the_first_request_on() -> None:
    async def story() -> None:
        now_s = 0.0
        jobs, release = Jobs(lambda: now_s), asyncio.Event()
        asked = generation(num_inference_steps=10, seeds=(1, 2))

        async def wait() -> Drawing:
            await release.wait()
            return Drawing((b"",), Timings(0, 0, 0, 0), ())

        running = asyncio.create_task(jobs.run(None, asked, expecting(4.0), wait))
        await until(lambda: jobs.progress(None)["eta_relative"] == 4.0)
        assert jobs.progress(None)["progress"] == 0
        now_s += 1.0
        progress = jobs.progress(None)
        assert progress["progress"] == pytest.approx(0.25)
        assert progress["eta_relative"] == pytest.approx(3.0)
        assert progress["state"]["sampling_step"] == 2
        assert jobs.progress("somebody else")["progress"] == 0
        now_s += 100
        assert jobs.progress(None)["progress"] == 0.99
        release.set()
        await running
        assert jobs.progress(None)["state"]["job_count"] == 0

    asyncio.run(story())


async def test_progress_of_an_edit_counts_the_steps_that_its_strength_leaves() -> None:
    jobs, asked = Jobs(), generation(num_inference_steps=10, source=Source(b"", None, 0.4))

    async def draw() -> Drawing:
        state = jobs.progress(None)["state"]
        assert (state["job"], state["sampling_steps"]) == ("img2img", 4)
        return Drawing((b"",), Timings(0, 0, 0, 0), ())

    await jobs.run(None, asked, expecting(4.0), draw)


def test_a_client_that_leaves_ends_its_request_and_is_not_told_of_an_interruption() -> None:
    async def story() -> None:
        jobs, begun, ended = Jobs(), asyncio.Event(), asyncio.Event()

        async def draw() -> Drawing:
            begun.set()
            try:
                await asyncio.sleep(2 * HANG_S)
            finally:
                ended.set()
            raise AssertionError("it slept to its end")

        request = asyncio.create_task(jobs.run(None, generation(), expecting(math.inf), draw))
        await begun.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended.is_set()
        assert jobs.progress(None)["state"]["job_count"] == 0

    asyncio.run(asyncio.wait_for(story(), HANG_S))


def test_an_interrupted_request_says_so() -> None:
    async def story() -> None:
        jobs = Jobs()
        request = asyncio.create_task(
            jobs.run("a", generation(), expecting(1.0), lambda: asyncio.sleep(2 * HANG_S))
        )
        await asyncio.sleep(0)
        jobs.interrupt("b")
        jobs.interrupt("a")
        with pytest.raises(RequestInterrupted):
            await request

    asyncio.run(asyncio.wait_for(story(), HANG_S))


def in_base64(data: bytes, head: str = "") -> str:
    return head + base64.b64encode(data).decode()


def white(width_px: int, height_px: int) -> bytes:
    """A mask of AUTOMATIC1111's: white in its left half."""
    grey = np.zeros((height_px, width_px), np.uint8)
    grey[:, : width_px // 2] = 255
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


WHITE, BLACK, TRANSPARENT = (
    in_base64(encoded(Image.new("RGBA", (96, 96), colour), "PNG"))
    for colour in ("white", "black", "#ffffff00")
)


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_img2img_starts_from_the_picture(call: Call, router: FakeRouter, head: str) -> None:
    sent = {
        "prompt": "yellow tulips", "init_images": [in_base64(picture(96, 96), head)], "seed": 3,
        "denoising_strength": 0.6, "mask": in_base64(white(48, 48), head), "mask_blur": 4,
        "initial_noise_multiplier": 1.0, "inpainting_fill": 1, "inpaint_full_res": False,
        "resize_mode": 1, "width": 128, "height": 64, "steps": 10, "sampler_name": "Euler",
    }  # fmt: skip
    response = call("POST", IMG2IMG, json=sent)
    assert response.status_code == 200, response.text
    ((_, asked, _),) = router.asked
    assert asked.source is not None
    assert asked.source.mask is not None
    assert (asked.source.strength, asked.width_px, asked.height_px) == (0.6, 128, 64)
    changed = np.frombuffer(asked.source.mask, np.uint8).reshape(64, 128) > 127
    assert (changed[:, :60].all(), changed[:, 68:].any()) == (True, False)
    info = json.loads(response.json()["info"])
    assert info["denoising_strength"] == 0.6
    assert "Denoising strength: 0.6" in info["infotexts"][0]
    assert in_base64(picture(96, 96)) not in response.text


def test_what_is_beside_img2imgs_pictures_is_bounded_as_a_body_without_any(
    call: Call, router: FakeRouter
) -> None:
    sent = {"prompt": "x", "init_images": [in_base64(picture(96, 96))], "steps": 4}
    fits = call("POST", IMG2IMG, json={**sent, "unknown": "y" * (MAX_BODY_BYTES - 100)})
    assert fits.status_code == 200, fits.text
    router.asked.clear()
    for large in ({"unknown": "y" * MAX_BODY_BYTES}, {"unknown": ["y" * 100] * 700}):
        detail = assert_their_error(
            call("POST", IMG2IMG, json={**sent, **large}), 413, "body_too_large"
        )
        assert detail.endswith("at most 65536 are allowed")
    assert router.asked == []


def test_img2img_without_a_size_keeps_the_pictures(call: Call, router: FakeRouter) -> None:
    sent = {"prompt": "x", "init_images": [in_base64(picture(128, 72))], "steps": 4}
    assert call("POST", IMG2IMG, json=sent).status_code == 200
    ((_, asked, _),) = router.asked
    assert asked.source is not None
    assert (asked.width_px, asked.height_px, asked.source.strength) == (128, 72, 0.75)
    assert asked.source.mask is None


@pytest.mark.parametrize(
    ("mode", "red", "green"),
    [
        pytest.param(0, 0.25, 0.25, id="stretched"),
        pytest.param(1, 0.0, 0.25, id="cropped"),
        pytest.param(2, 0.25, 0.4375, id="filled-up"),
    ],
)
def test_a_picture_is_scaled_as_resize_mode_says(
    call: Call, router: FakeRouter, mode: int, red: float, green: float
) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, :32, 0] = wide[:16, :, 1] = 255
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    sent = {
        "prompt": "x", "init_images": [in_base64(file.getvalue())], "resize_mode": mode,
        "width": 64, "height": 128, "steps": 4,
    }  # fmt: skip
    assert call("POST", IMG2IMG, json=sent).status_code == 200
    ((_, asked, _),) = router.asked
    assert asked.source is not None
    pixels = np.frombuffer(asked.source.pixels, np.uint8).reshape(128, 64, 3)
    shares = (pixels > 127).mean((0, 1))
    assert shares[:2] == pytest.approx([red, green], abs=0.03)


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        ({"init_images": []}, "init_images", "0 pictures"),
        ({"init_images": None}, "init_images", "0 pictures"),
        ({"init_images": ["x", "y"]}, "init_images", "2 pictures"),
        ({"init_images": "x"}, "init_images", "it must be a list of strings, or absent"),
        ({"init_images": ["http://x"]}, "init_images", "URLs and paths aren't read"),
        ({"init_images": ["AAAAdata:image/png;base64,AAAA"]}, "init_images", "other than base64"),
        ({"init_images": [in_base64(b"<svg/>")]}, "init_images", "SVG"),
        ({"mask": "no base64"}, "mask", "other than base64"),
        ({"mask": BLACK}, "mask", "no part of it is white"),
        ({"mask": TRANSPARENT}, "mask", "no part of it is white (with transparency: opaque)"),
        ({"mask": WHITE, "inpainting_mask_invert": 1}, "mask", "no part of it is black"),
        ({"denoising_strength": 0}, "denoising_strength", "over 0, at most 1"),
        ({"denoising_strength": 2}, "denoising_strength", "over 0, at most 1"),
        ({"denoising_strength": 0.1, "steps": 4}, "denoising_strength", "none of 4 steps"),
        ({"resize_mode": 3}, "resize_mode", "it must be an integer from 0 to 2, or absent"),
        ({"initial_noise_multiplier": 0.5}, "initial_noise_multiplier", "leave it out, or give 1"),
        ({"mask": WHITE, "inpainting_fill": 0}, "inpainting_fill", "leave it out, or give 1"),
        ({"mask": WHITE, "inpaint_full_res": True}, "inpaint_full_res", "give false or 0"),
    ],
)
def test_what_img2img_cannot_do_is_refused_by_its_name(
    call: Call, router: FakeRouter, sent: dict[str, Any], field: str, words: str
) -> None:
    body = {"prompt": "x", "init_images": [in_base64(picture(96, 96))], **sent}
    detail = assert_their_error(call("POST", IMG2IMG, json=body), 400, "invalid_value")
    assert detail.startswith(f"{field}: ")
    assert words in detail
    assert router.asked == []


def test_txt2img_takes_no_picture(call: Call) -> None:
    body = {"prompt": "x", "init_images": [in_base64(picture(96, 96))]}
    detail = assert_their_error(call("POST", TXT2IMG, json=body), 400, "invalid_value")
    assert detail.startswith("init_images: ")
