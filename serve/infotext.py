"""A picture's parameters as text, as other tools for Stable Diffusion write and read them."""

from .generation import Generation


def infotext(generation: Generation, image: int) -> str:
    """What image number `image` was drawn from, as AUTOMATIC1111's web UI puts it into its PNGs.

    Prompts are as they were given; `Model` is the variant.
    """
    lines = [generation.prompt]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {generation.negative_prompt}")
    fields = {
        "Steps": generation.num_inference_steps,
        "Sampler": generation.scheduler,
        "CFG scale": f"{generation.guidance_scale:g}",
        "Seed": generation.seeds[image],
        "Size": f"{generation.width_px}x{generation.height_px}",
        "Model": generation.variant,
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)
