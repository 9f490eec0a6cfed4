"""The published safety checker, run on decoded pictures.

diffusers' own `forward` blackens what it flags and warns in the log. This one only returns the
flags; the engine drops the pictures and the reply says so.
"""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity
from transformers import CLIPImageProcessorPil

from ..errors import WeightsError
from ..variants import Variant
from ..weights.layout import precision_suffix
from .devices import SideStream, to_device


class SafetyChecker:
    """Flags pictures; for one thread, the decoder's."""

    def __init__(
        self, model: StableDiffusionSafetyChecker, image_processor: CLIPImageProcessorPil
    ) -> None:
        self._model = model
        self._image_processor = image_processor
        self._side = SideStream(model.device)

    @classmethod
    def load(cls, variant: Variant, folder: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """Read a variant's checker from a family folder that holds one.

        Raises:
            WeightsError: a tensor is missing, which would otherwise be initialised at random.
        """
        dirs = {
            name: folder / component.folder for name, component in variant.safety_components.items()
        }
        model, found = StableDiffusionSafetyChecker.from_pretrained(
            dirs["safety_checker"],
            dtype=dtype,
            variant=precision_suffix(dirs["safety_checker"]),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):
            raise WeightsError(f"{dirs['safety_checker']}: its weights lack {missing[0]}")
        # Pillow's, whatever else is installed: torchvision resizes a little differently.
        image_processor = CLIPImageProcessorPil.from_pretrained(
            dirs["feature_extractor"], local_files_only=True
        )
        return cls(model.to(device).eval(), image_processor)

    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """Which of the pictures, `(B, H, W, 3)` uint8, diffusers would blacken; NaN scores, too."""
        prepared = self._image_processor(
            list(pixels), input_data_format="channels_last", return_tensors="pt"
        ).pixel_values
        with self._side.reading([], []):
            clip_input = to_device(prepared.to(self._model.dtype), self._model.device)
            (flags,) = self._side.fetch(_flags(self._model, clip_input))
        flagged: list[bool] = flags.tolist()
        return flagged


def _flags(model: StableDiffusionSafetyChecker, clip_input: torch.Tensor) -> torch.Tensor:
    """`(B,)` bool, by the rules of `StableDiffusionSafetyChecker.forward`."""
    embeds = model.visual_projection(model.vision_model(clip_input).pooler_output)
    special = _scores(embeds, model.special_care_embeds, model.special_care_embeds_weights)
    scores = _scores(embeds, model.concept_embeds, model.concept_embeds_weights)
    # A match with a special-care concept lowers the other thresholds.
    scores = scores + 0.01 * (_rounded(special) > 0).any(dim=1, keepdim=True)
    return ~(_rounded(scores) <= 0).all(dim=1)


def _scores(embeds: torch.Tensor, concepts: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """`(B, concepts)`: each picture's cosine similarity minus each concept's threshold."""
    cosines = cosine_similarity(embeds.float()[:, None], concepts.float()[None], dim=2)
    return cosines - thresholds.float()


def _rounded(scores: torch.Tensor) -> torch.Tensor:
    return scores.round(decimals=3)
