"""The blocks that overlays have commented out: with them, few-step variants are served, too."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import AppArgs
from tests.manifests.checks import CHECKS, Check
from tests.manifests.rendering import (
    ROOT,
    Manifest,
    groups,
    kustomize,
    of_kind,
    serve_config,
)

NAME = {"overlays/laptop": "distilled-lcm-tiny-vae"}
FILES = {
    "overlays/laptop": {"serve-config.yaml"},
    "overlays/gpu": {"serve-config.yaml", "kustomization.yaml", "worker-groups.yaml"},
    "overlays/gpu-fractional": {"serve-config.yaml", "kustomization.yaml", "worker-group.yaml"},
    "overlays/production": {"serve-config.yaml", "production.yaml"},
    "examples/my-cluster": {"serve-config.yaml", "kustomization.yaml"},
    "components/disruption-budgets": {"poddisruptionbudgets.yaml"},
}
COMPONENTS = {"components/disruption-budgets"}
OVER = {"overlays/production": ("overlays/gpu", *COMPONENTS)}
_BLOCK = "# To serve a few-step variant, too, uncomment the rest of this file"


def uncomment(path: Path) -> bool:
    """Do with a file what its comment says; False where it has no such comment."""
    before, mark, block = path.read_text().partition(_BLOCK)
    if not mark:
        return False
    rest = block.partition(".\n")[2]
    before = re.sub(r"# (variants: \[)", r"\1", before)
    path.write_text(before + "#\n" + re.sub(r"^( *)# ", r"\1", rest, flags=re.MULTILINE))
    return True


@pytest.fixture(scope="module", params=[name for name in FILES if name not in COMPONENTS])
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(overlay: str, tmp_path_factory: Any) -> list[Manifest]:
    """An overlay with its blocks uncommented, and those of what it is made over."""
    deploy = tmp_path_factory.mktemp("uncommented") / "deploy"
    shutil.copytree(ROOT / "deploy", deploy)
    for place in (overlay, *OVER.get(overlay, ())):
        found = {path.name for path in (deploy / place).glob("*.yaml") if uncomment(path)}
        assert found == FILES[place]
    return [one for one in yaml.safe_load_all(kustomize(deploy / overlay)) if one]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_overlay_holds_to_every_check(manifests: list[Manifest], check: Check) -> None:
    assert list(check(manifests)) == []


def test_the_variant_is_served_and_its_weights_are_downloaded(
    manifests: list[Manifest], overlay: str
) -> None:
    name = NAME.get(overlay, "original-lcm-tiny-vae")
    (application,) = serve_config(manifests)["applications"]
    served = AppArgs.model_validate(application["args"]).served
    assert list(served) == ["original", "distilled", "distilled-tiny-vae", name]
    assert application["deployments"][-1]["name"] == name
    for job in of_kind(manifests, "Job"):
        if job["metadata"]["name"].endswith("-weights"):
            command = job["spec"]["template"]["spec"]["initContainers"][0]["command"]
            assert f"--variants={','.join(served)}" in command


def test_every_variant_has_its_workers(manifests: list[Manifest], overlay: str) -> None:
    workers = [group["groupName"] for group in groups(manifests)[1:]]
    assert len(workers) == (1 if overlay in ("overlays/laptop", "overlays/gpu-fractional") else 4)
