"""`make audit`: known vulnerabilities in the versions that constraints.txt pins, by pip-audit.

Asks the package index's own vulnerability data, a request for each package. Exit status 1 where
there are some, 77 where the data can't be had: that is no clean bill.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What test runners take for "skipped".
_CANNOT = 77
_TIMEOUT_S = 15
Audit = Callable[[Path], "subprocess.CompletedProcess[str]"]


def pip_audit(requirements: Path) -> "subprocess.CompletedProcess[str]":
    """Audit a file of exact versions, without installing or resolving anything."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps",
        "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout",
        str(_TIMEOUT_S),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main(audit: Audit = pip_audit) -> int:
    """Print what was found; one package first, which tells whether there is data at all."""
    constraints = ROOT / "constraints.txt"
    pins = [line for line in constraints.read_text().splitlines() if "==" in line]
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as one:
            one.write(pins[0] + "\n")
            one.flush()
            _audited(audit(Path(one.name)))
        known, skipped = _audited(audit(constraints))
    except LookupError as lack:
        print(f"Not audited: the vulnerability data can't be had here: {lack}", file=sys.stderr)
        return _CANNOT
    found = 0
    for package in known:
        for fault in package["vulns"]:
            found += 1
            fixed = ", ".join(fault["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
    print(f"{len(known)} packages audited, {found} known vulnerabilities")
    if skipped:
        print(f"Not audited: {', '.join(skipped)}", file=sys.stderr)
    return 1 if found else 0


def _audited(done: "subprocess.CompletedProcess[str]") -> tuple[list[dict[str, Any]], list[str]]:
    """The packages with data, and why there is none of the others.

    Raises:
        LookupError: there is data of none.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        words = done.stderr.strip().splitlines()
        raise LookupError(words[-1] if words else f"exit status {done.returncode}") from None
    skipped = [
        f"{package['name']} ({package['skip_reason']})"
        for package in packages
        if "skip_reason" in package
    ]
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        raise LookupError(", ".join(skipped))
    return known, skipped


if __name__ == "__main__":
    sys.exit(main())
