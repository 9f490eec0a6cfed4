"""The embedded miniature: a small trained Stable Diffusion family.

Ordinary diffusers folders under `WEIGHTS_DIR`. `training` trains them; `README.md` beside this
file is the model card.
"""

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"
