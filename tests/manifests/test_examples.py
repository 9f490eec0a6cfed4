"""Overlays of users' own: the example, weights from an image, a clone with nothing beside it."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import checks
from tests.manifests.checks import CHECKS, Check
from tests.manifests.rendering import (
    COMPONENTS,
    NAMES,
    OVERLAYS,
    ROOT,
    Manifest,
    groups,
    kustomize,
    of_kind,
    rendered,
)

EXAMPLE = ROOT / "deploy" / "examples" / "my-cluster"
REFERENCE = f"registry.example.com/distilled-sd-serve-weights@sha256:{64 * 'a'}"
ON_GPUS = [name for name in NAMES if name != "laptop"]


def loaded(folder: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(kustomize(folder)) if one]


@pytest.fixture(scope="module", params=ON_GPUS)
def weights_image(request: pytest.FixtureRequest, tmp_path_factory: Any) -> list[Manifest]:
    """An overlay with the component and, as its comment says, a file that names the image."""
    folder = tmp_path_factory.mktemp(request.param)
    comment = (COMPONENTS / "weights-image" / "kustomization.yaml").read_text()
    _, file = re.split(r"names the image:\n", comment.split("apiVersion: kustomize")[0])
    image = yaml.safe_load(file.replace("#   ", ""))
    image["data"]["reference"] = REFERENCE
    (folder / "weights-image.yaml").write_text(yaml.safe_dump(image))
    content = {
        "resources": [os.path.relpath(OVERLAYS / request.param, folder), "weights-image.yaml"],
        "components": [os.path.relpath(COMPONENTS / "weights-image", folder)],
        "namespace": "distilled-sd-serve",
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return loaded(folder)


@pytest.fixture(scope="module")
def example() -> list[Manifest]:
    return loaded(EXAMPLE)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_example_holds_to_every_check(example: list[Manifest], check: Check) -> None:
    assert list(check(example)) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_weights_from_an_image(
    weights_image: list[Manifest], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Older ones don't know, or don't allow, image volumes.
    monkeypatch.setattr(checks, "KUBERNETES_VERSIONS", ["1.35", "1.37"])
    assert list(check(weights_image)) == []


def test_the_example_changes_registry_class_and_gpus_everywhere(example: list[Manifest]) -> None:
    images = re.findall(r"image: (\S+)", yaml.safe_dump_all(example))
    assert set(images) == {"registry.example.com/images/distilled-sd-serve:0.1.0-cuda"}
    (claim,) = of_kind(example, "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "efs"
    for group in groups(example)[1:]:
        assert set(group["template"]["spec"]["nodeSelector"]) == {"nvidia.com/gpu.product"}


def test_the_examples_serve_config_is_overlays_gpus_but_for_replicas() -> None:
    text, gpus = (
        (folder / "serve-config.yaml").read_text() for folder in (EXAMPLE, OVERLAYS / "gpu")
    )
    replicas = re.compile(r"(max_replicas:) \d+")
    assert replicas.sub(r"\1", text) == replicas.sub(r"\1", gpus)


def test_weights_from_an_image_need_no_claim_no_job_and_no_way_out(
    weights_image: list[Manifest],
) -> None:
    volumes = [
        volume
        for group in groups(weights_image)
        for volume in group["template"]["spec"]["volumes"]
        if volume["name"] == "weights"
    ]
    image = {"reference": REFERENCE, "pullPolicy": "IfNotPresent"}
    assert volumes == [{"name": "weights", "image": image}] * len(groups(weights_image))
    assert not of_kind(weights_image, "Job", "PersistentVolumeClaim", "WeightsVolume")
    assert "0.0.0.0/0" not in yaml.safe_dump_all(of_kind(weights_image, "NetworkPolicy"))


def test_the_weights_images_dockerfile_leaves_the_mark_that_the_head_waits_for() -> None:
    (wait,) = groups(rendered("gpu"))[0]["template"]["spec"]["initContainers"]
    (mark,) = re.findall(r"-e /weights/(\S+)", wait["args"][0])
    text = (COMPONENTS / "weights-image" / "Dockerfile").read_text()
    assert f"serve.weights verify sd-v1 && touch {mark}\n" in text


def test_a_clone_is_all_that_the_overlays_need(tmp_path: Path) -> None:
    """As `kubectl apply -k REPOSITORY//deploy/overlays/NAME?ref=...` gets them."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "deploy"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for file in filter(None, files):
        copy = tmp_path / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / file).read_bytes())
    for name in NAMES:
        assert loaded(tmp_path / "deploy" / "overlays" / name) == rendered(name)
