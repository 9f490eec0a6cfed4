"""What is known of the dependencies: the SBOM's document, and what an audit says."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy import audit

ROOT = Path(__file__).parents[2]


@pytest.mark.thorough
def test_the_images_commands_list_what_is_installed_in_a_valid_document(tmp_path: Path) -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    # Both targets' are the same: a virtual environment, the tool, and the document, validated.
    (commands,) = set(re.findall(r"RUN (python3 -m venv /opt/sbom .*)", dockerfile))
    places = {
        "/opt/sbom": str(tmp_path / "sbom"),
        "/opt/sbom/bin/pip": str(tmp_path / "sbom/bin/pip"),
        "/opt/sbom/bin/cyclonedx-py": str(tmp_path / "sbom/bin/cyclonedx-py"),
        "/opt/sbom.cdx.json": str(tmp_path / "sbom.cdx.json"),
        "/opt/venv/bin/python": sys.executable,
    }
    for command in commands.split("&&"):
        arguments = [places.get(one, one) for one in shlex.split(command)]
        subprocess.run(arguments, cwd=ROOT, check=True)
    text = (tmp_path / "sbom.cdx.json").read_text()
    content = json.loads(text)
    held = {one["name"]: one["version"] for one in content["components"]}
    for name in ("torch", "diffusers", "ray", "fastapi", "pydantic"):
        assert held[name] == version(name)
    assert content["metadata"]["component"]["name"] == "distilled-sd-serve"
    # No path of the machine that built it.
    assert str(ROOT) not in text


def answering(output: str, error: str = "", status: int = 0) -> audit.Audit:
    return lambda _: subprocess.CompletedProcess([], status, output, error)


CLEAN = {"name": "ray", "version": "2.60.0", "vulns": []}
FAULT = {
    "name": "torch", "version": "2.13.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.13.1"]}],
}  # fmt: skip
SKIPPED = {"name": "own", "skip_reason": "not on the index"}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        pytest.param([CLEAN], 0, "1 packages audited, 0 known", id="clean"),
        pytest.param([CLEAN, FAULT], 1, "torch 2.13.0: PYSEC-2026-1, fixed in 2.13.1", id="fault"),
        pytest.param([CLEAN, SKIPPED], 0, "Not audited: own (not on the index)", id="one-skipped"),
        pytest.param([SKIPPED], 77, "can't be had here: own", id="all-skipped"),
    ],
)
def test_an_audit_tells_what_it_found_and_what_it_could_not_look_at(
    packages: list[object], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.dumps({"dependencies": packages})
    assert audit.main(answering(found, status=status)) == status
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


def test_without_data_an_audit_is_no_clean_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(answering("", "ERROR: Could not connect", 1)) == 77
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Not audited: the vulnerability data can't be had here: ")


def test_every_dependency_is_pinned_so_that_an_audit_can_look_at_it() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
