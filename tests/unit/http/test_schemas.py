import json
import time
from typing import Any

import pytest

from serve.catalogue import MINIATURE, SD_V1
from serve.errors import InvalidRequest, UnknownField
from serve.http.options import RequestLimits
from serve.http.schemas import GenerationRequest, parse_request

LIMITS = RequestLimits()
VARIANT = MINIATURE.variants["original"]


def parse(**fields: Any) -> GenerationRequest:
    return parse_request(json.dumps({"prompt": "a red star", **fields}).encode())


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    return caught.value


@pytest.mark.parametrize("fields", [{}, {"size": "auto"}], ids=["absent", "auto"])
def test_a_prompt_is_enough(fields: dict[str, str]) -> None:
    generation = parse(**fields).resolve(VARIANT, LIMITS)
    assert (generation.width_px, generation.height_px) == (96, 96)
    assert generation.num_inference_steps == 25
    assert generation.guidance_scale == VARIANT.guidance_scale
    assert generation.scheduler == "pndm"
    assert 0 <= generation.seeds[0] < 2**32


def test_a_seed_is_drawn_anew_where_none_is_given() -> None:
    assert len({parse().resolve(VARIANT, LIMITS).seeds for _ in range(20)}) == 20


def test_image_i_uses_seed_plus_i_modulo_2_to_the_32() -> None:
    generation = parse(seed=2**32 - 2, n=4).resolve(VARIANT, LIMITS)
    assert generation.seeds == (2**32 - 2, 2**32 - 1, 0, 1)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        pytest.param("n", 0, "integer from 1 to 10", id="too-few-images"),
        pytest.param("seed", -1, "0 to 4294967295", id="negative-seed"),
        pytest.param("num_inference_steps", 0, "1 to 150", id="no-steps"),
        pytest.param("guidance_scale", -0.1, "0 to 30", id="negative-guidance"),
        pytest.param("deadline_s", 0, "over 0, at most 600", id="no-time"),
        pytest.param("stream", "yes", "true or false", id="string-for-boolean"),
        pytest.param("partial_images", 4, "0 to 3", id="too-many-previews"),
        pytest.param("partial_images", 1, "need stream: true", id="previews-without-a-stream"),
        pytest.param("prompt", None, "1 to 4000", id="null-for-prompt"),
        pytest.param("quality", "best", '"auto", "standard", "hd"', id="quality"),
        pytest.param("style", "loud", '"natural", "vivid"', id="style"),
        pytest.param("background", "transparent", '"auto", "opaque"', id="background"),
        pytest.param("moderation", "low", '"auto"', id="moderation"),
        pytest.param("user", "u" * 257, "0 to 256", id="over-long-user"),
        pytest.param("safety_identifier", "a\x00b", "control character", id="nul-in-identifier"),
        pytest.param("scheduler", "lms", '"euler", "euler-a", "unipc", "lcm"', id="scheduler"),
        pytest.param("size", "96", "WIDTHxHEIGHT", id="one-sided-size"),
        pytest.param("size", "96x99999", "WIDTHxHEIGHT", id="five-digits"),
        pytest.param("output_format", "gif", '"png", "jpeg", "webp"', id="output-format"),
        pytest.param("output_compression", 101, "0 to 100", id="output-compression"),
        pytest.param("response_format", "url", '"b64_json"', id="url"),
        pytest.param("prompt", "", "1 to 4000", id="empty-prompt"),
        pytest.param("prompt", " \n", "1 to 4000", id="blank-prompt"),
        pytest.param("negative_prompt", "x" * 4001, "0 to 4000", id="over-long-negative"),
        pytest.param("model", "m" * 65, "1 to 64", id="over-long-model"),
    ],
)
def test_a_bad_value_is_refused_naming_field_value_and_what_is_allowed(
    field: str, value: Any, allowed: str
) -> None:
    fault = refusal(json.dumps({"prompt": "x", field: value}).encode())
    assert fault.status == 400
    assert fault.param == field
    assert fault.message.startswith(f"{field}: ")
    assert json.dumps(value)[:20] in fault.message
    assert allowed in fault.message


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    fault = refusal(b'{"promt": "x"}')
    assert isinstance(fault, UnknownField)
    assert fault.param == "promt"
    assert fault.message.startswith('"promt": ')
    assert "negative_prompt" in fault.message


@pytest.mark.parametrize("field", sorted(set(GenerationRequest.model_fields) - {"prompt"}))
def test_null_means_that_a_field_is_absent(field: str) -> None:
    assert parse(**{field: None}) == parse()
    schema = GenerationRequest.model_json_schema()["properties"][field]
    assert {"type": "null"} in schema["anyOf"]


def test_a_whole_number_may_be_written_with_a_fraction() -> None:
    assert parse(n=1.0, seed=7.0, num_inference_steps=3.0) == parse(
        n=1, seed=7, num_inference_steps=3
    )


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        pytest.param({"quality": "hd"}, 'quality: "hd" has no effect here', id="quality"),
        pytest.param({"style": "vivid"}, 'style: "vivid" has no effect here', id="style"),
        pytest.param(
            {"prompt": "a star <lora:sparkle:0.8>"},
            'prompt: "<lora:sparkle:0.8>" loads nothing here; it is read as text',
            id="lora",
        ),
        pytest.param(
            {"negative_prompt": "blue", "guidance_scale": 1.0},
            "negative_prompt: has no effect where guidance is off",
            id="negative-prompt",
        ),
    ],
)
def test_what_has_no_effect_is_warned_of(fields: dict[str, Any], warning: str) -> None:
    assert parse(**fields).resolve(VARIANT, LIMITS).warnings == (warning,)


@pytest.mark.parametrize("quality", ["auto", "standard", None])
def test_a_neutral_value_is_not_warned_of(quality: str | None) -> None:
    neutral = {"style": "natural", "background": "opaque", "moderation": "auto", "user": "u"}
    assert parse(quality=quality, **neutral).resolve(VARIANT, LIMITS).warnings == ()


@pytest.mark.parametrize(
    "token",
    [
        "true", "false", '"true"', '"it\'s"', r'"say \"x\""', "[null, true]",
        '{"a": false}', "NaN", "-Infinity",
    ],
)  # fmt: skip
def test_what_was_given_is_shown_as_the_json_that_was_sent(token: str) -> None:
    fault = refusal(f'{{"prompt": "x", "n": {token}}}'.encode())
    assert fault.message == f"n: {token} was given; it must be an integer from 1 to 10"


@pytest.mark.parametrize("text", ["tab\tand\nbreaks\r\n", "emoji 🌻", "ein Strauß", "花瓶"])
def test_ordinary_text_is_accepted(text: str) -> None:
    assert parse(prompt=text).prompt == text


@pytest.mark.parametrize(
    "size",
    [
        pytest.param("100x96", id="width-not-a-multiple-of-8"),
        pytest.param("96x100", id="height-not-a-multiple-of-8"),
        pytest.param("56x96", id="too-narrow"),
        pytest.param("96x200", id="too-high"),
    ],
)
def test_a_size_out_of_the_variants_bounds_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest, match="multiples of 8 from 64 to 192") as caught:
        parse(size=size).resolve(VARIANT, LIMITS)
    assert caught.value.param == "size"
    assert size in caught.value.message


def test_work_is_bounded_over_images_size_and_steps() -> None:
    assert parse(n=8, num_inference_steps=50).resolve(VARIANT, LIMITS)
    assert parse(n=2, num_inference_steps=50, size="192x192").resolve(VARIANT, LIMITS)
    assert parse(n=4, num_inference_steps=50, size="192x96").resolve(VARIANT, LIMITS)
    assert parse(n=4, num_inference_steps=50, size="96x192").resolve(VARIANT, LIMITS)
    # Without guidance a step takes half.
    assert parse(n=8, num_inference_steps=100, guidance_scale=1.0).resolve(VARIANT, LIMITS)
    for fields in (
        {"n": 8, "num_inference_steps": 51},
        {"n": 3, "num_inference_steps": 50, "size": "192x192"},
        {"n": 8, "num_inference_steps": 101, "guidance_scale": 1.0},
    ):
        with pytest.raises(InvalidRequest, match="steps of one 96x96 image with guidance"):
            parse(**fields).resolve(VARIANT, LIMITS)


def test_accept_and_output_format_must_agree() -> None:
    assert parse(output_format="webp").picture_format("webp").output_format == "webp"
    assert parse().picture_format("jpeg").output_format == "jpeg"
    with pytest.raises(InvalidRequest) as caught:
        parse(output_format="webp").picture_format("png")
    assert caught.value.param == "output_format"


def test_png_cannot_be_compressed_with_loss() -> None:
    assert parse(output_compression=100).picture_format(None).output_format == "png"
    with pytest.raises(InvalidRequest) as caught:
        parse(output_compression=50).picture_format(None)
    assert caught.value.param == "output_compression"
    assert parse(output_compression=50, output_format="jpeg").picture_format(None).quality == 50
    assert parse(output_compression=0, output_format="jpeg").picture_format(None).quality == 0


def test_a_deadline_counts_from_now_in_unix_seconds() -> None:
    before = time.time()
    deadline_at = parse(deadline_s=5.0).resolve(VARIANT, LIMITS).deadline_at
    assert deadline_at is not None
    assert before + 5 <= deadline_at <= time.time() + 5
    assert parse().resolve(VARIANT, LIMITS).deadline_at is None


FEW_STEP = SD_V1.variants["original-lcm"]


def test_a_few_step_variant_draws_four_unguided_steps_of_lcm_by_default() -> None:
    generation = parse().resolve(FEW_STEP, LIMITS)
    assert (generation.num_inference_steps, generation.scheduler) == (4, "lcm")
    assert not generation.guided
    # Half of 4 steps with guidance.
    assert generation.image_steps == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"num_inference_steps": 9},
            'num_inference_steps: 9 was given; "original-lcm" allows 1 to 8',
            id="steps",
        ),
        pytest.param(
            {"guidance_scale": 7.5},
            'guidance_scale: 7.5 was given; "original-lcm" allows 0 to 2',
            id="guidance",
        ),
        pytest.param(
            {"scheduler": "pndm"},
            'scheduler: "pndm" was given; "original-lcm" allows "lcm"',
            id="scheduler",
        ),
    ],
)
def test_what_a_few_step_variant_cannot_do_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields).resolve(FEW_STEP, LIMITS)
    assert caught.value.message == message
    assert caught.value.param == next(iter(fields))


def test_lcm_is_refused_elsewhere_naming_the_variants_that_allow_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(scheduler="lcm").resolve(VARIANT, LIMITS, ["original-lcm", "distilled-lcm"])
    assert 'was distilled for it: "original-lcm", "distilled-lcm"' in caught.value.message
