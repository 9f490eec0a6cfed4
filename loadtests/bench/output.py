"""A benchmark's result as a report for people, JSON for machines, and an exit status."""

import json
from pathlib import Path
from typing import Any

from ..markdown import table

REPORTS = Path(__file__).parents[1] / "reports"


def bars_table(bars: list[dict[str, Any]]) -> str:
    """The section on what must hold."""
    rows = [[bar["name"], bar["wanted"], bar["found"], f"**{bar['state']}**"] for bar in bars]
    return table("## What must hold", ["bar", "wanted", "found", "state"], rows)


def write(result: dict[str, Any], report: str, out: Path, name: str) -> None:
    """Write `NAME.md` and `NAME.json`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(report)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def publish(result: dict[str, Any], report: str, out: Path, name: str) -> int:
    """Write both files, print both, the JSON last; 1 where a bar is missed."""
    write(result, report, out, name)
    print(f"\n{report}\nWritten to {out / name}.md and .json")
    print(json.dumps(result), flush=True)
    return 1 if any(bar["state"] == "missed" for bar in result["bars"]) else 0
