"""AUTOMATIC1111's dialect: its txt2img request to the Images API's, and the reply back.

Field names are those of its web UI's API. Clients send more than they mean, so fields without an
effect are skipped; those that would change the picture and can't be honoured are refused by name.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import InvalidRequest, MalformedBody, ServingError, shown
from ...generation import Drawing, Generation, SchedulerName, infotext
from ...variants import Variant
from ..schemas import GenerationRequest, validate_request

# Its sampler of the same algorithm, and what else that is called there. PNDM without its
# Runge-Kutta steps, as Stable Diffusion configures it, is PLMS.
SAMPLERS: dict[SchedulerName, tuple[str, tuple[str, ...]]] = {
    "pndm": ("PLMS", ("plms",)),
    "ddim": ("DDIM", ("ddim",)),
    "dpm++": ("DPM++ 2M", ("k_dpmpp_2m",)),
    "euler": ("Euler", ("k_euler",)),
}
# What each of these may say: that it changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
    "firstpass_image": ("",),
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "restore_faces": (False,),
    "tiling": (False,),
    "refiner_checkpoint": ("", "None"),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "script_name": ("", "None"),
    "alwayson_scripts": ({},),
    "init_images": ([],),
    "infotext": ("",),
    "scheduler": ("", "Automatic", "automatic"),
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


class Txt2Img(BaseModel):
    """`POST /sdapi/v1/txt2img`; absent and null fields are left to the variant's defaults."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    prompt: str = ""
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
    eta: float | None = Field(None, description="Only 0 with DDIM; the others have none.")
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
        if overridden:
            unknown = shown(next(iter(overridden)))
            raise InvalidRequest(
                f"override_settings: {unknown} was given; only sd_model_checkpoint is known",
                "override_settings",
            )
        if named is None:
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
        self._refuse_unsupported()
        sides = [side or variant.default_size_px for side in (self.width, self.height)]
        fields = {
            "model": model,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": None if self.seed == -1 else self.seed,
            "n": _or_1(self.batch_size) * _or_1(self.n_iter),
            "num_inference_steps": self.steps,
            "guidance_scale": self.cfg_scale,
            "size": f"{sides[0]}x{sides[1]}" if self.width or self.height else None,
            "scheduler": self._scheduler(),
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return validate_request(A1111Request, given)

    def _scheduler(self) -> SchedulerName | None:
        named = self.sampler_name or self.sampler_index
        if named is None or named == "Automatic":
            return None
        for scheduler, (name, aliases) in SAMPLERS.items():
            if named.lower() in (name.lower(), *aliases):
                if scheduler == "ddim" and self.eta:
                    raise InvalidRequest(f"eta: {self.eta:g} was given; DDIM allows only 0", "eta")
                return scheduler
        known = ", ".join(name for name, _ in SAMPLERS.values())
        raise InvalidRequest(
            f"sampler_name: {shown(named)} was given; allowed: {known}", "sampler_name"
        )

    def _refuse_unsupported(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
                raise InvalidRequest(f"{name}: {shown(value)} was given; unsupported", name)


def _or_1(count: int | None) -> int:
    return 1 if count is None else count


def parse_txt2img(body: bytes) -> Txt2Img:
    """Read a body.

    Raises:
        MalformedBody: not a JSON object.
        InvalidRequest: a field is of another type.
    """
    try:
        return Txt2Img.model_validate_json(body)
    except ValidationError as fault:
        detail = fault.errors(include_url=False)[0]
        if not detail["loc"]:
            raise MalformedBody("body: must be a JSON object in UTF-8") from None
        field = str(detail["loc"][0])
        raise InvalidRequest(
            f"{field}: {shown(detail['input'])} was given: {detail['msg']}", field
        ) from None


def reply(asked: Txt2Img, generation: Generation, drawing: Drawing) -> dict[str, Any]:
    """`images`, `parameters` and `info`; flagged pictures are left out, and `info` says so."""
    drawn = [image for image, picture in enumerate(drawing.pictures) if picture is not None]
    seeds = [generation.seeds[image] for image in drawn]
    sampler, _ = SAMPLERS[generation.scheduler]
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
        "sampler_name": sampler,
        "cfg_scale": generation.guidance_scale,
        "steps": generation.num_inference_steps,
        "batch_size": len(drawn),
        "sd_model_name": generation.variant,
        "sd_model_hash": None,
        "infotexts": [infotext(generation, image) for image in drawn],
        "styles": [],
        "index_of_first_image": 0,
        "extra_generation_params": {},
        "warnings": list(drawing.warnings),
    }
    # By way of JSON, which has no infinity: the fields that are skipped may hold one.
    parameters = json.loads(asked.model_dump_json())
    images = [
        base64.b64encode(picture).decode("ascii")
        for picture in drawing.pictures
        if picture is not None and asked.send_images is not False
    ]
    return {"images": images, "parameters": parameters, "info": json.dumps(info)}


def error_body(fault: ServingError) -> dict[str, str]:
    """An error as their API has it; clients show `detail`."""
    return {"error": fault.code, "detail": fault.message, "body": "", "errors": fault.message}


def changed_options(given: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that `POST /sdapi/v1/options` changes; clients send all that they have read.

    Raises:
        InvalidRequest: an option is unknown, or another than the checkpoint would change.
    """
    if not isinstance(given, dict):
        raise MalformedBody("body: must be a JSON object in UTF-8")
    changed = {name: value for name, value in given.items() if options.get(name) != value}
    for name in changed:
        if name != "sd_model_checkpoint":
            raise InvalidRequest(
                f"{shown(name)}: can't be set here; only sd_model_checkpoint can", name[:64]
            )
    return changed
