"""The embedded miniature: a small trained Stable Diffusion family of three variants.

Ordinary diffusers folders under `WEIGHTS_DIR`, read by the ordinary loader:
`tokenizer/ text_encoder/ scheduler/ unet/ unet_distilled/ vae/ vae_tiny/`.

`training` made them; `README.md` beside this file is the model card.
"""

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"
