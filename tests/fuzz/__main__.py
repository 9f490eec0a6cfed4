"""`make fuzz` ends with it: how long the service takes to refuse each request of the corpus.

Over a real connection and a fake router, one request at a time. Exit status 1 where a refusal
takes 100 ms or more at its best of five: a machine that is busy makes single ones late.
"""

import statistics
import sys
import time

import httpx

from tests.fuzz.answers import URL
from tests.fuzz.connections import serving
from tests.fuzz.corpus import REFUSED
from tests.machine import HANG_S

BOUND_MS = 100.0
ROUNDS = 5


def main() -> int:
    """Measure, and print the verdict; 1 where it is missed."""
    best: dict[str, float] = {}
    every: list[float] = []
    with serving() as (url, router), httpx.Client(base_url=url, timeout=HANG_S) as client:
        for _ in range(ROUNDS):
            for asked in REFUSED:
                headers = {name: value.encode("latin-1") for name, value in asked.headers.items()}
                began = time.perf_counter()
                reply = client.post(URL, content=asked.body, headers=headers)
                took_ms = 1000 * (time.perf_counter() - began)
                assert reply.status_code == asked.status, asked.name
                every.append(took_ms)
                best[asked.name] = min(took_ms, best.get(asked.name, took_ms))
        assert router.asked == []
    slowest = max(best, key=best.__getitem__)
    p50_ms, most_ms = statistics.median(every), max(every)
    met = best[slowest] < BOUND_MS
    print(
        f"refusals: {len(REFUSED)} requests, {ROUNDS} times: p50 {p50_ms:.1f} ms, max "
        f"{most_ms:.1f} ms; the slowest at its best {best[slowest]:.1f} ms ({slowest}); "
        f"under {BOUND_MS:g} ms without device work: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
