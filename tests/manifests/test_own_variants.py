"""A variant of one's own, added to an overlay as the component's comment says."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import checks
from tests.manifests.checks import CHECKS, Check
from tests.manifests.rendering import COMPONENTS, ROOT, Manifest, groups, kustomize, of_kind
from tests.manifests.test_few_step_variants import uncomment

FEW_STEP = "original-lcm-tiny-vae"
SPOT, IMAGE = "../../components/spot", "../../components/weights-image"
# What it is over, the components, where the few-step variant's block is uncommented, and the name.
CASES: dict[str, tuple[str, list[str], str, str]] = {
    "gpu": ("overlays/gpu", ["own-variant"], "", "my-style"),
    "renamed": ("examples/my-cluster", ["own-variant"], "", "anime"),
    "few-step": ("overlays/gpu", ["own-variant"], "overlays/gpu", "my-style"),
    "few-step-after": ("examples/my-cluster", ["own-variant"], "examples/my-cluster", "my-style"),
    "spot-before": ("overlays/production", [SPOT, "own-variant"], "", "my-style"),
    "spot-after": ("overlays/production", ["own-variant", SPOT], "", "my-style"),
    "weights-image": ("overlays/gpu", [IMAGE, "own-variant"], "", "my-style"),
}
WEIGHTS_IMAGE = """{apiVersion: v1, kind: ConfigMap, data: {reference: a/weights:1}, metadata:
  {name: weights-image, annotations: {config.kubernetes.io/local-config: "true"}}}"""


def with_own_variant(folder: Path, case: str) -> Path:
    """Do in a copy of deploy/ what the component's comment says; returns the user's overlay."""
    place, components, few_step, name = CASES[case]
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    mine = folder / "deploy" / "examples" / "my-cluster"
    if few_step:
        assert sum(uncomment(path) for path in (folder / "deploy" / few_step).glob("*.yaml")) > 1
    content = yaml.safe_load((mine / "kustomization.yaml").read_text())
    if place != "examples/my-cluster":
        content = {**content, "resources": [f"../../{place}"], "patches": []}
        shutil.copy(folder / "deploy" / place / "serve-config.yaml", mine)
    if IMAGE in components:
        (mine / "weights-image.yaml").write_text(WEIGHTS_IMAGE)
        content["resources"].append("weights-image.yaml")
    content["components"] = components
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(content))

    comment = (COMPONENTS / "own-variant" / "kustomization.yaml").read_text()
    commands = "\n".join(re.findall(r"^#   ((?:cp|sed|cat) .*)", comment, re.MULTILINE))
    commands = commands.replace("NAME", name).replace("my-cluster/", f"{mine}/")
    subprocess.run(["bash", "-ec", commands], cwd=folder, check=True)
    block = (mine / "own-variant" / "deployment.yaml").read_text()
    catalogue, variants = re.findall(r"^      ##   (.*\n)", block, re.MULTILINE)
    text = (mine / "serve-config.yaml").read_text()
    if few_step:  # It has named `variants` before.
        text, variants = text.replace(f"{FEW_STEP}]", f"{FEW_STEP}, {name}]"), "\n"
    text = text.replace("args:\n", f"args:\n      {catalogue}      {variants}", 1)
    (mine / "serve-config.yaml").write_text(text)
    return mine


def loaded(overlay: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(kustomize(overlay)) if one]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(case: str, tmp_path_factory: Any) -> list[Manifest]:
    return loaded(with_own_variant(tmp_path_factory.mktemp(case), case))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_with_an_own_variant(
    manifests: list[Manifest], case: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "weights-image":  # Older ones have no image volumes.
        monkeypatch.setattr(checks, "KUBERNETES_VERSIONS", ["1.35", "1.37"])
    assert list(check(manifests)) == []


def test_the_variant_is_served_by_workers_of_its_own_at_the_end(
    manifests: list[Manifest], case: str
) -> None:
    _, _, few_step, name = CASES[case]
    _, _, _, *more = checks.app_args(manifests).served
    assert more == [*[FEW_STEP] * bool(few_step), name]
    last = groups(manifests)[-1]
    assert (last["groupName"], last["labels"]) == (name, {f"serves-{name}": "true"})


def test_a_changed_catalogue_changes_the_pods_and_the_job(tmp_path: Path) -> None:
    overlay = with_own_variant(tmp_path, "gpu")
    before = loaded(overlay)
    with (overlay / "own-variant" / "catalogue.yaml").open("a") as file:
        file.write("  default_steps: 30\n")
    after = loaded(overlay)
    for one, other in zip(groups(before), groups(after), strict=True):
        assert one["template"]["spec"]["volumes"] != other["template"]["spec"]["volumes"]
    assert checks.app_args(after).served["my-style"].default_steps == 30
    assert of_kind(before, "Job") != of_kind(after, "Job")


def test_the_head_waits_until_the_job_has_verified_this_catalogue(tmp_path: Path) -> None:
    manifests = loaded(with_own_variant(tmp_path / "deployed", "gpu"))
    (job,) = of_kind(manifests, "Job")
    (verify,) = job["spec"]["template"]["spec"]["containers"]
    _, wait = groups(manifests)[0]["template"]["spec"]["initContainers"]
    weights, catalogue = tmp_path / "weights", tmp_path / "catalogue" / "catalogue.yaml"

    def succeeds(container: Manifest) -> bool:
        """Run its script here, where a folder is verified by being there."""
        script = re.sub(r" /(weights|catalogue)/", rf" {tmp_path}/\1/", container["args"][0])
        script = script.replace("python -m serve.weights verify", "test -d")
        command = [*container["command"], script.replace("sleep 5", "exit 1")]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0

    weights.mkdir()
    catalogue.parent.mkdir()
    catalogue.write_text("- one")
    assert succeeds(wait)  # An image of weights.
    (weights / "hub").mkdir()
    assert not succeeds(verify)
    assert not succeeds(wait)
    (weights / "sd-v1").mkdir()
    assert succeeds(verify)
    assert succeeds(wait)
    catalogue.write_text("- one, changed")
    assert not succeeds(wait)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("own-variant/catalogue.yaml", "'my-style' was given"),
        ("own-variant/worker-group.yaml", "my-style: no worker group has the labels"),
        ("own-variant/weights.yaml", "the weights Job doesn't download my-style"),
        ("serve-config.yaml", "'anime' was given"),
    ],
)
def test_a_name_that_differs_in_one_file_is_found(
    tmp_path: Path, file: str, complaint: str
) -> None:
    overlay = with_own_variant(tmp_path, "gpu")
    path = overlay / file
    path.write_text(path.read_text().replace("my-style", "anime"))
    manifests = loaded(overlay)
    found = []
    for check in CHECKS:
        try:
            found += list(check(manifests))
        except ValueError as fault:  # Of the options themselves.
            found.append(str(fault))
    assert any(complaint in one for one in found)
