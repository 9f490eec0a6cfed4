"""The vocabulary from the router to the pictures: what is to be drawn, and what came of it.

Plain frozen data without defaults: whoever makes a `Generation` has decided everything, so the code
downstream needs neither the request's schema nor the catalogue.
"""

from dataclasses import dataclass, field
from typing import Literal

SchedulerName = Literal["pndm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-a", "unipc", "lcm"]
OutputFormat = Literal["png", "jpeg", "webp"]
# What image tools call the same algorithms. PNDM without its Runge-Kutta steps, as Stable Diffusion
# configures it, is PLMS.
SAMPLER_NAMES: dict[SchedulerName, str] = {
    "pndm": "PLMS",
    "ddim": "DDIM",
    "dpm++": "DPM++ 2M",
    "dpm++-karras": "DPM++ 2M Karras",
    "euler": "Euler",
    "euler-a": "Euler a",
    "unipc": "UniPC",
    "lcm": "LCM",
}
VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Source:
    """The picture that an edit starts from, as large as the request's own.

    `pixels` is RGB, `H * W * 3` bytes in rows. `mask`, `H * W` bytes, is over 127 where the picture
    may change; None means everywhere. `strength`, over 0 and at most 1, is the share of the steps
    that are taken.
    """

    # Not in its repr, which an error might put into a log.
    pixels: bytes = field(repr=False)
    mask: bytes | None = field(repr=False)
    strength: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One request with every default filled in.

    `variant` is one that the replica holds. `seeds` holds one seed an image (0 to 2^32-1). Width
    and height are multiples of 8; `default_size_px` is the side of the variant's own pictures, in
    which work is counted. A `guidance_scale` of at most 1 means no classifier-free guidance, hence
    no negative prompt. `deadline_at` is in Unix seconds, since it crosses machines; None means no
    deadline. `previews` is how many pictures of each image to show before it is done.
    `warnings` are what the client should know of its request. `source` is None unless the request
    edits a picture.
    """

    variant: str
    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    width_px: int
    height_px: int
    default_size_px: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: SchedulerName
    deadline_at: float | None
    previews: int
    warnings: tuple[str, ...]
    source: Source | None

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance."""
        return self.guidance_scale > 1

    @property
    def first_step(self) -> int:
        """How many steps an edit leaves out; 0 without a source."""
        steps = self.num_inference_steps
        return 0 if self.source is None else steps - min(int(steps * self.source.strength), steps)

    @property
    def step_cost(self) -> float:
        """What one image's step takes, in steps with guidance at the variant's default size.

        In proportion to the picture's area, and half without guidance; attention, which grows
        faster, has the smaller part in it.
        """
        area = self.width_px * self.height_px / self.default_size_px**2
        return area if self.guided else area / 2

    @property
    def image_steps(self) -> float:
        """The request's work, in steps of one image with guidance at the default size.

        Encoding an edit's source takes about as long as one.
        """
        steps = len(self.seeds) * (self.num_inference_steps - self.first_step) * self.step_cost
        if self.source is None:
            return steps
        return steps + self.width_px * self.height_px / self.default_size_px**2


@dataclass(frozen=True, slots=True)
class Preparation:
    """What has to be done before a job's first step, such as encoding a picture.

    Within a `kind` the time it takes grows with `cost`; an estimate is good enough.
    """

    kind: str
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job is going to take, known without a device.

    `steps` are the UNet calls of each image, at least 1. `step_cost` is what one image's step
    takes, in steps of the variant's default size with guidance; an estimate is good enough.
    `previews_at` are the steps, counted from 1 and below `steps`, after which to show each image.
    `preparation` is None where there is nothing to prepare.
    """

    images: int
    steps: int
    step_cost: float
    previews_at: tuple[int, ...] = ()
    preparation: Preparation | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A request with its variant decided; the reason is None where the client named the variant."""

    generation: Generation
    reason: str | None


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """How pictures are encoded; `quality` (0-100) has no effect on PNG."""

    output_format: OutputFormat
    quality: int


LOSSLESS_PNG = PictureFormat("png", 100)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a picture, or a whole request, spent in each stage of a replica, one by one.

    `denoise_s` includes encoding the prompt; `encode_s` is PNG, JPEG or WebP, and the wait for it.
    """

    queue_s: float
    denoise_s: float
    decode_s: float
    encode_s: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """Encoded pictures, in the order of the seeds, with their times and warnings.

    None stands for a picture that the safety checker flagged; at least one is there.
    """

    pictures: tuple[bytes | None, ...]
    timings: Timings
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartialPicture:
    """What image number `image` looks like so far; `index` counts its previews from 0."""

    image: int
    index: int
    picture: bytes


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """Image number `image`, done; the times and warnings are its own."""

    image: int
    picture: bytes
    timings: Timings
    warnings: tuple[str, ...]


PictureEvent = PartialPicture | FinishedPicture


def infotext(generation: Generation, image: int) -> str:
    """What image number `image` was drawn from, as AUTOMATIC1111's web UI puts it into its PNGs.

    Prompts are as they were given; `Model` is the variant, and samplers have the names that tools
    that read this know.
    """
    lines = [generation.prompt]
    if generation.negative_prompt:
        lines.append(f"Negative prompt: {generation.negative_prompt}")
    fields = {
        "Steps": generation.num_inference_steps,
        "Sampler": SAMPLER_NAMES[generation.scheduler],
        "CFG scale": f"{generation.guidance_scale:g}",
        "Seed": generation.seeds[image],
        "Size": f"{generation.width_px}x{generation.height_px}",
        "Model": generation.variant,
        **(
            {}
            if generation.source is None
            else {"Denoising strength": f"{generation.source.strength:g}"}
        ),
        "Version": f"distilled-sd-serve {VERSION}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)
