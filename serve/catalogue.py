"""The built-in families, and their variants.

To add one, add an entry; a variant of your own is a matter of configuration (`own_variants`).
CONTRIBUTING.md walks through both.
"""

from dataclasses import replace

from .variants import Component, ComponentClass, Family, FamilyName, Source, Variant


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


_lcm_lora = Source("latent-consistency/lcm-lora-sdv1-5", "main", None, "CreativeML OpenRAIL++-M")
_sd_lcm_unet = replace(_sd_unet, folder="unet_lcm", lora=_lcm_lora, like=_sd_unet.folder)


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


def _and_tiny_vae(variant: Variant) -> tuple[Variant, Variant]:
    """The variant, and the same decoded by the tiny VAE."""
    tiny = replace(
        variant,
        name=f"{variant.name}-tiny-vae",
        description=f"{variant.description}, decoded by the tiny VAE",
        vae=_taesd_vae,
    )
    return variant, tiny


def _bk_sdm(size: str) -> tuple[Variant, Variant]:
    """Another student of BK-SDM: Kim et al., https://arxiv.org/abs/2305.15798."""
    unet = _published(
        f"unet_bk_{size}", "UNet2DConditionModel", f"nota-ai/bk-sdm-{size}", "unet", _OPENRAIL
    )
    variant = _sd_v1(f"bk-sdm-{size}", f"BK-SDM-{size}'s UNet", unet, _sd_vae)
    return _and_tiny_vae(replace(variant, on_request=True))


def _segmind(name: str, size: str) -> tuple[Variant, Variant]:
    """A student of BK-SDM's architecture that Segmind distilled from Realistic Vision 4.0.

    https://github.com/segmind/distill-sd. Text encoder and VAE are that teacher's, not SD v1-4's.
    """

    def of(component: Component, like: str) -> Component:
        assert component.source is not None
        return replace(
            component,
            folder=f"{component.folder}_{name}".replace("-", "_"),
            source=replace(component.source, repository=f"segmind/{name}"),
            like=like,
        )

    variant = _sd_v1(
        name,
        f"Segmind's {name}: BK-SDM-{size}'s UNet, of Realistic Vision 4.0",
        of(_sd_unet, f"unet_bk_{size}"),
        of(_sd_vae, _sd_vae.folder),
    )
    text_encoder = of(_sd_text_encoder, _sd_text_encoder.folder)
    return _and_tiny_vae(replace(variant, text_encoder=text_encoder, on_request=True))


SD_V1 = Family(
    name="sd-v1",
    description="Stable Diffusion v1-4 and its distillations, 512x512",
    variants={
        variant.name: variant
        for variant in (
            _sd_v1("original", "SD v1-4 as published", _sd_unet, _sd_vae),
            *_and_tiny_vae(_sd_v1("distilled", "BK-SDM-small's UNet", _bk_sdm_small_unet, _sd_vae)),
            *_bk_sdm("base"),
            *_bk_sdm("tiny"),
            *_segmind("small-sd", "base"),
            *_segmind("tiny-sd", "tiny"),
            # The LoRA was trained on SD v1-5, whose UNet has the same architecture.
            *_and_tiny_vae(
                _few_step(
                    _sd_v1("original-lcm", "SD v1-4 with LCM-LoRA: 4 steps", _sd_lcm_unet, _sd_vae)
                )
            ),
        )
    },
)

_mini_unet = _shipped("unet", "UNet2DConditionModel")
_mini_student_unet = _shipped("unet_distilled", "UNet2DConditionModel")
_mini_bk_tiny_unet = _shipped("unet_bk_tiny", "UNet2DConditionModel")
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
            replace(
                _miniature(
                    "bk-sdm-tiny",
                    "a smaller student UNet, made the BK-SDM-tiny way",
                    _mini_bk_tiny_unet,
                    _mini_vae,
                ),
                on_request=True,
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
