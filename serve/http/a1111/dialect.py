"""AUTOMATIC1111's dialect: its txt2img and img2img to the Images API's requests, and replies back.

Field names are those of its web UI's API. Clients send more than they mean, so fields without an
effect are skipped; those that would change the picture and can't be honoured are refused by name.
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import BodyTooLarge, InvalidRequest, MalformedBody, ServingError, shown
from ...generation import SAMPLER_NAMES, VERSION, Drawing, Generation, SchedulerName, infotext
from ...variants import Variant
from ..body import MAX_BODY_BYTES
from ..edit_schemas import EditRequest, Picture, Resize
from ..options import UploadLimits
from ..schemas import GenerationRequest, validate_request
from ..uploads import read_picture, read_white_mask

# What else its API calls the samplers.
SAMPLER_ALIASES: dict[SchedulerName, tuple[str, ...]] = {
    "pndm": ("plms",),
    "ddim": ("ddim",),
    "dpm++": ("k_dpmpp_2m",),
    "dpm++-karras": ("k_dpmpp_2m_ka",),
    "euler": ("k_euler",),
    "euler-a": ("k_euler_a", "k_euler_ancestral"),
    "unipc": ("unipc",),
    "lcm": ("k_lcm",),
}
# What has steps of its own, so that AUTOMATIC1111 ignores the noise schedule, too.
_WITHOUT_SCHEDULE: tuple[SchedulerName, ...] = ("pndm", "ddim", "unipc")
# Newer clients name the noise schedule in a field of its own.
_WITH_KARRAS: dict[SchedulerName, SchedulerName] = {"dpm++": "dpm++-karras"}
_KARRAS = ("Karras", "karras")
# The values of each field that change nothing; null is another. s_noise, s_tmax and s_tmin have no
# effect without s_churn. Timesteps are spaced evenly here, as in the schedules Normal and Uniform.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alwayson_scripts": ({},),
    "clip_skip": (0, 1),
    "enable_hr": (False,),
    "firstpass_image": ("",),
    "firstphase_height": (0,),
    "firstphase_width": (0,),
    "infotext": ("",),
    "initial_noise_multiplier": (1,),
    "refiner_checkpoint": ("", "None"),
    "restore_faces": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "scheduler": ("", "N/A", "Automatic", "automatic", "Normal", "normal", "Uniform", "uniform"),
    "script_name": ("", "None"),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "styles": ([],),
    "subseed_strength": (0,),
    "tiling": (False,),
}
# The same of what matters only with a mask.
_NEUTRAL_OF_MASKS: dict[str, tuple[Any, ...]] = {
    "inpaint_full_res": (False, 0),
    "inpainting_fill": (1,),
}
# Options that change no picture here, whatever they say.
_WITHOUT_EFFECT = {
    "do_not_show_images",
    "grid_save",
    "live_previews_enable",
    "return_grid",
    "samples_save",
    "show_progress_every_n_steps",
}
# The options that are known beside sd_model_checkpoint, with the values that change nothing, the
# first of which is this service's own.
FIXED_OPTIONS: dict[str, tuple[Any, ...]] = {
    "CLIP_stop_at_last_layers": (1, 0),
    "enable_pnginfo": (True,),
    "eta_noise_seed_delta": (0,),
    "samples_format": ("png",),
    "sd_hypernetwork": ("None", ""),
    "sd_lora": ("None", ""),
    "sd_vae": ("Automatic", "None", ""),
    "token_merging_ratio": (0,),
}


# What clients ask for besides when they connect. There are no add-ons here, and the memory is that
# of other processes.
CONSTANT_ANSWERS: dict[str, Any] = {
    "/cmd-flags": {},
    "/embeddings": {"loaded": {}, "skipped": {}},
    "/extensions": [],
    "/face-restorers": [],
    "/hypernetworks": [],
    "/latent-upscale-modes": [],
    "/loras": [],
    "/memory": {"ram": {"error": "unavailable"}, "cuda": {"error": "unavailable"}},
    "/prompt-styles": [],
    "/realesrgan-models": [],
    "/schedulers": [
        {
            "name": "automatic",
            "label": "Automatic",
            "aliases": None,
            "default_rho": -1,
            "need_inner_model": False,
        },
        {
            "name": "karras",
            "label": "Karras",
            "aliases": None,
            "default_rho": 7.0,
            "need_inner_model": False,
        },
    ],
    "/script-info": [],
    "/scripts": {"txt2img": [], "img2img": []},
    "/sd-vae": [],
    "/upscalers": [],
}


class A1111Request(GenerationRequest):
    """The Images API's request, with errors that name AUTOMATIC1111's fields."""

    field_names: ClassVar[Mapping[str, str]] = {
        "model": "sd_model_checkpoint",
        "n": "batch_size and n_iter",
        "size": "width and height",
        "num_inference_steps": "steps",
        "guidance_scale": "cfg_scale",
        "scheduler": "sampler_name",
    }

    @classmethod
    def scheduler_name(cls, scheduler: SchedulerName) -> str:
        """What errors call a scheduler."""
        return SAMPLER_NAMES[scheduler]


class A1111EditRequest(A1111Request, EditRequest):
    """The same of an edit's."""

    field_names: ClassVar[Mapping[str, str]] = {
        **A1111Request.field_names,
        "strength": "denoising_strength",
        "image": "init_images",
    }


class Txt2Img(BaseModel):
    """`POST /sdapi/v1/txt2img`; absent and null fields are left to the variant's defaults."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = Field(None, description="-1 draws one at random.")
    # Whose product is held to the bounds of `n`.
    batch_size: int | None = Field(None, ge=0, le=1000)
    n_iter: int | None = Field(None, ge=0, le=1000)
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    sampler_name: str | None = None
    sampler_index: str | None = Field(None, description="An older name of sampler_name.")
    eta: float | None = Field(
        None, description="Only 0 with DDIM and 1 with Euler a; the others have none."
    )
    override_settings: dict[str, Any] | None = Field(
        None, description="sd_model_checkpoint: the variant of this request."
    )
    send_images: bool | None = None

    def model(self, otherwise: str) -> str:
        """The variant that the request names.

        Raises:
            InvalidRequest: another setting is overridden, or the variant isn't named by a string.
        """
        overridden = dict(self.override_settings or {})
        named = overridden.pop("sd_model_checkpoint", None)
        for option, value in overridden.items():
            try:
                require_neutral_option(option, value)
            except InvalidRequest as fault:
                raise InvalidRequest(
                    f"override_settings: {fault.message}", "override_settings"
                ) from None
        if named in (None, ""):
            return otherwise
        if not isinstance(named, str):
            raise InvalidRequest(
                f"override_settings: sd_model_checkpoint: {shown(named)} was given; it must be a "
                "string",
                "override_settings",
            )
        return named

    def as_request(self, model: str, variant: Variant) -> A1111Request:
        """The same request in the Images API's fields, with `variant`'s side for a missing one.

        Raises:
            InvalidRequest: a field can't be honoured, or is out of bounds.
        """
        scheduler = self._scheduler()
        self._refuse_unsupported(scheduler)
        sides = [side or variant.default_size_px for side in (self.width, self.height)]
        fields = {
            "model": model,
            "prompt": self.prompt or "",
            "negative_prompt": self.negative_prompt,
            "seed": None if self.seed == -1 else self.seed,
            "n": _or_1(self.batch_size) * _or_1(self.n_iter),
            "num_inference_steps": self.steps,
            "guidance_scale": self.cfg_scale,
            "size": f"{sides[0]}x{sides[1]}" if self.width or self.height else None,
            "scheduler": scheduler,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return self._validated(given)

    def _validated(self, fields: Mapping[str, Any]) -> A1111Request:
        if (self.model_extra or {}).get("init_images"):
            raise InvalidRequest(
                "init_images: pictures were given; img2img starts from one", "init_images"
            )
        return validate_request(A1111Request, fields)

    def _scheduler(self) -> SchedulerName | None:
        named = self.sampler_name or self.sampler_index
        if named in (None, "", "Automatic", "N/A"):
            return None
        for scheduler, name in SAMPLER_NAMES.items():
            if named.lower() in (name.lower(), *SAMPLER_ALIASES[scheduler]):
                self._require_eta(scheduler)
                if (self.model_extra or {}).get("scheduler") in _KARRAS:
                    return _WITH_KARRAS.get(scheduler, scheduler)
                return scheduler
        known = ", ".join(SAMPLER_NAMES.values())
        raise InvalidRequest(
            f"sampler_name: {shown(named)} was given; allowed: {known}", "sampler_name"
        )

    def _require_eta(self, scheduler: SchedulerName) -> None:
        """Hold `eta` to the noise that the sampler has; for those without any it has no effect."""
        allowed = {"ddim": 0.0, "euler-a": 1.0}.get(scheduler)
        if allowed is not None and self.eta not in (None, allowed):
            raise InvalidRequest(
                f"eta: {self.eta:g} was given; {SAMPLER_NAMES[scheduler]} allows only {allowed:g}",
                "eta",
            )

    def _refuse_unsupported(self, scheduler: SchedulerName | None) -> None:
        for name, value in (self.model_extra or {}).items():
            if name == "scheduler" and scheduler in _WITHOUT_SCHEDULE:
                continue
            if name == "scheduler" and value in _KARRAS and scheduler in _WITH_KARRAS.values():
                continue
            if name == "styles" and isinstance(value, list) and not any(value):
                continue
            _require_neutral(_NEUTRAL, name, value)


_RESIZE_MODES: tuple[Resize, ...] = ("stretch", "cover", "fit")
# A data URL's head, which clients may leave out.
_DATA_URL = re.compile(r"data:image/[a-z+.-]{1,20};base64,")


class Img2Img(Txt2Img):
    """`POST /sdapi/v1/img2img`; the mask is white where the picture may change."""

    init_images: list[str] | None = Field(None, description="One picture, in base64.")
    mask: str | None = Field(None, description="In base64, of any size.")
    denoising_strength: float | None = Field(None, description="0.75 when absent.")
    inpainting_mask_invert: int | None = Field(None, ge=0, le=1)
    mask_blur: int | None = Field(None, description="Without effect: masks have hard edges.")
    resize_mode: int | None = Field(
        None, ge=0, le=2, description="0 stretches the picture, 1 crops it, 2 fills its edges up."
    )

    def picture(self, limits: UploadLimits) -> Picture:
        """The picture and its mask.

        Raises:
            InvalidRequest: there is none, or more than one, or a file can't be read; or the mask
                is meant otherwise.
        """
        if not self.init_images or len(self.init_images) > 1:
            count = len(self.init_images or ())
            raise InvalidRequest(
                f"init_images: {count} pictures were given; it must be one", "init_images"
            )
        upload = read_picture(_decoded(self.init_images[0], "init_images"), "init_images", limits)
        mask = None
        if self.mask:
            for name, value in (self.model_extra or {}).items():
                _require_neutral(_NEUTRAL_OF_MASKS, name, value)
            height_px, width_px, _ = upload.pixels.shape
            file = _decoded(self.mask, "mask")
            mask = read_white_mask(file, "mask", (width_px, height_px), limits)
            if self.inpainting_mask_invert:
                mask = 255 - mask
            if not mask.any():
                where = "white (with transparency: opaque)"
                if self.inpainting_mask_invert:
                    where = "black (with transparency: transparent)"
                raise InvalidRequest(f"mask: no part of it is {where}", "mask")
        return Picture(upload.pixels, mask, _RESIZE_MODES[self.resize_mode or 0])

    def without_pictures(self) -> "Img2Img":
        """The other fields, which the reply repeats, unknown ones included.

        Raises:
            BodyTooLarge: they are larger than a body without pictures may be.
        """
        without = self.model_copy(update={"init_images": None, "mask": None})
        rest_bytes = len(without.model_dump_json(exclude_unset=True).encode())
        if rest_bytes > MAX_BODY_BYTES:
            raise BodyTooLarge(
                f"body: {rest_bytes} bytes beside init_images and mask were given; at most "
                f"{MAX_BODY_BYTES} are allowed"
            )
        return without

    def _validated(self, fields: Mapping[str, Any]) -> A1111EditRequest:
        strength = 0.75 if self.denoising_strength is None else self.denoising_strength
        return validate_request(A1111EditRequest, {**fields, "strength": strength})


def _require_neutral(table: Mapping[str, tuple[Any, ...]], name: str, value: Any) -> None:
    if name in table and value is not None and value not in table[name]:
        allowed = " or ".join(shown(neutral) for neutral in table[name])
        raise InvalidRequest(
            f"{name}: {shown(value)} was given; unsupported: leave it out, or give {allowed}", name
        )


def _decoded(text: str, field: str) -> bytes:
    head = _DATA_URL.match(text)
    try:
        return base64.b64decode(text[head.end() :] if head else text, validate=True)
    except ValueError:
        raise InvalidRequest(
            f"{field}: something other than base64 was given; it must be a PNG, JPEG or WebP file "
            "in base64; URLs and paths aren't read",
            field,
        ) from None


def _or_1(count: int | None) -> int:
    return 1 if count is None else count


AskedT = TypeVar("AskedT", bound=Txt2Img)


def parse_asked(body: bytes, kind: type[AskedT]) -> AskedT:
    """Read a body.

    Raises:
        MalformedBody: not a JSON object.
        InvalidRequest: a field is of another type.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as fault:
        detail = fault.errors(include_url=False)[0]
        if not detail["loc"]:
            raise MalformedBody("body: must be a JSON object in UTF-8") from None
        field = str(detail["loc"][0])
        raise InvalidRequest(
            f"{field}: {shown(detail['input'])} was given; it must be {_allowed(field, kind)}, or "
            "absent",
            field,
        ) from None


_TYPES = {
    "array": "a list of strings",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a finite number",
    "object": "an object",
    "string": "a string",
}


def _allowed(field: str, kind: type[Txt2Img]) -> str:
    rule = kind.model_json_schema()["properties"][field]["anyOf"][0]
    bounds = f" from {rule['minimum']} to {rule['maximum']}" if "maximum" in rule else ""
    return _TYPES[rule["type"]] + bounds


def reply(asked: Txt2Img, generation: Generation, drawing: Drawing) -> dict[str, Any]:
    """`images`, `parameters` and `info`; flagged pictures are left out, and `info` says so."""
    drawn = [image for image, picture in enumerate(drawing.pictures) if picture is not None]
    seeds = [generation.seeds[image] for image in drawn]
    info = {
        "prompt": generation.prompt,
        "all_prompts": [generation.prompt] * len(drawn),
        "negative_prompt": generation.negative_prompt,
        "all_negative_prompts": [generation.negative_prompt] * len(drawn),
        "seed": seeds[0],
        "all_seeds": seeds,
        # Without variation seeds these are the seeds.
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": generation.width_px,
        "height": generation.height_px,
        "sampler_name": SAMPLER_NAMES[generation.scheduler],
        "cfg_scale": generation.guidance_scale,
        "steps": generation.num_inference_steps,
        "denoising_strength": None if generation.source is None else generation.source.strength,
        "batch_size": len(drawn),
        "sd_model_name": generation.variant,
        "sd_model_hash": None,
        "infotexts": [infotext(generation, image) for image in drawn],
        "styles": [],
        "index_of_first_image": 0,
        "extra_generation_params": {},
        "version": f"distilled-sd-serve {VERSION}",
        "warnings": list(drawing.warnings),
    }
    # By way of JSON, which has no infinity: the fields that are skipped may hold one.
    parameters = json.loads(asked.model_dump_json(exclude={"init_images", "mask"}))
    images = [
        base64.b64encode(picture).decode("ascii")
        for picture in drawing.pictures
        if picture is not None and asked.send_images is not False
    ]
    return {"images": images, "parameters": parameters, "info": json.dumps(info)}


def error_body(fault: ServingError) -> dict[str, str]:
    """An error as their API has it; clients show `detail`."""
    return {"error": fault.code, "detail": fault.message, "body": "", "errors": fault.message}


def require_neutral_option(option: str, value: Any) -> None:
    """Hold an option other than `sd_model_checkpoint` to the values that change nothing.

    Raises:
        InvalidRequest: it is unknown, or would change something.
    """
    if option in _WITHOUT_EFFECT:
        return
    if option not in FIXED_OPTIONS:
        known = ", ".join(("sd_model_checkpoint", *FIXED_OPTIONS))
        raise InvalidRequest(f"{shown(option)}: unknown option; known: {known}", option[:64])
    if value is not None and value not in FIXED_OPTIONS[option]:
        allowed = ", ".join(shown(neutral) for neutral in FIXED_OPTIONS[option])
        raise InvalidRequest(f"{option}: {shown(value)} was given; allowed: {allowed}", option)


def checkpoint_of_options(given: Any, options: Mapping[str, Any]) -> Any:
    """The checkpoint that `POST /sdapi/v1/options` sets; None where it sets none.

    Clients send all options that they have read, with their change.

    Raises:
        InvalidRequest: another option is unknown, or would change something.
    """
    if not isinstance(given, dict):
        raise MalformedBody("body: must be a JSON object in UTF-8")
    for option, value in given.items():
        if option != "sd_model_checkpoint" and options.get(option) != value:
            require_neutral_option(option, value)
    return given.get("sd_model_checkpoint")
