"""What was found, a line of JSON each; and the tables that they end in."""

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...markdown import table

T = TypeVar("T")

ENDED = "ended"
SEED_WORKLOAD = "seed workload, ms"


@dataclass(frozen=True)
class Finding:
    """An answer to a question of a step; with `failed`, why there is none."""

    step: str
    what: str
    value: Any
    failed: bool = False


class Journal:
    """The file of all findings of a run; steps in other processes append to it, too."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "findings.jsonl"

    def write(self, finding: Finding) -> None:
        """Append a finding, and print it."""
        line = json.dumps(asdict(finding), default=str)
        with self._file.open("a") as lines:
            lines.write(line + "\n")
        print(line if len(line) <= 400 else f"{line[:400]} ...", flush=True)

    def read(self) -> list[Finding]:
        """Everything found so far, without a line that a killed process has left half-written."""
        if not self._file.exists():
            return []
        found = []
        for line in self._file.read_text().splitlines():
            try:
                found.append(Finding(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def finished(self) -> set[str]:
        """The steps that have run to their end."""
        return {it.step for it in self.read() if it.what == ENDED and not it.failed}


class Questions:
    """Asks the questions of one step: an answer that fails is an answer, and the next is asked."""

    def __init__(self, journal: Journal, step: str) -> None:
        self._journal, self._step = journal, step
        self.failed = 0

    def note(self, what: str, value: object) -> None:
        """Write down something that is known already."""
        self._journal.write(Finding(self._step, what, value))

    def ask(
        self, what: str, question: Callable[[], T], shown: Callable[[T], object] = lambda it: it
    ) -> T | None:
        """Write down the answer as `shown`, and return it; None where there is none."""
        try:
            answer = question()
        except Exception as fault:  # Whatever it is, it is what was found.
            traceback.print_exc()
            why = f"{type(fault).__name__}: {str(fault)[:600]}"
            self._journal.write(Finding(self._step, what, why, failed=True))
            self.failed += 1
            return None
        self.note(what, shown(answer))
        return answer


def render(findings: Sequence[Finding], command: str) -> str:
    """The row for README's table of costs, and a table of everything, the last answer to each."""
    last = {(it.step, it.what): it for it in findings}
    rows = [
        [it.step, it.what, f"**failed**: {_text(it.value)}" if it.failed else _text(it.value)]
        for it in last.values()
    ]
    seed = last.get(("packed", SEED_WORKLOAD))
    device = last.get(("env", "device"))
    lines = [f"`{command}`", ""]
    if seed is not None and device is not None and not seed.failed:
        cells = [f"{ms:.1f}" for ms in seed.value.values()]
        names = ", ".join(seed.value)
        lines += [
            f"For README's table of costs ({names}):",
            "",
            f"| 12 images, 25 steps, on {device.value}, ms | {' | '.join(cells)} | measured: "
            "`python -m loadtests.bench.gpu` |",
            "",
        ]
    return "\n".join([*lines, table("Findings:", ["step", "what", "found"], rows)]) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"median", "low", "high", "count"}:
        return f"{value['median']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split()).replace("|", "/")
