"""docs/configuration.md, from the option classes.

`python -m tests.configuration_document` writes it.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from serve.__main__ import LaunchSettings
from serve.config import DeploymentOptions, ModelOptions, RoutingOptions
from serve.http.options import HttpOptions
from serve.pipelines.optimisations import Optimisations
from serve.replica.options import ReplicaOptions
from serve.routing.auto import QualityFirstPolicy, WeightedPolicy
from serve.settings import CompileSettings, HubSettings
from tests.machine import ROOT

DOCUMENT = ROOT / "docs" / "configuration.md"
_INTRODUCTION = """# Configuration

Generated from the option classes by `python -m tests.configuration_document`.

## Options of the service

A Serve config file takes them under `args:`, and `serve run` those that aren't nested as
`name=value`, with commas between names:

```sh
.venv/bin/serve run serve.app:build_app variants=distilled
```

```yaml
applications:
  - name: distilled-sd-serve
    import_path: serve.app:build_app
    args: {family: sd-v1, weights_dir: /models/sd-v1, num_gpus: 1}
```

An unknown name or a value out of bounds is refused at once. What Serve itself can set for a
deployment, such as autoscaling, goes under `deployments:` in the same file;
[operations.md](operations.md) explains those of the overlays.
"""
_LAUNCHER = """## `make serve` and `python -m serve`

On the command line `--api-keys-file keys.txt`, in the environment `DSD_API_KEYS_FILE=keys.txt`.
`family`, `weights_dir`, `verify_hashes`, `variants` and `device` are those of the service; and:
"""


def render() -> str:
    """The whole document."""
    own_of_launcher = set(LaunchSettings.model_fields) - set(ModelOptions.model_fields)
    parts = [
        _INTRODUCTION,
        _section("### Weights and device", ModelOptions),
        _section("### Routing", RoutingOptions),
        _section('#### `auto: {kind: "quality-first"}`', QualityFirstPolicy),
        _section('#### `auto: {kind: "weighted"}`', WeightedPolicy),
        _section("### Deployments", DeploymentOptions),
        _section("### Replicas", ReplicaOptions),
        _section("#### `optimisations`", Optimisations),
        _section("### HTTP", HttpOptions),
        _LAUNCHER,
        _table(LaunchSettings, own_of_launcher),
        "## Environment\n\nRead wherever the code runs:\n",
        _table(CompileSettings, prefix="DSD_"),
        _table(HubSettings, prefix="DSD_"),
    ]
    return "\n".join(parts)


def _section(title: str, options: type[Any]) -> str:
    summary = (options.__doc__ or "").strip().split("\n\n")[0]
    return f"{title}\n\n{' '.join(summary.split())}\n\n{_table(options)}"


def _table(options: type[Any], names: set[str] | None = None, prefix: str = "") -> str:
    schema = TypeAdapter(options).json_schema()
    rows = ["| option | allowed | default | |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if name == "kind" or (names is not None and name not in names):
            continue
        shown = f"{prefix}{name}".upper() if prefix else name
        default = "required" if name in schema.get("required", ()) else _default(field)
        allowed = " or ".join(dict.fromkeys(_allowed(field)))
        description = " ".join(field.get("description", "").split())
        rows.append(f"| `{shown}` | {allowed} | {default} | {description} |")
    return "\n".join(rows) + "\n"


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    nested = isinstance(default, dict) and default
    return "see below" if nested else f"`{json.dumps(default)}`"


def _allowed(rule: dict[str, Any]) -> Iterator[str]:
    """A JSON schema's rule in words, an item for each alternative."""
    if "anyOf" in rule:
        for alternative in rule["anyOf"]:
            yield from _allowed(alternative)
    elif "enum" in rule or "const" in rule:
        yield ", ".join(f"`{value}`" for value in rule.get("enum", [rule.get("const")]))
    elif "$ref" in rule or "discriminator" in rule or "oneOf" in rule:
        yield "see below"
    elif rule.get("type") == "array":
        yield "names" if rule.get("items", {}).get("type") == "string" else "integers"
    elif rule.get("type") == "object":
        yield "a mapping"
    elif rule.get("format") in ("path", "file-path"):
        yield "a path"
    elif rule.get("type") in ("integer", "number"):
        yield {"integer": "an integer", "number": "a number"}[rule["type"]] + _bounds(rule)
    else:
        yield {"boolean": "`true`, `false`", "null": "`null`", "string": "text"}[rule["type"]]


def _bounds(rule: dict[str, Any]) -> str:
    low = next((rule[key] for key in ("minimum", "exclusiveMinimum") if key in rule), None)
    high = rule.get("maximum")
    at_least = "over" if "exclusiveMinimum" in rule else "at least"
    words = [] if low is None else [f"{at_least} {low:g}"]
    words += [] if high is None else [f"at most {high:g}"]
    return f", {', '.join(words)}" if words else ""


if __name__ == "__main__":
    DOCUMENT.write_text(render())
