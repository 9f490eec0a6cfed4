"""The table of what was done, sent and lost, and how long recovery took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtests.markdown import table

_PREAMBLE = """# Rehearsal

`make rehearse` does with an overlay what KubeRay does, without a cluster, and tries what those who
run the service will meet, with load running the whole time; it writes this file.
`make rehearse ARGS=--quick` tries a subset within 5 minutes. Both need Linux, and root or user
namespaces; nothing that they start outlives them.

- As on a cluster: the rendered overlay, the operator's `ray start` lines and environment, its PUT
  of the serve configuration, readiness probes, `restartPolicy`, names and addresses of services,
  SIGTERM to process 1, the grace period, SIGKILL. Each pod has its own address, processes, `/tmp`
  and `/dev/shm`, and reaches no other network. Where the overlay requires API keys, its mounted
  Secret holds one, made for the run, which the load brings.
- Not as on a cluster: pods run this checkout instead of the image, as the user who started it, on
  a writable root and without limits, with Secrets in `/tmp`; one key stands for many clients, so
  that it has no bound of its own; GPUs are logical; a denoising step may be a sleep (the
  caption says so); pods start one after the other; each worker group begins with one pod, and
  grows where a replica finds no place, but doesn't shrink; an old cluster is kept for 30 s at
  most; each request picks a ready endpoint, as behind a gateway, and nobody retries it.

A request is lost where its own picture didn't come at the first try, for whatever reason. Recovery
lasts until all pods are ready, all applications RUNNING, and every variant has a warm replica.

"""
_FINDINGS = "## What it found\n"
_HEAD = ["scenario", "what was done", "sent", "lost", "recovery, s", "slowest, s", "verdict"]


@dataclass(frozen=True)
class Outcome:
    """What one scenario found; figures are None where it wasn't rehearsed.

    `lost` counts every request that was sent meanwhile and whose picture didn't come at the first
    try. `recovered_s` is from the disturbance until all is as asked again.
    """

    scenario: str
    done: str
    verdict: Literal["holds", "FAILS", "skipped"]
    reason: str = ""
    sent: int | None = None
    lost: int | None = None
    recovered_s: float | None = None
    slowest_s: float | None = None

    def __str__(self) -> str:
        figures = f"sent {_text(self.sent)}, lost {_text(self.lost)}"
        times = f"recovery {_text(self.recovered_s)} s, slowest {_text(self.slowest_s)} s"
        return f"{self.verdict}: {self.reason or self.done}; {figures}; {times}"


def as_table(caption: str, outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown, with a line for each reason."""
    rows = [
        [
            one.scenario,
            one.done,
            _text(one.sent),
            _text(one.lost),
            _text(one.recovered_s),
            _text(one.slowest_s),
            one.verdict,
        ]
        for one in outcomes
    ]
    notes = [f"- {one.scenario}: {one.reason}" for one in outcomes if one.reason]
    return "\n".join([table(caption, _HEAD, rows), "", *notes]).rstrip() + "\n"


def report(table_text: str, before: str) -> str:
    """The table with what one must know to read it.

    What people have written below the report `before` stays.
    """
    _, heading, findings = before.partition(_FINDINGS)
    kept = f"\n{heading}{findings}" if heading else ""
    return _PREAMBLE + table_text + kept


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"
