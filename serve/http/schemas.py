"""What clients send and get, in the OpenAI Images API's shape, and the checks before any work.

`parse_request` turns a body into a `GenerationRequest` or into an error that names the field;
`GenerationRequest.resolve` fills in a variant's defaults and holds the request to its bounds.
"""

import contextlib
import json
import re
import secrets
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ..errors import (
    InvalidRequest,
    MalformedBody,
    ServingError,
    UnknownField,
    UnsuitableVariant,
    shown,
)
from ..generation import (
    Generation,
    OutputFormat,
    PictureFormat,
    SchedulerName,
    Source,
    Timings,
)
from ..variants import Variant
from .options import RequestLimits

SEEDS = 2**32
# The latents have an eighth of a picture's sides.
SIZE_STEP_PX = 8
# How prompts for AUTOMATIC1111's web UI name what to load besides.
_EXTRA_NETWORK = re.compile(r"<(lora|lyco|hypernet):[^<>]{1,100}>", re.IGNORECASE)
# A request's `quality` when `output_compression` is absent.
_DEFAULT_QUALITY = 90
_DESCRIPTION_TEXT = "Any text without control characters (tabs and line breaks are allowed)."


def _without_control_characters(text: str) -> str:
    for position, character in enumerate(text):
        # Cs: half of a surrogate pair, which has no UTF-8; Cc: NUL, escape and the like.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise PydanticCustomError(
                "control_character",
                "has the control character U+{code} at position {position}",
                {"code": f"{ord(character):04X}", "position": position},
            )
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is empty")
    return text


Text = Annotated[
    str, StringConstraints(max_length=4000), AfterValidator(_without_control_characters)
]
# Two to four digits each; the variant's own bounds are narrower.
Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{1,3}x[1-9][0-9]{1,3}$")]


Identifier = Annotated[
    str, StringConstraints(max_length=256), AfterValidator(_without_control_characters)
]


class Strict(BaseModel):
    """No coercion, no unknown fields, no NaN: a request means what it says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _allow_null(schema: dict[str, Any]) -> None:
    """Let every optional field be null in a JSON schema."""
    for name, field in schema["properties"].items():
        if field.get("default") is not None:
            rules = {key: field.pop(key) for key in _RULES & set(field)}
            schema["properties"][name] = {"anyOf": [rules, {"type": "null"}], **field}


_RULES = {
    "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "maximum", "maxLength", "minimum",
    "minLength", "type",
}  # fmt: skip


class GenerationRequest(Strict):
    """`POST /v1/images/generations`: the Images API's fields and Stable Diffusion's own.

    A null means that a field is absent, as in the Images API; a prompt must be there.
    """

    model_config = ConfigDict(json_schema_extra=_allow_null)

    prompt: Annotated[Text, AfterValidator(_not_blank)] = Field(
        min_length=1,
        description=f"What to draw. {_DESCRIPTION_TEXT}",
        examples=["a golden vase with different flowers"],
    )
    model: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="The variant; see `GET /v1/models`, which also names the one that draws when "
        "this is absent. `auto` lets the server choose.",
    )
    negative_prompt: Text = Field(
        "", description="What to steer away from; no effect where guidance is off."
    )
    n: int = Field(1, ge=1, le=10, description="How many images.")
    size: Size | Literal["auto"] | None = Field(
        None,
        description="WIDTHxHEIGHT in pixels, multiples of 8; the variant's own with auto or none.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=SEEDS,
        description="Image i is drawn from (seed + i) modulo 2^32; drawn at random when absent.",
    )
    num_inference_steps: int | None = Field(
        None, ge=1, le=150, description="Denoising steps; the variant's own when absent."
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=30,
        description="Classifier-free guidance; at most 1 switches it off and halves the work. "
        "The variant's own when absent.",
    )
    scheduler: SchedulerName | None = Field(
        None, description="The variant's own when absent. `lcm` needs a few-step variant."
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=600,
        description="Seconds from arrival in which the pictures must be there. Refused at once "
        "where that can't be, with 429 if waiting helps and 400 if not; dropped with 504 later.",
    )
    output_format: OutputFormat | None = Field(
        None, description="png when absent; an `Accept: image/...` header decides, too."
    )
    output_compression: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Quality of jpeg and webp, 90 when absent; png allows only 100.",
    )
    response_format: Literal["b64_json"] = Field(
        "b64_json", description="Nothing is stored here, so there are no URLs to hand out."
    )
    stream: bool = Field(False, description="Answer with server-sent events as pictures are made.")
    partial_images: int = Field(
        0, ge=0, le=3, description="Previews of each image on the way; only with `stream`."
    )
    quality: Literal["auto", "standard", "hd", "low", "medium", "high"] | None = Field(
        None, description="Without effect, which a warning says: steps and variant decide."
    )
    style: Literal["natural", "vivid"] | None = Field(
        None, description="Without effect, which a warning says: the prompt decides."
    )
    background: Literal["auto", "opaque"] | None = Field(
        None, description="Only neutral values: pictures have no transparency."
    )
    moderation: Literal["auto"] | None = Field(
        None, description="Only the neutral value: the server's configuration decides."
    )
    user: Identifier | None = Field(None, description="Goes hashed into the log.")
    safety_identifier: Identifier | None = Field(None, description="Goes hashed into the log.")

    field_names: ClassVar[Mapping[str, str]] = {}
    """What clients of another dialect call a field, where that differs."""
    file_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that aren't text, for errors."""

    @classmethod
    def client_name(cls, field: str) -> str:
        """What errors call a field."""
        return cls.field_names.get(field, field)

    @classmethod
    def scheduler_name(cls, scheduler: SchedulerName) -> str:
        """What errors call a scheduler."""
        return scheduler

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {
            name: value
            for name, value in fields.items()
            if value is not None or name == "prompt" or name not in cls.model_fields
        }

    @field_validator(
        "n", "seed", "num_inference_steps", "output_compression", "partial_images", mode="before"
    )
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        # JSON has one kind of number, so 1.0 is an integer, and some clients write it so.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @model_validator(mode="after")
    def _previews_only_in_streams(self) -> Self:
        if self.partial_images and not self.stream:
            raise InvalidRequest(
                f"partial_images: {self.partial_images} was given, but previews need stream: true",
                "partial_images",
            )
        return self

    def picture_format(self, accepted: OutputFormat | None) -> PictureFormat:
        """How to encode, given the format that the `Accept` header asks for, if any.

        Raises:
            InvalidRequest: header and body ask for different formats, or png for compression.
        """
        if accepted and self.output_format and accepted != self.output_format:
            raise InvalidRequest(
                f"output_format: {shown(self.output_format)} was given, but the Accept header asks "
                f"for image/{accepted}; leave one of them out, or make them agree",
                "output_format",
            )
        output_format = accepted or self.output_format or "png"
        if output_format == "png" and self.output_compression not in (None, 100):
            raise InvalidRequest(
                f"output_compression: {self.output_compression} was given, but png is lossless and "
                "allows only 100; ask for jpeg or webp",
                "output_compression",
            )
        quality = self.output_compression
        return PictureFormat(output_format, _DEFAULT_QUALITY if quality is None else quality)

    def with_seed(self) -> Self:
        """The request with a random seed where it has none: whoever draws it draws the same."""
        if self.seed is not None:
            return self
        return self.model_copy(update={"seed": secrets.randbelow(SEEDS)})

    def resolve(
        self, variant: Variant, limits: RequestLimits, few_step: Sequence[str] = ()
    ) -> Generation:
        """Fill in a variant's defaults, and a random seed where the request has none.

        Args:
            variant: who is to draw it.
            limits: what a request may ask for.
            few_step: the served variants that allow the scheduler `lcm`, for the error's words.

        Raises:
            InvalidRequest: size, steps, guidance, scheduler or the work are out of the variant's
                bounds.
        """
        width_px, height_px = self._size_px(variant)
        self._check_bounds(variant, few_step)
        steps = self.num_inference_steps
        if steps is None:
            steps = variant.default_steps
        times_s = [
            seconds for seconds in (self.deadline_s, limits.max_request_s) if seconds is not None
        ]
        first = secrets.randbelow(SEEDS) if self.seed is None else self.seed
        guidance_scale = self.guidance_scale
        generation = Generation(
            variant=variant.name,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seeds=tuple((first + image) % SEEDS for image in range(self.n)),
            width_px=width_px,
            height_px=height_px,
            default_size_px=variant.default_size_px,
            num_inference_steps=steps,
            guidance_scale=variant.guidance_scale if guidance_scale is None else guidance_scale,
            scheduler=self.scheduler or variant.default_scheduler,
            deadline_at=time.time() + min(times_s) if times_s else None,
            previews=self.partial_images,
            warnings=self._warnings(),
            source=self._source(),
        )
        if self.negative_prompt and not generation.guided:
            field = self.client_name("negative_prompt")
            warning = f"{field}: has no effect where guidance is off"
            generation = replace(generation, warnings=(*generation.warnings, warning))
        if generation.image_steps > limits.max_image_steps:
            n, size, field = map(self.client_name, ("n", "size", "num_inference_steps"))
            side_px = variant.default_size_px
            work, lower = f"{steps} steps", f"{n}, {size}"
            if generation.source is not None:
                strength = self.client_name("strength")
                work = (
                    f"{steps - generation.first_step} of {steps} steps each ({strength} "
                    f"{generation.source.strength:g}), and one step to encode the picture,"
                )
                lower = f"{lower}, {strength}"
            raise InvalidRequest(
                f"{n}: {self.n} image(s) of {width_px}x{height_px} with {work} "
                f"are {generation.image_steps:.0f} steps of one {side_px}x{side_px} image "
                f"with guidance; a request may ask for {limits.max_image_steps}; lower {lower} "
                f"or {field}",
                n,
            )
        return generation

    def _check_bounds(self, variant: Variant, few_step: Sequence[str]) -> None:
        """Hold scheduler, steps and guidance to what the variant allows."""
        if self.scheduler is not None and self.scheduler not in variant.schedulers:
            field = self.client_name("scheduler")
            reason = ""
            if self.scheduler == "lcm":
                others = ", ".join(map(shown, few_step)) or "none that is served here"
                name = self.scheduler_name("lcm")
                reason = f"; {name} needs a variant that was distilled for it: {others}"
            raise UnsuitableVariant(
                f"{field}: {shown(self.scheduler_name(self.scheduler))} was given; "
                f"{shown(variant.name)} allows "
                f"{', '.join(shown(self.scheduler_name(name)) for name in variant.schedulers)}"
                f"{reason}",
                field,
            )
        for name, given, least, most in (
            ("num_inference_steps", self.num_inference_steps, 1, variant.max_steps),
            ("guidance_scale", self.guidance_scale, 0, variant.max_guidance_scale),
        ):
            if given is not None and given > most:
                field = self.client_name(name)
                raise InvalidRequest(
                    f"{field}: {shown(given)} was given; {shown(variant.name)} allows {least} to "
                    f"{most:g}",
                    field,
                )

    def _source(self) -> Source | None:
        """What a request starts from; edits override it."""
        return None

    def _warnings(self) -> tuple[str, ...]:
        found = [
            f"{self.client_name(field)}: {shown(value)} has no effect here"
            for field, value in (("quality", self.quality), ("style", self.style))
            if value not in (None, "auto", "standard", "natural")
        ]
        for field, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            if network := _EXTRA_NETWORK.search(text):
                found.append(
                    f"{self.client_name(field)}: {shown(network[0])} loads nothing here; it is "
                    "read as text"
                )
        return tuple(found)

    def _size_px(self, variant: Variant) -> tuple[int, int]:
        if self.size in (None, "auto"):
            return variant.default_size_px, variant.default_size_px
        width_px, height_px = (int(side) for side in self.size.split("x"))
        for side_px in (width_px, height_px):
            if side_px % SIZE_STEP_PX or not variant.min_size_px <= side_px <= variant.max_size_px:
                size = self.client_name("size")
                raise InvalidRequest(
                    f"{size}: {shown(self.size)} was given; {shown(variant.name)} allows "
                    f"WIDTHxHEIGHT with both sides multiples of {SIZE_STEP_PX} from "
                    f"{variant.min_size_px} to {variant.max_size_px}",
                    size,
                )
        return width_px, height_px


class Image(Strict):
    """One picture of a reply."""

    b64_json: str | None = Field(description="null where the picture is `flagged`.")
    seed: int
    flagged: bool = Field(False, description="Whether the safety checker flagged the picture.")


class ImagesResponse(Strict):
    """The reply of `POST /v1/images/generations`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "created": 1790000000,
                "model": "distilled",
                "model_reason": None,
                "data": [{"b64_json": "iVBORw0KGgo...", "seed": 7, "flagged": False}],
                "output_format": "png",
                "size": "512x512",
                "timings": {"queue_s": 0.0, "denoise_s": 0.5, "decode_s": 0.05, "encode_s": 0.04},
                "warnings": [],
            }
        }
    )

    created: int = Field(description="Unix seconds.")
    model: str
    model_reason: str | None = Field(description="Why this variant, where the request had `auto`.")
    data: list[Image]
    output_format: OutputFormat
    size: str
    timings: Timings
    warnings: list[str] = Field(description="What was changed, such as a prompt that was cut.")


class ErrorBody(Strict):
    """What is inside `error`."""

    message: str
    type: str
    param: str | None
    code: str

    @classmethod
    def of(cls, fault: ServingError) -> Self:
        """An error as clients get it."""
        return cls(message=fault.message, type=fault.type, param=fault.param, code=fault.code)


class ErrorResponse(Strict):
    """Every reply that isn't a success."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "message": "n: 11 was given; it must be an integer from 1 to 10",
                    "type": "invalid_request_error",
                    "param": "n",
                    "code": "invalid_value",
                }
            }
        }
    )

    error: ErrorBody


def parse_request(body: bytes) -> GenerationRequest:
    """Read a request body.

    Raises:
        MalformedBody: not JSON, not UTF-8, or not an object.
        UnknownField: a field that doesn't exist.
        InvalidRequest: names the field, what was given and what is allowed.
    """
    with _invalid_requests(GenerationRequest):
        request = GenerationRequest.model_validate_json(body)
    json.loads(body, object_pairs_hook=_refuse_repeated)
    return request


RequestT = TypeVar("RequestT", bound=GenerationRequest)


def validate_request(kind: type[RequestT], fields: Mapping[str, Any]) -> RequestT:
    """A request of fields that another dialect's request has given.

    Raises:
        InvalidRequest: names the field, what was given and what is allowed.
    """
    with _invalid_requests(kind):
        return kind.model_validate(fields)


@contextlib.contextmanager
def _invalid_requests(kind: type[GenerationRequest]) -> Iterator[None]:
    """Raise pydantic's errors as this project's."""
    try:
        yield
    except ValidationError as fault:
        # An unknown field first: it is often the reason for the others, a misspelt name.
        details = sorted(fault.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        raise _as_invalid_request(details[0], kind) from None


def _refuse_repeated(pairs: Sequence[tuple[str, Any]]) -> None:
    """JSON leaves open which of two fields of one name counts: who checks may read another."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"{name}: was given more than once; it must be given once", name)


def bounds() -> dict[str, tuple[float, float]]:
    """The least and the most of each number that a request may give, and of a text's length."""
    found: dict[str, tuple[float, float]] = {}
    for name, schema in GenerationRequest.model_json_schema()["properties"].items():
        for rule in schema.get("anyOf", [schema]):
            if "maximum" in rule and "minimum" in rule:
                found[name] = (rule["minimum"], rule["maximum"])
            elif "exclusiveMaximum" in rule:  # Only integers have an exclusive maximum.
                found[name] = (rule["minimum"], rule["exclusiveMaximum"] - 1)
            elif "maxLength" in rule:
                found[name] = (rule.get("minLength", 0), rule["maxLength"])
    return found


def _as_invalid_request(detail: ErrorDetails, kind: type[GenerationRequest]) -> InvalidRequest:
    if not detail["loc"]:
        reason = str(detail.get("ctx", {}).get("error", "not a JSON object"))
        return MalformedBody(f"body: must be a JSON object in UTF-8: {reason}")
    field = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join((*kind.file_fields, *kind.model_fields))
        hint = ""
        if field in ("image", "mask", "strength"):
            hint = "; pictures are edited by POST /v1/images/edits, which takes a form"
        return UnknownField(f"{shown(field)}: unknown field; allowed: {allowed}{hint}", field[:64])
    name = kind.client_name(field)
    if detail["type"] == "missing":
        return InvalidRequest(f"{name}: missing; it must be {_allowed(field, kind)}", name)
    problem = detail["msg"] if detail["type"] in ("control_character", "blank") else "was given"
    return InvalidRequest(
        f"{name}: {shown(detail['input'])} {problem}; it must be {_allowed(field, kind)}", name
    )


def _allowed(field: str, kind: type[GenerationRequest]) -> str:
    """A field's bounds in words, read from the schema so that they have one owner."""
    schema = kind.model_json_schema()["properties"][field]
    alternatives = schema.get("anyOf", [schema])
    rule = next(rule for rule in alternatives if rule.get("type") != "null")
    if "const" in rule:
        return f"{shown(rule['const'])} ({schema['description']})"
    if "enum" in rule:
        return "one of " + ", ".join(shown(value) for value in rule["enum"])
    if "pattern" in rule:
        return '"auto", or a string such as "512x512", WIDTHxHEIGHT in pixels'
    if rule["type"] == "string":
        low, high = rule.get("minLength", 0), rule["maxLength"]
        return f"a string of {low} to {high} characters, none of them a control character"
    if rule["type"] == "boolean":
        return "true or false"
    number = {"integer": "an integer", "number": "a finite number"}[rule["type"]]
    high = rule.get("maximum", rule.get("exclusiveMaximum", 0) - 1)
    if "exclusiveMinimum" in rule:
        return f"{number} over {rule['exclusiveMinimum']}, at most {high}"
    return f"{number} from {rule['minimum']} to {high}"
