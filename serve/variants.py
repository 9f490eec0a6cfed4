"""The catalogue: which components make a variant, where they come from, and its defaults.

Data only, and plain dataclasses, so that the pipelines run where only torch, diffusers and
transformers are. A family is a folder with one sub-folder per component; a variant picks a UNet
and a VAE from it. To add a variant, add an entry here (CONTRIBUTING.md walks through one).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from .generation import Generation, SchedulerName

FamilyName = Literal["miniature", "sd-v1"]
# A request's `model` that leaves the choice of the variant to the server.
AUTO = "auto"
# What stands for every variant of a family where variants are named.
ALL = "all"
ComponentClass = Literal[
    "CLIPTokenizer",
    "CLIPTextModel",
    "PNDMScheduler",
    "UNet2DConditionModel",
    "AutoencoderKL",
    "AutoencoderTiny",
    "StableDiffusionSafetyChecker",
    "CLIPImageProcessor",
]


@dataclass(frozen=True)
class Source:
    """Where a component is published. `subfolder` is None where it lies at the repository's top."""

    repository: str
    revision: str
    subfolder: str | None
    licence: str


@dataclass(frozen=True)
class Lora:
    """A LoRA that is merged into a copy of the component in folder `base` when it is fetched."""

    base: str
    source: Source


@dataclass(frozen=True)
class Component:
    """One sub-folder of a family folder; `source` is None for what this repository ships.

    With a `lora`, the folder holds what `source` publishes with the LoRA merged into it.
    """

    folder: str
    component_class: ComponentClass
    source: Source | None
    lora: Lora | None = None

    @property
    def sources(self) -> list[Source]:
        """All that it is made of; empty for what this repository ships."""
        lora = [] if self.lora is None else [self.lora.source]
        return [*([] if self.source is None else [self.source]), *lora]

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds safetensors; others hold only text."""
        return self.component_class not in ("CLIPTokenizer", "PNDMScheduler", "CLIPImageProcessor")


# The LCM scheduler jumps to the finished picture in every step, which only a UNet that was
# distilled for that can do.
_MANY_STEP_SCHEDULERS = tuple(name for name in get_args(SchedulerName) if name != "lcm")


@dataclass(frozen=True)
class Variant:
    """What one `model` of the API is made of, with the defaults and bounds of its requests.

    With `on_request` it is served, and its weights are downloaded, only where it is named.
    `preview_vae` decodes what an image looks like so far; without one there are no previews.
    `safety_checker` looks at pictures as `feature_extractor` prepares them. Both are optional in a
    family folder, and a family's variants share them.
    """

    name: str
    description: str
    tokenizer: Component
    text_encoder: Component
    scheduler: Component
    unet: Component
    vae: Component
    preview_vae: Component | None
    default_scheduler: SchedulerName
    guidance_scale: float
    default_size_px: int
    min_size_px: int
    max_size_px: int
    safety_checker: Component | None = None
    feature_extractor: Component | None = None
    schedulers: tuple[SchedulerName, ...] = _MANY_STEP_SCHEDULERS
    default_steps: int = 25
    max_steps: int = 150
    max_guidance_scale: float = 30
    on_request: bool = False

    @property
    def few_step(self) -> bool:
        """Whether its UNet was distilled for a few steps of LCM."""
        return "lcm" in self.schedulers

    def generation(
        self, prompt: str, seeds: Iterable[int], steps: int | None = None, **changes: Any
    ) -> Generation:
        """A request with this variant's defaults, one image a seed; `changes` are other fields."""
        defaults = Generation(
            variant=self.name,
            prompt=prompt,
            negative_prompt="",
            seeds=tuple(seeds),
            width_px=self.default_size_px,
            height_px=self.default_size_px,
            default_size_px=self.default_size_px,
            num_inference_steps=self.default_steps if steps is None else steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.default_scheduler,
            deadline_at=None,
            previews=0,
            warnings=(),
            source=None,
        )
        return replace(defaults, **changes)

    @property
    def components(self) -> dict[str, Component]:
        """The components by the names that diffusers gives them, and `preview_vae`."""
        preview = {} if self.preview_vae is None else {"preview_vae": self.preview_vae}
        return {
            "tokenizer": self.tokenizer,
            "text_encoder": self.text_encoder,
            "scheduler": self.scheduler,
            "unet": self.unet,
            "vae": self.vae,
            **preview,
        }

    @property
    def safety_components(self) -> dict[str, Component]:
        """What checks the pictures, by the names that diffusers gives it; empty without one."""
        if self.safety_checker is None or self.feature_extractor is None:
            return {}
        return {
            "safety_checker": self.safety_checker,
            "feature_extractor": self.feature_extractor,
        }


@dataclass(frozen=True)
class Family:
    """Variants that share a folder."""

    name: FamilyName
    description: str
    variants: dict[str, Variant]

    @property
    def default_variants(self) -> tuple[str, ...]:
        """The names of the variants that are served where none are named."""
        return tuple(name for name, variant in self.variants.items() if not variant.on_request)

    def components(
        self, variants: Iterable[str], *, safety_checker: bool = False
    ) -> dict[str, Component]:
        """What the named variants are made of, by folder: what they share appears once.

        With what checks their pictures only where that is asked for.
        """
        needed: dict[str, Component] = {}
        for variant in (self.variants[name] for name in variants):
            parts = variant.components | (variant.safety_components if safety_checker else {})
            needed |= {component.folder: component for component in parts.values()}
        return needed


def offered_models(variants: Iterable[str], auto: bool) -> list[str]:
    """What a request's `model` may be: the served variants, and `auto` where it is offered."""
    return [*variants, *([AUTO] if auto else [])]


def family(name: FamilyName) -> Family:
    """The catalogue's entry for a family.

    Raises:
        KeyError: no such family.
    """
    return {"miniature": MINIATURE, "sd-v1": SD_V1}[name]


def _published(
    folder: str,
    component_class: ComponentClass,
    repository: str,
    subfolder: str | None,
    licence: str,
) -> Component:
    # The branch is named, not a hash: what it resolves to is pinned where the files are downloaded.
    source = Source(repository=repository, revision="main", subfolder=subfolder, licence=licence)
    return Component(folder=folder, component_class=component_class, source=source)


def _shipped(folder: str, component_class: ComponentClass) -> Component:
    return Component(folder=folder, component_class=component_class, source=None)


_OPENRAIL = "CreativeML OpenRAIL-M"
_SD_V1_4 = "CompVis/stable-diffusion-v1-4"

_sd_tokenizer = _published("tokenizer", "CLIPTokenizer", _SD_V1_4, "tokenizer", _OPENRAIL)
_sd_text_encoder = _published("text_encoder", "CLIPTextModel", _SD_V1_4, "text_encoder", _OPENRAIL)
_sd_scheduler = _published("scheduler", "PNDMScheduler", _SD_V1_4, "scheduler", _OPENRAIL)
_sd_unet = _published("unet", "UNet2DConditionModel", _SD_V1_4, "unet", _OPENRAIL)
_sd_vae = _published("vae", "AutoencoderKL", _SD_V1_4, "vae", _OPENRAIL)
_bk_sdm_small_unet = _published(
    "unet_distilled", "UNet2DConditionModel", "nota-ai/bk-sdm-small", "unet", _OPENRAIL
)
_sd_safety_checker = _published(
    "safety_checker", "StableDiffusionSafetyChecker", _SD_V1_4, "safety_checker", _OPENRAIL
)
_sd_feature_extractor = _published(
    "feature_extractor", "CLIPImageProcessor", _SD_V1_4, "feature_extractor", _OPENRAIL
)
_taesd_vae = _published("vae_tiny", "AutoencoderTiny", "sayakpaul/taesd-diffusers", None, "MIT")


_lcm_lora = Lora(
    base=_sd_unet.folder,
    source=Source("latent-consistency/lcm-lora-sdv1-5", "main", None, "CreativeML OpenRAIL++-M"),
)
_sd_lcm_unet = replace(_sd_unet, folder="unet_lcm", lora=_lcm_lora)


def _few_step(variant: Variant) -> Variant:
    """The variant with a UNet that was distilled to few steps by latent consistency.

    Luo et al., LCM-LoRA, https://arxiv.org/abs/2311.05556: 2 to 8 steps, and a guidance scale that
    is off or at most 2, since the teacher's guidance is in the weights.
    """
    return replace(
        variant,
        schedulers=("lcm",),
        default_scheduler="lcm",
        default_steps=4,
        max_steps=8,
        guidance_scale=1.0,
        max_guidance_scale=2.0,
        on_request=True,
    )


def _sd_v1(name: str, description: str, unet: Component, vae: Component) -> Variant:
    return Variant(
        name=name,
        description=description,
        tokenizer=_sd_tokenizer,
        text_encoder=_sd_text_encoder,
        scheduler=_sd_scheduler,
        unet=unet,
        vae=vae,
        # 5 MB in every folder, so that there are previews whatever the variant.
        preview_vae=_taesd_vae,
        default_scheduler="pndm",
        guidance_scale=7.5,
        default_size_px=512,
        min_size_px=256,
        max_size_px=1024,
        safety_checker=_sd_safety_checker,
        feature_extractor=_sd_feature_extractor,
    )


SD_V1 = Family(
    name="sd-v1",
    description="Stable Diffusion v1-4 and its BK-SDM distillation, 512x512",
    variants={
        variant.name: variant
        for variant in (
            _sd_v1("original", "SD v1-4 as published", _sd_unet, _sd_vae),
            _sd_v1("distilled", "BK-SDM-small's UNet", _bk_sdm_small_unet, _sd_vae),
            _sd_v1(
                "distilled-tiny-vae",
                "BK-SDM-small's UNet, decoded by the tiny VAE",
                _bk_sdm_small_unet,
                _taesd_vae,
            ),
            # The LoRA was trained on SD v1-5, whose UNet has the same architecture.
            _few_step(
                _sd_v1("original-lcm", "SD v1-4 with LCM-LoRA: 4 steps", _sd_lcm_unet, _sd_vae)
            ),
            _few_step(
                _sd_v1(
                    "original-lcm-tiny-vae",
                    "SD v1-4 with LCM-LoRA: 4 steps, decoded by the tiny VAE",
                    _sd_lcm_unet,
                    _taesd_vae,
                )
            ),
        )
    },
)

_mini_unet = _shipped("unet", "UNet2DConditionModel")
_mini_student_unet = _shipped("unet_distilled", "UNet2DConditionModel")
_mini_lcm_unet = _shipped("unet_lcm", "UNet2DConditionModel")
_mini_student_lcm_unet = _shipped("unet_distilled_lcm", "UNet2DConditionModel")
_mini_vae = _shipped("vae", "AutoencoderKL")
_mini_tiny_vae = _shipped("vae_tiny", "AutoencoderTiny")


def _miniature(name: str, description: str, unet: Component, vae: Component) -> Variant:
    return Variant(
        name=name,
        description=description,
        tokenizer=_shipped("tokenizer", "CLIPTokenizer"),
        text_encoder=_shipped("text_encoder", "CLIPTextModel"),
        scheduler=_shipped("scheduler", "PNDMScheduler"),
        unet=unet,
        vae=vae,
        preview_vae=_mini_tiny_vae,
        default_scheduler="pndm",
        # Where the miniature's pictures are clean: 4 over-drives so small a model (its card).
        guidance_scale=2.0,
        default_size_px=96,
        min_size_px=64,
        max_size_px=192,
    )


MINIATURE = Family(
    name="miniature",
    description="the embedded miniature of the same family, 96x96",
    variants={
        variant.name: variant
        for variant in (
            _miniature("original", "the miniature's teacher UNet", _mini_unet, _mini_vae),
            _miniature(
                "distilled",
                "its student UNet, made the BK-SDM-small way",
                _mini_student_unet,
                _mini_vae,
            ),
            _miniature(
                "distilled-tiny-vae",
                "the student UNet, decoded by the tiny VAE",
                _mini_student_unet,
                _mini_tiny_vae,
            ),
            _few_step(
                _miniature("original-lcm", "the teacher in 4 steps", _mini_lcm_unet, _mini_vae)
            ),
            _few_step(
                _miniature(
                    "distilled-lcm", "the student in 4 steps", _mini_student_lcm_unet, _mini_vae
                )
            ),
            _few_step(
                _miniature(
                    "distilled-lcm-tiny-vae",
                    "the student in 4 steps, decoded by the tiny VAE",
                    _mini_student_lcm_unet,
                    _mini_tiny_vae,
                )
            ),
        )
    },
)
