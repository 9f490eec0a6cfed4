"""The image's test for CI, as far as it goes without anything that builds images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "image.py"


def run(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "PATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (folder / name).chmod(0o755)


def test_without_a_tool_the_quick_test_is_skipped_and_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "quick")
    assert done.returncode == 77
    assert done.stderr == "The image's test skipped: none of podman, docker works here\n"


@pytest.mark.parametrize("action", ["build", "test"])
def test_without_a_tool_what_was_asked_for_fails(action: str, tmp_path: Path) -> None:
    assert run(tmp_path, action).returncode == 1


def test_a_client_without_its_engine_is_no_tool(tmp_path: Path) -> None:
    tool(tmp_path, "podman", "exit 125")
    assert run(tmp_path, "quick").returncode == 77


def test_without_any_base_the_quick_test_is_skipped_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    tool(tmp_path, "podman", "case $1 in info) ;; *) exit 1 ;; esac")
    # Nothing listens there, so that no registry is reached.
    done = run(tmp_path, "quick", https_proxy="http://127.0.0.1:9", no_proxy="")
    assert done.returncode == 77
    assert "debootstrap" in done.stderr


def test_where_the_engine_can_start_no_container_the_quick_test_is_skipped_and_says_why(
    tmp_path: Path,
) -> None:
    tool(tmp_path, "podman", 'case $1 in run) echo "no cgroups" >&2; exit 126 ;; esac')
    done = run(tmp_path, "quick")
    assert done.returncode == 77
    assert done.stderr == (
        "The image's test skipped: podman can't run a container here: no cgroups\n"
    )


def test_a_build_that_fails_is_no_skip_and_leaves_no_image(tmp_path: Path) -> None:
    tool(tmp_path, "podman", f'echo "$@" >> {tmp_path}/calls; case $1 in build) exit 1 ;; esac')
    tool(tmp_path, "git", "echo revision")
    done = run(tmp_path, "quick")
    assert done.returncode == 1
    assert "NOT BUILT" in done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1].startswith("image rm distilled-sd-serve:quick-")


def test_a_container_that_cannot_start_is_removed_and_the_reason_told(tmp_path: Path) -> None:
    script = 'case "$1 $2" in "run --detach") echo "no port" >&2; exit 126 ;; esac'
    tool(tmp_path, "podman", f'echo "$@" >> {tmp_path}/calls; {script}')
    done = run(tmp_path, "test")
    assert done.returncode == 1
    assert "no port" in done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    (started,) = (one.split() for one in calls if one.startswith("run --detach"))
    assert calls[-1] == f"rm --force {started[started.index('--name') + 1]}"


# Copies what stands in the variable SBOM out of a "container".
PODMAN = """case $1 in
  build) ;;
  image) echo 1000000 ;;
  create) echo container ;;
  cp) printf '%s' "$SBOM" > "$3" ;;
esac"""
HELD = [{"name": name, "version": "1"} for name in ("torch", "diffusers", "ray", "fastapi")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(json.dumps({"bomFormat": "CycloneDX", "components": HELD}), "", id="whole"),
        pytest.param(
            json.dumps({"bomFormat": "CycloneDX", "components": HELD[1:]}),
            "lacks ['torch']",
            id="half",
        ),
        pytest.param(json.dumps({"bomFormat": "x", "components": HELD}), "no SBOM", id="another"),
        pytest.param("", "no SBOM", id="empty"),
    ],
)
def test_the_sbom_is_written_beside_the_image_or_the_build_fails(
    tmp_path: Path, content: str, complaint: str
) -> None:
    tool(tmp_path, "podman", PODMAN)
    tool(tmp_path, "git", "echo revision")
    done = run(tmp_path, "build", "--sbom-dir", str(tmp_path / "sbom"), SBOM=content)
    assert done.returncode == (1 if complaint else 0), done.stderr
    assert complaint in done.stderr
    (path,) = (tmp_path / "sbom").iterdir()
    assert path.name.startswith("distilled-sd-serve-")
    assert path.read_text() == content
