"""What a variant is made of: its components, where they come from, its defaults and bounds.

Plain dataclasses, so that the pipelines run where only torch, diffusers and transformers are. A
family is a folder with one sub-folder per component; a variant picks a UNet and a VAE from it.
`catalogue` has those that are built in, `own_variants` those of a configuration.
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
class Component:
    """One sub-folder of a family folder.

    `source` is None for what this repository ships, and for what somebody has put there, whose
    licence is `licence`. `like` is the folder of a built-in component of the same architecture,
    where this has no configuration of its own. With a `lora`, a copy of that with the LoRA merged
    into it when it is fetched.
    """

    folder: str
    component_class: ComponentClass
    source: Source | None
    lora: Source | None = None
    like: str | None = None
    licence: str | None = None

    @property
    def architecture(self) -> str:
        """The folder whose configuration tells its architecture."""
        return self.like or self.folder

    @property
    def sources(self) -> list[Source]:
        """All that it is made of; empty for what isn't published."""
        return [source for source in (self.source, self.lora) if source is not None]

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
