"""A family folder with a small stand-in for the published safety checker, of its class and form."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from serve.catalogue import SD_V1
from serve.miniature import WEIGHTS_DIR

# Thresholds of a cosine: what every picture exceeds, and none.
ALWAYS, NEVER = -2.0, 2.0
_SIZE_PX = 32
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": _SIZE_PX,
    "patch_size": 16,
    "projection_dim": 8,
}


def stand_in(concept: float = NEVER, special_care: float = NEVER) -> StableDiffusionSafetyChecker:
    """Seeded random weights; the first concept's threshold as told, and that of special care."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=8, vision_config=_VISION))
        for embeds in (checker.concept_embeds, checker.special_care_embeds):
            torch.nn.init.normal_(embeds)
    checker.concept_embeds_weights.data.fill_(NEVER)
    checker.concept_embeds_weights.data[0] = concept
    checker.special_care_embeds_weights.data.fill_(NEVER)
    checker.special_care_embeds_weights.data[0] = special_care
    return checker.eval()


def small_image_processor() -> Any:
    """What prepares pictures for the stand-in."""
    from transformers import CLIPImageProcessorPil  # Not in transformers 4.

    return CLIPImageProcessorPil(
        size={"shortest_edge": _SIZE_PX}, crop_size={"height": _SIZE_PX, "width": _SIZE_PX}
    )


def write_stand_in(folder: Path, concept: float) -> None:
    """Write `safety_checker/` and `feature_extractor/` into a folder, as they are published."""
    component_dir = folder / "safety_checker"
    stand_in(concept).half().save_pretrained(component_dir, variant="fp16")
    path = component_dir / "model.fp16.safetensors"
    # Published by transformers 4, whose vision model has another one inside.
    tensors = {
        name.replace("vision_model.", "vision_model.vision_model.", 1): tensor
        for name, tensor in load_file(path).items()
    }
    tensors["vision_model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, path, {"format": "pt"})
    (folder / "feature_extractor").mkdir(exist_ok=True)
    (folder / "feature_extractor/preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": _SIZE_PX,
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3,
                "size": _SIZE_PX,
            }
        )
    )


def sd_v1_with_checker(folder: Path, concept: float) -> Path:
    """A folder of family sd-v1 with the miniature's models and a stand-in checker."""
    # Not at the top: the tests of the pipelines on a bare GPU machine have no pydantic.
    from serve.weights.manifest import Manifest, Origin, pin, write_manifest

    names = SD_V1.components(SD_V1.default_variants, safety_checker=True)
    for name in names.keys() & {path.name for path in WEIGHTS_DIR.iterdir()}:
        shutil.copytree(WEIGHTS_DIR / name, folder / name)
    write_stand_in(folder, concept)
    origin = Origin(kind="local", licence="Apache-2.0")
    pinned = {name: pin(folder / name, origin) for name in names}
    write_manifest(folder, Manifest(family="sd-v1", components=pinned))
    return folder
