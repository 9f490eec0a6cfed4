"""The page as a person meets it, in Chromium, over routes whose pictures a test lets through."""

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from serve.catalogue import MINIATURE
from serve.errors import Overloaded, VariantUnavailable
from tests.browser.service import TIMINGS, Service, colour, serving
from tests.chromium import Open
from tests.machine import HANG_S, wait_for

VARIANTS = list(TIMINGS)
KEY = "sk-test-1"


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture
def page(service: Service, open_page: Open) -> Page:
    """The page, once the variants are known: before, it has no form, and takes no picture."""
    opened = open_page(service.url)
    expect(opened.locator("#settings")).to_be_visible()
    return opened


def card(page: Page, variant: str) -> Locator:
    return page.locator(f'.card[data-model="{variant}"]')


def draw(page: Page, **fields: Any) -> None:
    for name, value in fields.items():
        page.locator(f'[name="{name}"]').fill(str(value))
    page.get_by_role("button", name="Draw with all variants").click()


def expect_states(page: Page, state: str, variants: list[str] = VARIANTS) -> None:
    for variant in variants:
        expect(card(page, variant)).to_have_attribute("data-state", state)


def expect_previews(page: Page, variant: str, count: int) -> None:
    expect(card(page, variant)).to_have_attribute("data-previews", str(count))


def pixel(image: Locator) -> tuple[int, ...]:
    """The colour in the middle of what an image element shows."""
    script = """async (image) => {
        await image.decode();
        const context = new OffscreenCanvas(1, 1).getContext("2d");
        context.drawImage(image, 0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    }"""
    return tuple(image.evaluate(script))


def test_every_variant_shows_its_previews_as_they_come(service: Service, page: Page) -> None:
    service.router.held = True
    draw(page, prompt="a star", negative_prompt="a moon", seed=7)
    expect_states(page, "waiting")
    for variant in VARIANTS:
        for preview in range(3):
            service.let(variant)
            expect_previews(page, variant, preview + 1)
            assert pixel(card(page, variant).locator("img")) == colour(variant, 7, preview)
        expect_states(page, "drawing", [variant])
        expect(card(page, variant).get_by_role("progressbar")).to_have_attribute("value", "0.75")
        for later in VARIANTS[VARIANTS.index(variant) + 1 :]:
            expect_previews(page, later, 0)
    for variant in VARIANTS:
        service.let(variant)
        expect_states(page, "done", [variant])
        assert pixel(card(page, variant).locator("img")) == colour(variant, 7)
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    log = page.get_by_role("log").inner_text()
    assert "distilled: preview 3." in log
    assert "distilled-tiny-vae: done in" in log
    for name, generation, _ in service.router.asked:
        assert (generation.prompt, generation.negative_prompt) == ("a star", "a moon")
        assert (generation.variant, generation.seeds, generation.previews) == (name, (7,), 3)
    assert sorted(name for name, *_ in service.router.asked) == sorted(VARIANTS)


@pytest.mark.thorough
def test_cards_tell_times_size_bytes_and_warnings(service: Service, page: Page) -> None:
    service.router.warnings = ("prompt: 90 tokens, cut to the first 77",)
    draw(page, width=72, height=64)
    expect_states(page, "done")
    for variant in VARIANTS:
        names = card(page, variant).locator("dt").all_inner_texts()
        facts = dict(zip(names, card(page, variant).locator("dd").all_inner_texts(), strict=True))
        times = TIMINGS[variant]
        assert facts["Queue"] == f"{times.queue_s:.2f} s"
        assert facts["Denoise"] == f"{times.denoise_s:.2f} s"
        assert facts["Decode"] == f"{times.decode_s:.2f} s"
        assert 0 < float(facts["Total"].removesuffix(" s")) < 30
        _, generation, picture_format = service.router.asked[0]
        picture = service.router.picture(
            dataclasses.replace(generation, variant=variant), picture_format, 3
        )
        assert facts["Size"] == "72\N{MULTIPLICATION SIGN}64 px"
        assert facts["File"] == f"{len(picture) / 1000:.1f} kB"
        expect(card(page, variant).get_by_role("list", name="Warnings")).to_have_text(
            "prompt: 90 tokens, cut to the first 77"
        )
    bars = page.locator("#bars li").all_inner_texts()
    assert [re.findall(r"\d+ %", bar) for bar in bars] == [["100 %"], ["60 %"], ["50 %"]]
    widths = [bar.bounding_box()["width"] for bar in page.locator("#bars i").all()]  # type: ignore[index]
    assert widths[1] / widths[0] == pytest.approx(0.6, abs=0.02)
    expect(page.locator("#cost")).to_contain_text("measured in this one run")
    expect(page.locator("#cost")).to_contain_text("drew at the same time")


@pytest.mark.thorough
def test_a_few_step_variant_has_its_own_steps_and_guidance_until_they_are_changed(
    service: Service, open_page: Open
) -> None:
    few_step = MINIATURE.variants["distilled-lcm"]
    service.router.variants = {
        "original": MINIATURE.variants["original"],
        "distilled": dataclasses.replace(few_step, name="distilled"),
    }
    page = open_page(service.url)
    for fields, original, distilled in (
        ({}, (25, 2.0), (4, 1.0)),
        ({"num_inference_steps": 30, "guidance_scale": 2.5}, (30, 2.5), (4, 1.0)),
        ({"num_inference_steps": 8, "guidance_scale": 1.5}, (8, 1.5), (8, 1.5)),
    ):
        service.router.asked.clear()
        draw(page, **fields)
        expect_states(page, "done", ["original", "distilled"])
        wait_for(lambda: len(service.router.asked) == 2)
        asked = {
            name: (job.num_inference_steps, job.guidance_scale)
            for name, job, _ in service.router.asked
        }
        assert asked == {"original": original, "distilled": distilled}
        expect(card(page, "distilled")).to_contain_text(f"Steps{distilled[0]}")


@pytest.mark.thorough
def test_defaults_and_bounds_are_the_services(service: Service, open_page: Open) -> None:
    service.router.variants = {
        name: dataclasses.replace(
            variant, guidance_scale=3.5, default_size_px=128, min_size_px=104, max_size_px=160
        )
        for name, variant in service.router.variants.items()
    }
    page = open_page(service.url)
    expect(page.get_by_label("Guidance")).to_have_value("3.5")
    width = page.get_by_label("Width in pixels")
    expect(width).to_have_value("128")
    assert [width.get_attribute(name) for name in ("min", "max", "step")] == ["104", "160", "8"]
    seed = page.get_by_label("Seed", exact=True)
    assert seed.get_attribute("max") == str(2**32 - 1)
    before = seed.input_value()
    page.get_by_role("button", name="Random seed").click()
    expect(seed).not_to_have_value(before)
    assert page.get_by_label("Prompt", exact=True).get_attribute("maxlength") == "4000"
    # A number out of its bounds isn't sent.
    draw(page, num_inference_steps=151)
    assert page.get_by_label("Steps").evaluate("(input) => input.validity.rangeOverflow")
    assert service.router.asked == []


@pytest.mark.thorough
def test_in_turn_each_waits_for_the_one_before(service: Service, page: Page) -> None:
    service.router.held = True
    page.get_by_label("One after another").check()
    draw(page)
    for position, variant in enumerate(VARIANTS):
        service.let(variant)
        expect_previews(page, variant, 1)
        assert [name for name, *_ in service.router.asked] == VARIANTS[: position + 1]
        service.let(variant, 3)
        expect_states(page, "done", [variant])
    expect(page.locator("#cost")).to_contain_text("drew in turn")


@pytest.mark.thorough
def test_stop_ends_the_work_on_the_server_and_a_retry_begins_anew(
    service: Service, page: Page
) -> None:
    service.router.held = True
    draw(page)
    service.let("original")
    expect_previews(page, "original", 1)
    page.get_by_role("button", name="Stop").click()
    expect_states(page, "stopped")
    service.await_left(VARIANTS)
    expect(page.get_by_role("button", name="Draw with all variants")).to_be_focused()
    service.router.held = False
    page.get_by_role("button", name="Try distilled again").click()
    expect_states(page, "done", ["distilled"])
    expect_states(page, "stopped", ["original"])


@pytest.mark.thorough
def test_two_pictures_lie_over_each_other_and_arrow_keys_move_the_divider(page: Page) -> None:
    draw(page, seed=9)
    expect_states(page, "done")
    divider = page.get_by_role("slider")
    stage = page.locator("#stage")

    def colours_at(*shares: float) -> list[tuple[int, ...]]:
        picture = Image.open(io.BytesIO(stage.screenshot())).convert("RGB")
        return [
            picture.getpixel((int(share * (picture.width - 1)), picture.height // 2))
            for share in shares
        ]  # type: ignore[misc]

    first, last = colour("original", 9), colour("distilled-tiny-vae", 9)
    assert colours_at(0.1, 0.45, 0.55, 0.9) == [first, first, last, last]
    divider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    expect(divider).to_have_value("30")
    expect(divider).to_have_attribute("aria-valuetext", "original to 30 %, then distilled-tiny-vae")
    assert colours_at(0.1, 0.25, 0.35, 0.9) == [first, first, last, last]
    page.keyboard.press("End")
    assert colours_at(0.1, 0.9) == [first, first]
    page.keyboard.press("Home")
    page.get_by_label("Right").select_option("distilled")
    assert colours_at(0.1, 0.9) == [colour("distilled", 9)] * 2
    box = stage.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 20)
    expect(divider).to_have_value("75")


@pytest.mark.thorough
def test_a_full_queue_is_told_with_its_wait_and_tried_again(service: Service, page: Page) -> None:
    service.router.faults = {"original": Overloaded("33 requests wait for original", 2.5)}
    draw(page)
    state = card(page, "original").locator(".state")
    expect(state).to_have_text(
        re.compile(r"too busy\. 33 requests wait for original\. You can try again in [123] s\.")
    )
    retry = page.get_by_role("button", name="Try original again")
    expect(retry).to_be_hidden()
    expect_states(page, "done", ["distilled", "distilled-tiny-vae"])
    expect(state).to_contain_text("again in 1 s.")
    expect(retry).to_be_visible()
    expect(page.get_by_role("log")).to_contain_text("original: you can try again now.")
    retry.click()
    expect_states(page, "done", ["original"])
    assert [name for name, *_ in service.router.asked].count("original") == 2


@pytest.mark.parametrize(
    ("fields", "label", "words"),
    [
        pytest.param({"prompt": "   "}, "Prompt", "is empty", id="prompt"),
        pytest.param(
            {"num_inference_steps": 150, "width": 192, "height": 192},
            "Steps",
            "600 steps of one 96x96 image",
            id="too-much-work",
        ),
    ],
)
def test_a_refused_value_is_told_at_its_field(
    service: Service, page: Page, fields: dict[str, Any], label: str, words: str
) -> None:
    draw(page, **fields)
    expect_states(page, "refused")
    field = page.get_by_label(label, exact=True)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(re.compile(words))
    assert page.locator("#settings .error").count() == 1
    assert service.router.asked == []
    draw(page, prompt="a star", num_inference_steps=5)
    expect_states(page, "done")
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_a_lost_connection_is_told_and_can_be_tried_again(service: Service, page: Page) -> None:
    service.router.held = True
    draw(page)
    for variant in VARIANTS:
        service.let(variant)
        expect_previews(page, variant, 1)
    service.cut()
    expect_states(page, "failed")
    for variant in VARIANTS:
        expect(card(page, variant)).to_contain_text("The connection was lost")
    service.router.held = False
    page.get_by_role("button", name="Try original again").click()
    expect_states(page, "done", ["original"])
    service.stop()
    draw(page)
    expect_states(page, "failed")
    expect(card(page, "original")).to_contain_text("There is no connection to the server.")


@pytest.mark.thorough
def test_a_server_that_falls_silent_is_given_up(page: Page) -> None:
    page.clock.install()
    # Never answered: as a network that drops packets looks from here.
    page.route("**/v1/images/generations", lambda _: None)
    draw(page)
    expect_states(page, "waiting")
    page.clock.fast_forward(29_000)
    expect_states(page, "waiting")
    page.clock.fast_forward(2_000)
    expect_states(page, "failed")
    expect(card(page, "distilled")).to_contain_text("said nothing for 30 s")
    page.unroute_all(behavior="ignoreErrors")


@pytest.mark.thorough
def test_an_error_in_the_stream_is_told(service: Service, page: Page) -> None:
    service.router.late_faults = {"distilled": VariantUnavailable("its replicas died twice", 3)}
    draw(page)
    expect_states(page, "failed", ["distilled"])
    expect(card(page, "distilled")).to_contain_text("broke off. its replicas died twice")
    expect_states(page, "done", ["original", "distilled-tiny-vae"])
    page.get_by_role("button", name="Try distilled again").click()
    expect_states(page, "done")


@pytest.mark.parametrize("locked", ["/v1/", "/v1/images"])
def test_a_key_is_asked_for_and_stays_in_the_tab(
    service: Service, open_page: Open, locked: str
) -> None:
    service.key, service.locked = KEY, locked
    page = open_page(service.url)
    if locked == "/v1/images":
        draw(page)
        expect_states(page, "locked")
    alert, field = page.get_by_role("alert"), page.get_by_label("API key")
    expect(alert).to_have_text("This server asks for an API key.")
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(alert).to_have_text("The server doesn't accept this API key.")
    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(field).to_be_hidden()
    if locked == "/v1/":
        draw(page)
    # What was refused for the key is drawn without another click.
    expect_states(page, "done")
    stored = "() => [Object.values(sessionStorage), Object.values(localStorage)]"
    assert page.evaluate(stored) == [[KEY], []]
    expect(page.locator("#sent")).to_contain_text('-H "Authorization: Bearer $API_KEY"')
    assert KEY not in page.content()
    page.reload()
    draw(page)
    expect_states(page, "done")
    expect(field).to_be_hidden()


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "with-a-key"])
def test_the_commands_shown_draw_the_very_picture(
    service: Service, open_page: Open, tmp_path: Path, key: str | None
) -> None:
    page = open_page(service.url, permissions=["clipboard-read", "clipboard-write"])
    prompt = "it's a \"vase\"\n$HOME `date` \\ !x ''''  100% 花 & <b>"
    if key is not None:
        service.key = key
        page.reload()
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    draw(page, prompt=prompt, negative_prompt="don't", seed=250)
    expect_states(page, "done")
    page.get_by_label("Variant").select_option("distilled")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the picture of distilled", exact=True).click()
    assert download.value.suggested_filename == "distilled-250.png"
    picture = download.value.path().read_bytes()

    def run(block: str) -> str:
        command = page.locator(block).inner_text()
        page.locator(f'[data-copies="{block[1:]}"]').click()
        expect(page.locator("#copied")).to_have_text("Copied.")
        assert page.evaluate("() => navigator.clipboard.readText()") == command
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "API_KEY": key or ""},
            check=True,
            capture_output=True,
            timeout=HANG_S,
        )
        return ran.stdout.decode()

    run("#saved")
    assert (tmp_path / "distilled-250.png").read_bytes() == picture
    *_, message, end = run("#sent").strip().split("\n\n")
    assert end == "data: [DONE]"
    event = json.loads(message.split("data: ")[1])
    assert base64.b64decode(event["b64_json"]) == picture
    # What the shell sent is what the page sent.
    asked = [one[1] for one in service.router.asked if one[0] == "distilled"]
    assert len(asked) == 3
    assert asked[0] == asked[2]
    assert asked[0] == dataclasses.replace(asked[1], previews=3)
    assert (asked[0].prompt, asked[0].negative_prompt) == (prompt, "don't")


@pytest.mark.thorough
def test_the_history_survives_a_reload_and_brings_settings_and_pictures_back(
    service: Service, page: Page
) -> None:
    expect(page.locator("#history-hint")).to_contain_text("Empty.")
    draw(page, prompt="first", seed=11, num_inference_steps=5, width=64)
    expect_states(page, "done")
    draw(page, prompt="second", negative_prompt="not that", seed=12)
    expect(page.locator("#history li")).to_have_count(2)
    expect_states(page, "done")
    page.reload()
    entries = page.locator("#history").get_by_role("button")
    expect(entries).to_have_text([re.compile("^second"), re.compile("^first")])
    expect(page.get_by_label("Prompt", exact=True)).not_to_have_value("first")
    entries.nth(1).press("Enter")
    expect_states(page, "done")
    for label, value in (
        ("Prompt", "first"), ("Negative prompt", ""), ("Seed", "11"), ("Steps", "5"),
        ("Width in pixels", "64"), ("Height in pixels", "96"),
    ):  # fmt: skip
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    assert pixel(card(page, "distilled").locator("img")) == colour("distilled", 11)
    assert len(service.router.asked) == 6
    page.get_by_role("button", name="Clear the history").click()
    expect(entries).to_have_count(0)
    page.reload()
    expect(page.locator("#history-hint")).to_contain_text("Empty.")


# As WebKit's private windows do, iOS with a page in the background, and a browser without storage.
FAILING = {
    "put": """IDBObjectStore.prototype.put = () => {
        throw new DOMException("blobs can't be stored", "DataCloneError");
    };""",
    "open": """IDBFactory.prototype.open = () => {
        throw new DOMException("storage is off", "SecurityError");
    };""",
    "closed": """{
        const { transaction } = IDBDatabase.prototype;
        let closings = 1;
        IDBDatabase.prototype.transaction = function (...names) {
            if (closings-- > 0) throw new DOMException("closing", "InvalidStateError");
            return transaction.apply(this, names);
        };
    }""",
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fault", "hint", "kept"),
    [
        pytest.param("put", "not kept: this browser doesn't store them (blobs can't", 0, id="put"),
        pytest.param("open", "Nothing is kept: this browser opens no database", 0, id="open"),
        pytest.param("closed", "The newest 24 are kept", 1, id="closed"),
    ],
)
def test_the_page_says_what_is_not_kept_and_opens_a_closed_database_again(
    page: Page, fault: str, hint: str, kept: int
) -> None:
    expect(page.locator("#history-hint")).to_contain_text("Empty.")
    if fault == "open":
        page.add_init_script(FAILING[fault])
        page.reload()
    else:
        page.evaluate(f"() => {{ {FAILING[fault]} }}")
    draw(page, prompt="first", seed=11)
    expect_states(page, "done")
    expect(page.locator("#history li")).to_have_count(kept)
    expect(page.locator("#history-hint")).to_contain_text(hint)


@pytest.mark.thorough
def test_the_history_is_bounded(page: Page) -> None:
    ids = page.evaluate(
        """async () => {
            const history = await import("/playground/history.js");
            for (let id = 1; id <= history.LIMIT + 6; id++) await history.put({ id });
            return (await history.all()).map((run) => run.id);
        }"""
    )
    assert ids == list(range(30, 6, -1))


@pytest.mark.thorough
def test_the_keyboard_reaches_everything_in_order_and_sees_where_it_is(page: Page) -> None:
    choose(page, blue())
    # The form scrolls where it is higher than the window.
    assert page.locator("#ask").evaluate("(form) => form.offsetHeight < innerHeight")
    page.locator("a").focus()
    for reached in (
        "prompt", "negative_prompt", "seed", "random", "num_inference_steps", "guidance_scale",
        "size", "height", "edit > summary", "image", "mask", "brush", "erase", "clear-mask",
        "save-mask", "remove-picture", "strength", "in-turn", "draw",
    ):  # fmt: skip
        page.keyboard.press("Tab")
        control = page.locator(f"#{reached}")
        expect(control).to_be_focused()
        expect(control).to_have_css("outline-style", "solid")
        expect(control).to_have_accessible_name(re.compile("."))
    page.keyboard.press("Enter")
    expect_states(page, "done")


# Of every piece of text that can be seen: its ratio to what is behind it, by WCAG's formula.
CONTRASTS = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = numbers(colour).map((value) => value / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return numbers(colour)[3] === 0 ? behind(element.parentElement) : colour;
    };
    const found = [];
    for (const element of document.querySelectorAll("body, body *")) {
        const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
        const own = texts.some((node) => node.data.trim()) || "value" in element;
        if (!own || !element.checkVisibility() || element.closest(".unseen")) continue;
        const pair = [getComputedStyle(element).color, behind(element)].map(light).sort();
        found.push([(pair[1] + 0.05) / (pair[0] + 0.05), element.tagName, element.className]);
    }
    return found;
}"""


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_every_width_and_can_be_read_in_light_and_dark(
    service: Service, open_page: Open, width: int, scheme: str
) -> None:
    service.router.faults = {"original": Overloaded("full", 60)}
    service.router.warnings = ("prompt: cut",)
    size = {"width": width, "height": 800}
    page = open_page(service.url, viewport=size, color_scheme=scheme)
    draw(page, prompt="x" * 200 + " a star")
    expect_states(page, "failed", ["original"])
    expect_states(page, "done", VARIANTS[1:])
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 40
    for ratio, *element in contrasts:
        assert ratio >= 4.5, element
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", dark)[0]) < 128) is (scheme == "dark")


@pytest.mark.thorough
def test_nothing_moves_for_whoever_wants_no_motion(page: Page) -> None:
    draw(page)
    durations = """() => [...document.querySelectorAll("*")]
        .flatMap((one) => getComputedStyle(one).transitionDuration.split(", "))"""
    expect_states(page, "done")
    assert set(page.evaluate(durations)) == {"0s", "0.3s"}
    page.emulate_media(reduced_motion="reduce")
    assert set(page.evaluate(durations)) == {"0s"}


def test_the_docs_page_shows_and_asks_the_api_under_its_policy(
    service: Service, open_page: Open
) -> None:
    page = open_page(f"{service.url}/docs")
    expect(page.get_by_text("/v1/images/generations")).to_be_visible()
    models = page.locator(".opblock", has_text="/v1/models")
    models.get_by_role("button").first.click()
    models.get_by_role("button", name="Try it out").click()
    models.get_by_role("button", name="Execute").click()
    expect(models.locator(".live-responses-table")).to_contain_text('"object": "list"')


def blue(width_px: int = 112, height_px: int = 80, alpha: int = 255) -> Image.Image:
    return Image.new("RGBA", (width_px, height_px), (40, 60, 200, alpha))


def choose(page: Page, picture: Image.Image, name: str = "blue.png", kind: str = "PNG") -> None:
    file = io.BytesIO()
    picture.save(file, kind)
    page.locator("#edit").evaluate("(details) => (details.open = true)")
    page.locator("#image").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}
    )
    expect(page.get_by_role("log").locator("p").last).to_contain_text("to start from")


def masks(service: Service) -> list[NDArray[np.bool_] | None]:
    """Where each request of the service may change its picture."""
    found: list[NDArray[np.bool_] | None] = []
    for _, job, _ in service.router.asked:
        assert job.source is not None
        assert job.source.pixels[:3] == bytes((40, 60, 200))
        mask = job.source.mask
        shape = job.height_px, job.width_px
        found.append(None if mask is None else np.frombuffer(mask, np.uint8).reshape(shape) > 127)
    return found


def drawn_masks(service: Service, page: Page) -> list[NDArray[np.bool_] | None]:
    """Draw, and tell for each variant where it was asked to change the picture."""
    service.router.asked.clear()
    draw(page)
    wait_for(lambda: len(service.router.asked) == len(VARIANTS))
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    return masks(service)


def test_every_variant_starts_from_the_picture(service: Service, page: Page) -> None:
    choose(page, blue())
    expect(page.get_by_label("Width in pixels")).to_have_value("112")
    expect(page.get_by_label("Height in pixels")).to_have_value("80")
    page.get_by_label("Strength").fill("0.5")
    assert drawn_masks(service, page) == [None, None, None]
    assert {job.source.strength for _, job, _ in service.router.asked if job.source} == {0.5}
    expect(page.locator("#saved")).to_contain_text("-F 'image=@\"blue.png\"'")
    expect(page.locator("#saved")).to_contain_text("/v1/images/edits")
    page.get_by_role("button", name="Remove the picture").click()
    service.router.asked.clear()
    draw(page)
    wait_for(lambda: len(service.router.asked) == 3)
    assert [job.source for _, job, _ in service.router.asked] == [None, None, None]


def test_a_mask_is_painted_with_a_pointer(service: Service, page: Page) -> None:
    choose(page, blue())
    canvas = page.locator("#mask")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    for mask in drawn_masks(service, page):
        assert mask is not None
        assert mask[40, 28]
        assert not mask[40, 84]
        assert 0.005 < mask.mean() < 0.1
    expect(page.locator("#saved")).to_contain_text("-F 'mask=@\"mask.png\"'")
    page.get_by_role("button", name="Clear the mask").click()
    assert drawn_masks(service, page) == [None, None, None]


def test_a_mask_is_painted_with_the_keyboard(service: Service, page: Page) -> None:
    choose(page, blue())
    page.locator("#mask").focus()
    for key in ("Shift+ArrowLeft", "Shift+ArrowLeft", "ArrowUp", "Space"):
        page.keyboard.press(key)
    expect(page.get_by_role("log")).to_contain_text("Painted at 25 % from the left, 47 % from")
    mask = drawn_masks(service, page)[0]
    assert mask is not None
    assert mask[37, 28]
    assert not mask[:, 56:].any()


@pytest.mark.thorough
def test_an_edit_comes_back_from_the_history(service: Service, page: Page) -> None:
    choose(page, blue())
    page.locator("#mask").focus()
    page.keyboard.press("Space")
    before = drawn_masks(service, page)[0]
    expect(page.locator("#history")).to_contain_text("from a picture")
    page.get_by_role("button", name="Remove the picture").click()
    page.locator("#history button").first.click()
    expect(page.locator("#mask")).to_be_visible()
    assert page.locator("#image").evaluate("(input) => input.files[0].name") == "blue.png"
    after = drawn_masks(service, page)[0]
    assert before is not None
    assert after is not None
    assert (before == after).mean() > 0.99


def drop(page: Page, *paths: Path, on: str = "header") -> None:
    """Drop files as a person does, not by a script of the page."""
    box = page.locator(on).bounding_box()
    assert box is not None
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data}
        session.send("Input.dispatchDragEvent", event)


@pytest.mark.parametrize("on", ["header", "#image", "#prompt"])
def test_a_picture_dropped_anywhere_is_the_one_to_start_from(
    service: Service, page: Page, tmp_path: Path, on: str
) -> None:
    blue().save(tmp_path / "blue.png")
    drop(page, tmp_path / "blue.png", on=on)
    expect(page.locator("#mask")).to_be_visible()
    assert page.locator("#image").evaluate("(input) => input.files[0].name") == "blue.png"
    # The page has a copy: what is on the disk may change.
    blue(64, 64).save(tmp_path / "blue.png")
    assert drawn_masks(service, page) == [None, None, None]


def test_a_pasted_picture_is_the_one_to_start_from(service: Service, open_page: Open) -> None:
    page = open_page(service.url, permissions=["clipboard-read", "clipboard-write"])
    write = """async (text) => {
        const canvas = new OffscreenCanvas(128, 96);
        const context = canvas.getContext("2d");
        context.fillStyle = "rgb(40 60 200)";
        context.fillRect(0, 0, 128, 96);
        const item = { "image/png": await canvas.convertToBlob(), ...text };
        await navigator.clipboard.write([new ClipboardItem(item)]);
    }"""
    prompt = page.get_by_label("Prompt", exact=True)
    # An office copies text and a picture of it: into a field goes the text.
    page.evaluate(write, {"text/plain": "words"})
    prompt.fill("")
    prompt.press("Control+v")
    expect(prompt).to_have_value("words")
    expect(page.locator("#mask")).to_be_hidden()
    page.evaluate(write, {})
    prompt.press("Control+v")
    expect(page.locator("#mask")).to_be_visible()
    assert drawn_masks(service, page) == [None, None, None]


def test_a_file_that_is_no_picture_is_refused_in_words_and_changes_nothing(
    service: Service, page: Page, tmp_path: Path
) -> None:
    field, url = page.locator("#image"), page.url
    text = tmp_path / "a.txt"
    text.write_text("words")
    drop(page, text)
    expect(field).to_have_accessible_description(re.compile("can't read “a.txt” as a picture.$"))
    expect(page.locator("#mask")).to_be_hidden()
    choose(page, blue())
    assert page.locator("#settings .error").count() == 0
    drop(page, text, text)
    expect(field).to_have_accessible_description(re.compile("2 files; one picture is needed"))
    drop(page, text)
    expect(field).to_have_accessible_description(re.compile("“a.txt”.*“blue.png” stays"))
    assert field.evaluate("(input) => input.files[0].name") == "blue.png"
    assert page.url == url
    assert drawn_masks(service, page) == [None, None, None]
    expect(page.locator("#saved")).to_contain_text('image=@"blue.png"')


def test_what_is_transparent_is_painted_until_it_is_erased(service: Service, page: Page) -> None:
    picture = blue()
    picture.paste(blue(32, 80, alpha=0), (80, 0))
    choose(page, picture)
    canvas = page.locator("#mask")
    expect(canvas).to_have_accessible_description(re.compile("transparent .* is painted already"))

    def changing() -> tuple[int, bool]:
        """The columns that may change, and whether the page sent a mask."""
        mask = drawn_masks(service, page)[0]
        assert mask is not None
        return int(mask.any(axis=0).sum()), "mask=@" in page.locator("#sent").inner_text()

    assert changing() == (32, False)
    canvas.focus()
    page.keyboard.press("Space")
    columns, sent = changing()
    assert (28 < columns < 84, sent) == (True, True)
    page.get_by_role("button", name="Clear the mask").click()
    expect(canvas).not_to_have_accessible_description(re.compile("painted already"))
    assert changing() == (112, True)


def test_a_complaint_inside_the_closed_panel_opens_it(service: Service, page: Page) -> None:
    strength, panel = page.get_by_label("Strength"), page.locator("#edit")
    choose(page, blue())
    strength.fill("0.05")
    panel.evaluate("(details) => (details.open = false)")
    draw(page, num_inference_steps=5)
    expect(strength).to_have_accessible_description(re.compile("leaves none of 5 steps"))
    expect(strength).to_be_focused()
    # Where the picture is gone when the answer comes, there is no field to say it at.
    held: list[Route] = []
    page.route("**/v1/images/edits", lambda route: held.append(route))
    draw(page)
    page.get_by_role("button", name="Remove the picture").click()
    wait_for(lambda: page.evaluate("() => 1") and len(held) == 3)
    for route in held:
        route.continue_()
    expect(page.get_by_role("alert")).to_contain_text("leaves none of 5 steps")


# curl's -F takes `;`, `,` and `"` for its own, and `@-` for standard input.
@pytest.mark.parametrize("name", ['it\'s "a" \\ b;type=ab,c @d $HOME.png', "-", "-x.png"])
def test_the_command_names_the_file_whatever_it_is_called(
    service: Service, page: Page, tmp_path: Path, name: str
) -> None:
    choose(page, blue(), name)
    drawn_masks(service, page)
    blue().save(tmp_path / name, "PNG")
    command = page.locator("#saved").inner_text()
    service.router.asked.clear()
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=HANG_S)
    assert masks(service) == [None]


@pytest.mark.thorough
def test_the_last_choice_is_drawn_from_even_if_it_is_still_being_read(
    service: Service, page: Page, tmp_path: Path
) -> None:
    page.evaluate("""() => {
        const read = createImageBitmap;
        const button = document.getElementById("draw");
        const pressed = new Promise((resolve) => button.addEventListener("click", resolve));
        window.createImageBitmap = async (file) => (await pressed, read(file));
    }""")
    for side_px in (4096, 64):
        blue(side_px, side_px).save(tmp_path / f"{side_px}.png")
        page.locator("#image").set_input_files(tmp_path / f"{side_px}.png")
    for _ in range(2):
        assert drawn_masks(service, page) == [None, None, None]
        assert {job.width_px for _, job, _ in service.router.asked} == {64}


@pytest.mark.thorough
def test_the_mask_of_a_large_picture_is_where_it_was_painted(service: Service, page: Page) -> None:
    choose(page, blue(4096, 4096))
    page.locator("#mask").focus()
    page.keyboard.press("Space")
    mask = drawn_masks(service, page)[0]
    assert mask is not None
    assert mask.shape == (96, 96)
    assert mask.mean() == pytest.approx(np.pi * 0.07**2, rel=0.1)


@pytest.mark.thorough
def test_what_is_cut_off_of_a_long_picture_is_said(page: Page) -> None:
    choose(page, blue(40, 400))
    canvas = page.locator("#mask")
    expect(canvas).to_have_accessible_description(re.compile("90 % of the picture is cut off, top"))
    width = page.get_by_label("Width in pixels")
    expect(width).to_have_accessible_description(re.compile("No size from 64 to 192 px a side has"))
    box = canvas.bounding_box()
    assert box is not None
    assert box["height"] / box["width"] == pytest.approx(10, rel=0.05)
    assert box["height"] < 720  # The window's.
    width.fill("192")
    expect(canvas).to_have_accessible_description(re.compile("95 % of the picture is cut off, top"))
    choose(page, blue(1000, 1000))
    expect(width).to_have_value("96")
    expect(canvas).not_to_have_accessible_description(re.compile("cut off"))
