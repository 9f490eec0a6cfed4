"""The service's own metrics, where Prometheus would scrape them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

_LINE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$")


@dataclass(frozen=True)
class Series:
    """One line of a scrape."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Metrics:
    """A scrape of one application's series."""

    series: Sequence[Series]

    def total(self, name: str, **labels: str) -> float:
        """The sum over the series with these labels."""
        return sum(
            one.value
            for one in self.series
            if one.name == name and labels.items() <= one.labels.items()
        )

    def ended(self, outcome: str) -> float:
        """Requests that ended in a replica so."""
        return self.total("ray_dsd_requests_total", outcome=outcome)

    @property
    def idle(self) -> bool:
        """Whether no image has a slot or waits for one."""
        return not self.total("ray_dsd_slots_used") + self.total("ray_dsd_images_waiting")


def parse(text: str, application: str) -> Metrics:
    """From Prometheus' text format."""
    found = []
    for line in text.splitlines():
        if match := _LINE.match(line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
            if labels.get("application") == application:
                found.append(Series(match["name"], labels, float(match["value"])))
    return Metrics(found)


def scrape(application: str = "default") -> Metrics:
    """Of this process's own Ray; what is told is some seconds old."""
    import ray

    (node,) = ray.nodes()
    answer = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30)
    return parse(answer.text, application)
