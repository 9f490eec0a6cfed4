"""Raw samples and pictures of a comparison, so that an interrupted one loses nothing."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from ..samples import Sample

Section = Literal["seed workload", "closed loop", "open loop", "plan", "auto", "frontier"]


@dataclass(frozen=True)
class Setting:
    """What the frontier compares: a variant, its steps and its scheduler."""

    variant: str
    steps: int
    scheduler: str

    def __str__(self) -> str:
        return f"`{self.variant}` with {self.steps} steps of {self.scheduler}"


@dataclass(frozen=True)
class Shot:
    """A picture of a setting; seconds as the replica timed denoising and decoding.

    `base_s` are those of the same picture in the base setting, drawn in the same round.
    """

    device_s: float
    base_s: float
    picture: bytes


@dataclass
class Run:
    """Requests that were made together: one variant, one round, so many users or such a rate.

    `duration_s` is set when it has ended. In section `auto` the variant may be `auto`; in section
    `frontier` a round is a picture.
    """

    section: Section
    variant: str
    round: int
    users: int | None = None
    rate_per_s: float | None = None
    duration_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    scheduler: str | None = None


@dataclass
class Record:
    """Grows while the comparison runs. `pictures` are PNG bytes by request number and variant.

    `frontier` holds each setting's pictures by request number, of whole rounds only.
    """

    runs: list[Run] = field(default_factory=list)
    pictures: dict[int, dict[str, bytes]] = field(default_factory=dict)
    frontier: dict[Setting, dict[int, Shot]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    interrupted: bool = False

    def of(self, section: Section, variant: str, **wanted: float | None) -> Iterator[Run]:
        """The runs of a section and a variant, with these users or this rate."""
        for run in self.runs:
            if (run.section, run.variant) == (section, variant) and all(
                getattr(run, name) == value for name, value in wanted.items()
            ):
                yield run

    def failures(self) -> list[str]:
        """Why requests failed, one reason each."""
        return [
            f"{sample.reason} ({run.variant})"
            for run in self.runs
            for sample in run.samples
            if sample.outcome == "failed"
        ]

    def drawn_by_all(self, variants: Collection[str]) -> dict[int, dict[str, bytes]]:
        """The pictures that every one of the variants has drawn."""
        complete = sorted(self.pictures.items())
        return {index: drawn for index, drawn in complete if set(variants) <= set(drawn)}

    def write_samples(self, path: Path) -> None:
        """Every request, one line each, as CSV."""
        labels = ("section", "round", "users", "rate_per_s", "scheduler")
        names = [*labels, *(column.name for column in fields(Sample)), "latency_s"]
        with path.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, names)
            writer.writeheader()
            for run in self.runs:
                of_run = {name: getattr(run, name) for name in labels}
                for sample in run.samples:
                    writer.writerow({**of_run, **asdict(sample), "latency_s": sample.latency_s})
