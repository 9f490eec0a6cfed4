"""The published comparison, and the workload that it was made with."""

PROMPT = "a golden vase with different flowers"
STEPS = 25
# 12 images in three calls.
CALLS, IMAGES_A_CALL = 3, 4

# Total ms of those 12 images in fp16; no GPU is named there.
PUBLISHED_MS = {"original": 45781.5, "distilled": 29884.2, "distilled-tiny-vae": 27165.7}
# Of the published architectures at 512x512 with guidance, 26 UNet calls a picture.
FLOP_BOUND = {"original": 1.0, "distilled": 1.52, "distilled-tiny-vae": 1.66}


def published_cells(variant: str) -> list[str]:
    """Published ms, speed against `original`, and the FLOP-bound speed, for a row of a table."""
    if variant not in PUBLISHED_MS:
        return ["-", "-", "-"]
    ms = PUBLISHED_MS[variant]
    return [f"{ms:.1f}", f"{PUBLISHED_MS['original'] / ms:.2f}", f"{FLOP_BOUND[variant]:.2f}"]
