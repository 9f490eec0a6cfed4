"""What the scenarios found, beside what was measured before on a real cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.markdown import table

CONDITIONS = (
    "Published: Kubernetes 1.36.3, KubeRay's operator 1.7.0, one node of 2 cores and 23 GB, "
    "NetworkPolicies and PodSecurity enforced; `production` scaled down, two workers for "
    "`original`, one for each of the others, logical GPUs, the miniature on the CPU; an open loop "
    "of 1.2 to 2 requests a second."
)
# Lost requests and seconds, or what was seen in their place. The heads' seconds are those with a
# sidecar that passes TERM on, no drain and 30 s of grace; 61 s and 152 s without.
PUBLISHED = {
    "laptop ready": ("-", "42"),
    "production ready": ("-", "78"),
    "configuration rolled": ("0 of 256, one 429", "waits up to 25"),
    "broken configuration": ("0 of 201", "-"),
    "worker killed": ("0 of 151, three 429", "waits up to 39"),
    "head killed": ("0 of 496", "5"),
    "head evicted": ("0 of 349", "4"),
    "sidecar ended": ("-", "2"),
    "variant drained": ("147 of 337, other variants' too", "-"),
    "blue/green": ("0 with room", "97 to 150"),
    "deleted": ("-", "15"),
}


@dataclass(frozen=True)
class Row:
    """A scenario; `seconds` until the cluster was as it should be, `worst_s` a request's wait."""

    scenario: str
    seconds: float | None = None
    sent: int = 0
    lost: int = 0
    rejected: int = 0
    worst_s: float | None = None


def as_table(rows: Sequence[Row], image: str) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    head = ["scenario", "lost", "429", "seconds", "longest wait, s", "lost then", "seconds then"]
    cells = [
        [
            row.scenario,
            f"{row.lost} of {row.sent}" if row.sent else "-",
            str(row.rejected) if row.sent else "-",
            number(row.seconds),
            number(row.worst_s),
            *PUBLISHED[row.scenario],
        ]
        for row in rows
    ]
    return f"{table(f'`make e2e` with {image}. {CONDITIONS}', head, cells)}\n"
