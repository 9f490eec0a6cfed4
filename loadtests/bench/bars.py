"""What a benchmark must show: each bar met, missed, or not decided and why."""

from dataclasses import dataclass
from typing import Literal

# A figure with its text, or the reason why there is none.
Finding = tuple[float, str] | str


@dataclass(frozen=True)
class Bar:
    """One requirement; a `goal` is aimed at, and missing it is no failure."""

    name: str
    wanted: str
    found: str
    state: Literal["met", "missed", "not decided"]
    goal: bool = False

    @classmethod
    def at_least(
        cls, name: str, limit: float, unit: str, found: Finding, *, goal: bool = False
    ) -> "Bar":
        """A bar for a figure of which more is better."""
        return cls._of(name, f"at least {limit:g}{unit}", found, limit, 1, goal)

    @classmethod
    def at_most(cls, name: str, limit: float, unit: str, found: Finding) -> "Bar":
        """A bar for a figure of which less is better."""
        return cls._of(name, f"at most {limit:g}{unit}", found, limit, -1, False)

    @classmethod
    def _of(
        cls, name: str, wanted: str, found: Finding, limit: float, sign: int, goal: bool
    ) -> "Bar":
        if isinstance(found, str):
            return cls(name, wanted, found, "not decided", goal)
        figure, text = found
        state: Literal["met", "missed"] = "met" if sign * figure >= sign * limit else "missed"
        return cls(name, wanted, text, state, goal)
