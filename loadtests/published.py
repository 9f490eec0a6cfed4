"""The published comparison, and the workload that it was made with."""

PROMPT = "a golden vase with different flowers"
STEPS = 25
# 12 images in three calls.
CALLS, IMAGES_A_CALL = 3, 4

# Total ms of those 12 images in fp16; no GPU is named there.
PUBLISHED_MS = {"original": 45781.5, "distilled": 29884.2, "distilled-tiny-vae": 27165.7}
# Of the published architectures at 512x512 with guidance, 26 UNet calls a picture.
FLOP_BOUND = {"original": 1.0, "distilled": 1.52, "distilled-tiny-vae": 1.66}
