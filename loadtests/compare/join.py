"""`python -m loadtests.compare join a/report.json b/report.json ...`: one table over devices.

Each report is a comparison's, on another device. What makes them incomparable is refused; what
differs otherwise is stated.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..markdown import number
from .findings import carries_more
from .gate import NotComparable, read_json
from .report import Page
from .rungs import Carried
from .tables import Table


@dataclass(frozen=True)
class Row:
    """A variant on a device; rates are of all `devices`, `per_1000` is the cost within the SLO.

    `relative` is that cost over the lowest one; `carried` the rate within the SLO for a unit of
    money an hour, or for a device. None is what was not decided or not given.
    """

    device: str
    variant: str
    devices: float
    images_per_s_at_slo: float | None
    images_per_s_at_saturation: float
    price_per_hour: float | None
    per_1000: float | None
    relative: float | None
    peak_memory_bytes: int | None
    carried: Carried


@dataclass(frozen=True)
class Joined:
    """The rows, the cheapest of them (with those not to be told from it), and what differs.

    `unknown` are those that might be as cheap: without a price, or a rate within the SLO.
    """

    slo_s: float
    family: str
    rows: Sequence[Row]
    cheapest: Sequence[Row]
    unknown: Sequence[Row]
    differences: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Read, join, write report.html, report.md and report.json, and print the verdict.

    Raises:
        NotComparable: names the field, the file and both values.
        OSError: a file can't be read or written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.compare join",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("reports", type=Path, nargs="+", help="report.json, one a device")
    parser.add_argument("--out", type=Path, default=Path("joined"), help="folder of the page")
    args = parser.parse_args(arguments)
    if len(set(args.reports)) < 2:
        parser.error(f"reports: {len(set(args.reports))} was given; at least 2")
    if args.out.resolve() in (path.resolve().parent for path in args.reports):
        parser.error(f"out: {args.out} holds one of the reports; it would be overwritten")
    joined = join({str(path): read_json(path, "report", "comparison") for path in args.reports})
    page = Page(
        title=f"Which variant on which device: `{joined.family}`",
        verdict=[verdict(joined)],
        tables=[table for table in (_rows(joined), _differences(joined)) if table.rows],
        facts=[
            f"{path}: {source['device']}, begun {source['began']}, `{source['command']}`"
            for path, source in joined.sources.items()
        ],
    )
    args.out.mkdir(parents=True, exist_ok=True)
    content = {"report": "join", **asdict(joined)}
    (args.out / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    page.write(args.out)
    print(f"{verdict(joined)}\nReport: {args.out / 'report.html'} (and report.md, report.json)")
    return 0


def join(reports: Mapping[str, Mapping[str, Any]]) -> Joined:
    """Of comparisons by their files' names, as JSON has them.

    Raises:
        NotComparable: what was measured is not the same, a run is incomplete, or two have one
            device.
    """
    asked, told, sources, every = {}, {}, {}, list[Row]()
    for path, report in reports.items():
        if not report.get("complete"):
            raise NotComparable(f"complete: {path} has {report.get('complete')}; allowed: True")
        try:
            asked[path], told[path], sources[path] = _asked(report), _told(report), _source(report)
            every += _of_report(report)
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise NotComparable(
                f"{path}: not a report of this version's comparison: {fault!r}"
            ) from None
    first, *others = reports
    for path in others:
        for name, value in asked[path].items():
            if value != asked[first][name]:
                raise NotComparable(
                    f"{name}: {first} has {asked[first][name]!r}, {path} has {value!r}"
                )
    files: dict[str, str] = {}
    for path, source in sources.items():
        device, earlier = source["device"], files.setdefault(source["device"], path)
        if earlier != path:
            raise NotComparable(
                f"device: {earlier} has {device!r}, {path} has {device!r}; every report must "
                "have another (`--device` names it)"
            )
    rows, cheapest, unknown = _relative(every)
    differences = {
        name: {path: of_one.get(name) for path, of_one in told.items()}
        for name in dict.fromkeys(name for of_one in told.values() for name in of_one)
        if len({str(of_one.get(name)) for of_one in told.values()}) > 1
    }
    slo_s, family = asked[first]["slo_s"], asked[first]["family"]
    return Joined(slo_s, family, rows, cheapest, unknown, differences, sources)


def _asked(report: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same; a size or guidance that wasn't given is the variants' own."""
    design, endpoint = report["design"], report["endpoint"]
    own = {
        name: " or ".join(sorted({str(each.get(name)) for each in endpoint["defaults"].values()}))
        for name in ("num_inference_steps", "size", "guidance_scale", "scheduler")
    }
    workload = design["workload"]
    return {
        "family": endpoint["family"],
        "random_weights": endpoint["random_weights"],
        "num_inference_steps": " or ".join(map(str, workload["num_inference_steps"]))
        or own["num_inference_steps"],
        "size": workload["size"] or own["size"],
        "guidance_scale": own["guidance_scale"]
        if workload["guidance_scale"] is None
        else str(workload["guidance_scale"]),
        "scheduler": own["scheduler"],
        "n": workload["n"],
        "edits": workload.get("edits", 0.0),
        "seed": workload["seed"],
        "prompts": workload["prompts"],
        # Unless `--slo` was given it is so many times the reference's own time on each device.
        "slo_s": float(report["slo_s"]),
        "most_rejected": design["most_rejected"],
    }


def _of_report(report: Mapping[str, Any]) -> list[Row]:
    price, found = report["setup"]["price_per_hour"], []
    for variant, cost in report["costs"].items():
        at_slo, carried = cost["at_slo"], Carried(**report["variants"][variant]["carried"])
        row = Row(
            device=report["setup"]["device"],
            variant=variant,
            devices=cost["devices"],
            images_per_s_at_slo=at_slo and at_slo["images_per_s"]["median"],
            images_per_s_at_saturation=cost["at_saturation"]["images_per_s"]["median"],
            price_per_hour=price,
            per_1000=at_slo and at_slo["per_1000"],
            relative=None,
            peak_memory_bytes=report["endpoint"]["peak_memory_bytes"].get(variant),
            carried=carried.by(cost["devices"] * (price or 1.0)),
        )
        found.append(row)
    return found


def _relative(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """All rows with their cost over the lowest; the cheapest; and those that might be as cheap."""
    costs = [row.per_1000 for row in rows if row.per_1000]
    if not costs:
        return rows, [], []
    rows = [replace(row, relative=row.per_1000 and row.per_1000 / min(costs)) for row in rows]
    best = next(row for row in rows if row.relative == 1)
    near = [
        row
        for row in rows
        if row.price_per_hour is None or carries_more(best.carried, row.carried) != "better"
    ]
    cheapest = [row for row in near if row.relative is not None]
    return rows, cheapest, [row for row in near if row.relative is None]


def _source(report: Mapping[str, Any]) -> dict[str, Any]:
    setup = report["setup"]
    return {
        "device": setup["device"],
        "began": report["made"]["began"],
        "command": setup["command"],
    }


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    """What may differ, but must be said."""
    made = report["made"]
    optimisations = {
        f"{variant}: {title}": ", ".join(info[name]) or "nothing"
        for variant, info in report["endpoint"]["replica_info"].items()
        for name, title in (("switched_on", "switched on"), ("left_off", "left off"))
    }
    return {
        "commit": made["commit"],
        "python": made["python"],
        **made["packages"],
        "client": made["client"],
        "replicas": report["endpoint"]["replicas"],
        "devices_per_replica": report["setup"]["devices_per_replica"],
        **optimisations,
    }


def verdict(joined: Joined) -> str:
    """The cheapest rows within the SLO, or why there is none."""
    if not joined.cheapest:
        return (
            "Which is cheapest is not decided: no report has both a price (`--price-per-hour`) and "
            "a rate within the SLO."
        )
    costs = " and ".join(f"{row.per_1000:.3g}" for row in joined.cheapest)
    words = f"Most pictures for the money with p95 <= {joined.slo_s:.2f} s: "
    words += _names(joined.cheapest)
    if len(joined.cheapest) > 1:
        words += ", which these runs could not tell apart"
    words += f"; 1,000 cost {costs}"
    if joined.unknown:
        words += "; without a price or a rate within the SLO, so not known: "
        words += _names(joined.unknown)
    return f"{words}."


def _names(rows: Sequence[Row]) -> str:
    return " and ".join(f"`{row.variant}` on {row.device}" for row in rows)


def _rows(joined: Joined) -> Table:
    rows = [
        [row.device, row.variant, number(row.images_per_s_at_slo),
         number(row.images_per_s_at_saturation), f"{row.devices:g}",
         number(row.price_per_hour, "g"), number(row.per_1000, ".3g"), number(row.relative),
         number(row.peak_memory_bytes and row.peak_memory_bytes / 2**30)]
        for row in joined.rows
    ]  # fmt: skip
    return Table(
        "What each variant costs on each device",
        f"*Within the SLO*: at the highest rate that kept p95 <= {joined.slo_s:.2f} s. *At "
        "saturation*: the closed loop's best, for batch jobs. Rates are of all the devices. "
        "*Relative*: over the lowest cost within the SLO.",
        ["device", "variant", "images/s within the SLO", "at saturation", "devices",
         "price a device-hour", "cost of 1,000 within the SLO", "relative", "peak GiB a replica"],
        rows,
    )  # fmt: skip


def _differences(joined: Joined) -> Table:
    devices = [source["device"] for source in joined.sources.values()]
    return Table(
        "What differs between the runs",
        "Beside the device; all else that the reports tell of versions, topology and "
        "optimisations is the same.",
        ["", *devices],
        [[name, *map(str, values.values())] for name, values in joined.differences.items()],
    )
