"""`make release-manifests`: an overlay's manifests, with nothing changed but the images."""

from pathlib import Path

import pytest
import yaml

from deploy import release
from tests.commands import Done, run_main
from tests.manifests.rendering import NAMES, rendered

IMAGE = "registry.example.com/images/dsd"
DIGESTS = {
    "cpu": f"sha256:{64 * 'a'}",
    "cuda": f"sha256:{64 * 'b'}",
    "redis": f"sha256:{64 * 'c'}",
}


def released(folder: Path, digests: dict[str, str], image: str = IMAGE) -> Done:
    text = " ".join(f"{name}={digest}" for name, digest in digests.items())
    return run_main(release.main, "--image", image, "--digests", text, "--out", folder)


def test_a_released_file_is_its_overlay_with_digests(tmp_path: Path) -> None:
    assert released(tmp_path / "dist", DIGESTS).returncode == 0
    tags = {
        "distilled-sd-serve:0.1.0-cpu": f"{IMAGE}@{DIGESTS['cpu']}",
        "distilled-sd-serve:0.1.0-cuda": f"{IMAGE}@{DIGESTS['cuda']}",
        "redis:7.2.11-bookworm": f"redis@{DIGESTS['redis']}",
    }
    for name in NAMES:
        text = (tmp_path / "dist" / f"distilled-sd-serve-{name}.yaml").read_text()
        expected = yaml.safe_dump_all(rendered(name), width=1000)
        for tag, digest in tags.items():
            expected = expected.replace(f"image: {tag}\n", f"image: {digest}\n")
        assert list(yaml.safe_load_all(text)) == list(yaml.safe_load_all(expected))


@pytest.mark.parametrize(
    ("digests", "complaint"),
    [
        ({**DIGESTS, "cpu": "sha256:abc"}, "'cpu=sha256:abc' was given; it must be NAME=sha256:"),
        ({"cpu": DIGESTS["cpu"]}, "DIGESTS: has no cuda, which overlays/gpu needs"),
    ],
    ids=["no digest", "missing"],
)
def test_wrong_digests_are_refused_before_anything_is_written(
    tmp_path: Path, digests: dict[str, str], complaint: str
) -> None:
    done = released(tmp_path / "dist", digests)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("image", ["", "distilled-sd-serve", "registry.example.com/dsd:1"])
def test_an_image_without_a_registry_or_with_a_tag_is_refused(tmp_path: Path, image: str) -> None:
    done = released(tmp_path / "dist", DIGESTS, image)
    assert done.returncode == 1
    assert f"IMAGE: {image!r} was given; it must be REGISTRY/NAME" in done.stderr
