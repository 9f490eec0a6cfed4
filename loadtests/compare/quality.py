"""Similarity of the variants' pictures of the same prompts and seeds.

SSIM and PSNR by scikit-image. LPIPS would judge more as people do, but its network's weights come
from a model hub only.
"""

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

# MS-COCO 30K as BK-SDM's authors published it: FID, IS, CLIP score. Not measured here.
PUBLISHED_QUALITY = {
    "original": (13.05, 36.76, 0.2958),
    "distilled": (16.98, 31.68, 0.2677),
}


@dataclass(frozen=True)
class Similarity:
    """Of pairs of pictures; SSIM 1 and PSNR infinite mean equal. PSNR in dB.

    `ssim_error` is the mean's standard error; 0 for one pair.
    """

    pairs: int
    ssim: float
    ssim_low: float
    ssim_high: float
    ssim_error: float
    psnr_db: float


@dataclass(frozen=True)
class ClipScores:
    """Of some pictures, in a CLIP model's space.

    `cosines` are the pictures' similarities with their prompts; `embeddings` the pictures' own,
    `(N, D)`.
    """

    cosines: tuple[float, ...]
    embeddings: NDArray[np.float32]


def similarity(
    ours: Sequence[NDArray[np.uint8]], theirs: Sequence[NDArray[np.uint8]]
) -> Similarity:
    """Compare pairs of `(H, W, 3)` pictures.

    SSIM is the mean over the pairs; PSNR that of the mean square error of all pairs together, and
    100 dB where all are equal.
    """
    ssims = [
        float(structural_similarity(our, their, channel_axis=2, data_range=255))
        for our, their in zip(ours, theirs, strict=True)
    ]
    every, other = np.stack(ours), np.stack(theirs)
    equal = bool((every == other).all())
    return Similarity(
        pairs=len(ssims),
        ssim=statistics.fmean(ssims),
        ssim_low=min(ssims),
        ssim_high=max(ssims),
        ssim_error=standard_error(ssims),
        # 100 dB for equal pictures: JSON knows no infinity.
        psnr_db=100.0 if equal else float(peak_signal_noise_ratio(other, every, data_range=255)),
    )


def standard_error(values: Sequence[float]) -> float:
    """Of the values' mean; 0 where there is one value only."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def cmmd(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The CLIP maximum mean discrepancy of two sets of pictures; 0 means equal sets.

    By Jayasumana et al., "Rethinking FID", CVPR 2024 (https://arxiv.org/abs/2401.09603): MMD with a
    Gaussian kernel of sigma 10 on CLIP's image embeddings, times 1000. As theirs, this estimator
    counts each picture with itself, too; few pictures make it larger than many.

    Args:
        ours: `(N, D)`, one embedding a picture; each is divided by its length here.
        theirs: `(M, D)`, likewise.
    """
    x, y = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (ours, theirs))

    def kernel(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        # The squared distance of unit vectors.
        return float(np.exp((a @ b.T - 1) / 10**2, dtype=np.float64).mean())

    return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def to_reference(
    pictures: Mapping[int, Mapping[str, bytes]], variants: Sequence[str]
) -> dict[str, Similarity]:
    """Each variant's pictures to the first's, where both were drawn."""
    first, found = variants[0], {}
    for variant in variants[1:]:
        pairs = [
            (pixels(drawn[variant]), pixels(drawn[first]))
            for drawn in pictures.values()
            if variant in drawn and first in drawn
        ]
        if pairs:
            found[variant] = similarity(*zip(*pairs, strict=True))
    return found


def pixels(picture: bytes) -> NDArray[np.uint8]:
    """`(H, W, 3)` of a picture file's bytes."""
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"))
