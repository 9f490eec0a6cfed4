"""The embedded miniature: a small trained Stable Diffusion family of three variants.

Ordinary diffusers folders under `WEIGHTS_DIR`, read by the ordinary loader:
`tokenizer/ text_encoder/ scheduler/ unet/ unet_distilled/ vae/ vae_tiny/`.

How it comes about, in order: `drawing` and `scenes` (procedural pictures and their captions),
`tokenizer` (its vocabulary), `architecture` (every component's configuration), `train` (the
stages), `measure` with `judges` (what the shipped weights can do) and `contact_sheet`. The model
card is `README.md` beside this file.
"""

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"
