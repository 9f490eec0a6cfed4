"""What a benchmark must show: each bar met, missed, or not decided and why."""

from dataclasses import dataclass
from typing import Literal

# A figure with its text, or the reason why there is none.
Finding = tuple[float, str] | str


@dataclass(frozen=True)
class Bar:
    """One requirement; `found` is the figure in words, or why there is none."""

    name: str
    wanted: str
    found: str
    state: Literal["met", "missed", "not decided"]

    @classmethod
    def at_least(cls, name: str, limit: float, unit: str, found: Finding) -> "Bar":
        """A bar for a figure of which more is better."""
        return cls._of(name, f"at least {limit:g}{unit}", found, limit, 1)

    @classmethod
    def at_most(cls, name: str, limit: float, unit: str, found: Finding) -> "Bar":
        """A bar for a figure of which less is better."""
        return cls._of(name, f"at most {limit:g}{unit}", found, limit, -1)

    @classmethod
    def _of(cls, name: str, wanted: str, found: Finding, limit: float, sign: int) -> "Bar":
        if isinstance(found, str):
            return cls(name, wanted, found, "not decided")
        figure, text = found
        return cls(name, wanted, text, "met" if sign * figure >= sign * limit else "missed")
