"""The embedded miniature: a small trained Stable Diffusion family of three variants.

Ordinary diffusers folders under `WEIGHTS_DIR`:
`tokenizer/ text_encoder/ scheduler/ unet/ unet_distilled/ vae/ vae_tiny/`.

`training` trains them; `README.md` beside this file is the model card.
"""

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"
