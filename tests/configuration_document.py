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
from serve.own_variants import CatalogueEntry, ComponentEntry
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
_CATALOGUE = """## Variants of your own

A fine-tune, a smaller UNet, or only other defaults: an entry of `catalogue` names a variant to
start from (`base`) and what differs. The entries stand among the options, or in a YAML file whose
path is the option:

```yaml
# catalogue.yaml
- name: my-style             # a model of the API, a deployment of Serve
  base: distilled
  description: BK-SDM-small, fine-tuned on our products
  unet: {repository: me/my-style, revision: "1a2b3c4", licence: CreativeML OpenRAIL-M}
  default_steps: 20
- name: my-style-tiny-vae
  base: my-style
  vae: {folder: vae_tiny}    # what lies in the family folder already
```

A variant is served, and its weights are downloaded, only where `variants` names it; then
everything follows: `/v1/models`, the page, the load tests, and the order in which `auto` takes
the variants, which is by the work of a picture unless `auto`'s `variants` says otherwise.

```sh
make weights VARIANT=distilled,my-style ARGS="--catalogue catalogue.yaml"
make serve ARGS="--family sd-v1 --weights-dir weights/sd-v1 --catalogue catalogue.yaml \\
    --variants distilled,my-style"
```

A Serve config file has `catalogue: /catalogue/catalogue.yaml` and `variants: [distilled,
my-style]` under `args:`, or the entries themselves under `catalogue:`. A component that has been
downloaded stays as it is, even if its entry then names another repository or revision, until
`make weights VARIANT=my-style ARGS="--catalogue catalogue.yaml --update"`.

What doesn't fit is refused before anything is loaded: a UNet of another family (another width of
cross-attention, 9 channels for inpainting, inputs that Stable Diffusion v1 doesn't have), a VAE
of another factor, `rescale_betas_zero_snr`. A UNet that predicts v needs a `scheduler` whose
configuration says so (`prediction_type: v_prediction`).

### From a single file to the cluster

`convert` splits a checkpoint in one `.safetensors` file, as AUTOMATIC1111 reads them, into
components of a family folder, and prints the entry; the folder must already hold the components
of the base:

```sh
.venv/bin/python -m serve.weights convert cartoon.safetensors weights/sd-v1 --name cartoon \\
    --licence "CreativeML OpenRAIL-M" >> catalogue.yaml
```

It writes `unet_cartoon`, and `vae_cartoon` and `text_encoder_cartoon` where the file's differ
from the base's, as fp16, and pins them in `manifest.json`. The base is `original`; `--base
distilled` is for a fine-tune of BK-SDM-small. Pickles (`.ckpt`) are refused, and so are Stable
Diffusion 2, XL, LoRAs and inpainting. A file that is marked `v_pred` gets a scheduler of its own.

A UNet in diffusers' layout is a folder with `config.json` and safetensors. Copy it to
`weights/sd-v1/unet_cartoon`, write the entry `{name: cartoon, base: original, unet: {folder:
unet_cartoon}}`, and pin it:

```sh
.venv/bin/python -m serve.weights adopt weights/sd-v1 --catalogue catalogue.yaml
```

After you have retrained or removed it, run `adopt` again.

On Kubernetes, copy `deploy/examples/my-cluster` to `my-cluster`, and give it the variant:

```sh
cp -r deploy/components/own-variant my-cluster/own-variant
sed -i s/my-style/cartoon/g my-cluster/own-variant/*.yaml
cat my-cluster/own-variant/deployment.yaml >> my-cluster/serve-config.yaml
```

Then edit

- `own-variant/catalogue.yaml`: your entry;
- `own-variant/worker-group.yaml`: the kind of GPU;
- `serve-config.yaml`, under `args:`: `catalogue` and `variants`, as the appended comment says;
- `kustomization.yaml`: `own-variant` under `components:`, and under `resources:` the path of
  `deploy/overlays/gpu`.

`kubectl apply -k my-cluster` downloads what the entry names, and the new pods wait for it. Where
the Job has run before, delete it first (`kubectl -n distilled-sd-serve delete job
distilled-sd-serve-weights`), since a Job can't be changed. Weights without a repository, such as
a converted file, come in an image: convert into `weights/sd-v1`, build the image of
`deploy/components/weights-image`, and name that component, too.
"""
_LAUNCHER = """## `make serve` and `python -m serve`

On the command line `--api-keys-file keys.txt`, in the environment `DSD_API_KEYS_FILE=keys.txt`.
`family`, `weights_dir`, `verify_hashes`, `catalogue`, `variants` and `device` are those of the
service; and:
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
        _CATALOGUE,
        _section("### An entry", CatalogueEntry),
        _section("### A component of an entry", ComponentEntry),
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
        items = rule.get("items", {})
        named = items.get("type") == "string" or "enum" in items
        yield "names" if named else "see below" if "$ref" in items else "integers"
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
