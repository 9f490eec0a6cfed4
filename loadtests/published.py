"""The published comparison, and the workload that it was made with."""

PROMPT = "a golden vase with different flowers"
STEPS = 25
# 12 images in three calls.
CALLS, IMAGES_A_CALL = 3, 4

# Total ms of those 12 images in fp16; no GPU is named there.
PUBLISHED_MS = {"original": 45781.5, "distilled": 29884.2, "distilled-tiny-vae": 27165.7}
# Of the published architectures at 512x512: 26 UNet calls with guidance, or 4 without.
FLOP_BOUND = {
    "original": 1.0,
    "distilled": 1.52,
    "distilled-tiny-vae": 1.66,
    "original-lcm": 7.7,
    "original-lcm-tiny-vae": 13.2,
    "distilled-lcm": 9.7,
    "distilled-lcm-tiny-vae": 20.2,
}


def published_cells(variant: str) -> list[str]:
    """Published ms, speed against `original`, and the FLOP-bound speed, for a row of a table."""
    bound = f"{FLOP_BOUND[variant]:.3g}" if variant in FLOP_BOUND else "-"
    if variant not in PUBLISHED_MS:
        return ["-", "-", bound]
    ms = PUBLISHED_MS[variant]
    return [f"{ms:.1f}", f"{PUBLISHED_MS['original'] / ms:.2f}", bound]
