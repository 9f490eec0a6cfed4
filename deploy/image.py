"""`make image` builds the container image and its SBOM; `make image-test` runs it as pods do.

`quick` does both for CI, with whichever base is to be had, and leaves no image but that base.

Built with buildah, podman or docker, tried with podman or docker, whichever is there. Where the
base image can't be pulled, `--stand-in-base` makes a minimal Debian of the same release with
debootstrap and says so; such an image is for trying, not for shipping. `--host-pip` lets pip inside
the build use this machine's pip configuration (mirrors, certificates, local wheels), mounted, never
baked in.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
_NAME = "distilled-sd-serve"
_STAND_IN = f"localhost/{_NAME}-base:stand-in"
# Where the Dockerfile puts the list of what the image holds.
_SBOM = "/usr/share/distilled-sd-serve/sbom.cdx.json"
_VARIANTS = ("original", "distilled", "distilled-tiny-vae")
_READY_S, _END_S = 180, 60
# What test runners take for "skipped".
_CANNOT = 77
# So long may a build take to clean up once it is interrupted.
_CLEAN_UP_S = 15
# Three replicas of the miniature, the router, Serve and Ray need 3 GiB (serve/__main__.py).
_MEMORY = "5g"


class ImageError(Exception):
    """What can't be done, in one line."""


class Missing(ImageError):
    """What this machine lacks."""


def main() -> int:
    """Build or test; 1 where it fails, 77 where `quick` can't be done on this machine."""
    parser = argparse.ArgumentParser(prog="python deploy/image.py", description=__doc__)
    parser.add_argument("action", choices=("build", "test", "quick"))
    parser.add_argument("--target", choices=("cpu", "cuda", "loadtest"), default="cpu")
    parser.add_argument("--base", help="in place of the Dockerfile's base image")
    parser.add_argument("--stand-in-base", action="store_true", help="debootstrap's Debian as base")
    parser.add_argument("--torch-index", help="in place of PyTorch's; empty: pip's default")
    parser.add_argument("--host-pip", action="store_true", help="use this machine's pip settings")
    parser.add_argument("--sbom-dir", type=Path, default=ROOT / "sbom", help="where the SBOM goes")
    args = parser.parse_args()
    try:
        if args.action == "build":
            build(args, tag(args.target))
            path = args.sbom_dir / f"{tag(args.target).replace(':', '-')}.cdx.json"
            write_sbom(_first("podman", "docker"), tag(args.target), path)
        elif args.action == "test":
            check = try_load_tests if args.target == "loadtest" else try_it
            check(_first("podman", "docker"), tag(args.target))
        else:
            quick(args)
    except Missing as lack:
        if args.action != "quick":
            print(f"distilled-sd-serve: {lack}", file=sys.stderr)
            return 1
        print(f"The image's test skipped: {lack}", file=sys.stderr)
        return _CANNOT
    except KeyboardInterrupt:
        return 130
    except ImageError as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 1
    return 0


def tag(target: str) -> str:
    """The image's name, with the project's version."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    version = next(line.split('"')[1] for line in lines if line.startswith("version = "))
    return f"{_NAME}-loadtest:{version}" if target == "loadtest" else f"{_NAME}:{version}-{target}"


def quick(args: argparse.Namespace) -> None:
    """Build the image under a name of its own, try it, and take it away again.

    Raises:
        Missing: this machine can't.
        ImageError: what didn't hold.
    """
    runner, image = _first("podman", "docker"), f"{_NAME}:quick-{os.getpid()}"
    args.host_pip = True
    base = args.base or _published_base()
    args.stand_in_base = args.base is None and not _is_to_be_had(runner, base)
    _has_to_run_containers(runner, _stand_in_base() if args.stand_in_base else base)
    try:
        build(args, image)
        with tempfile.TemporaryDirectory(prefix="sbom-") as scratch:
            write_sbom(runner, image, Path(scratch) / "sbom.cdx.json")
        try_it(runner, image)
    finally:
        subprocess.run([runner, "image", "rm", image], capture_output=True)


def _has_to_run_containers(runner: str, image: str) -> None:
    """Raise Missing where the engine answers, but its runtime can't start anything."""
    done = subprocess.run([runner, "run", "--rm", image, "true"], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{runner} can't run a container here: {done.stderr.strip()}")


def _published_base() -> str:
    """The Dockerfile's base image."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("ARG BASE="))


def _is_to_be_had(runner: str, base: str) -> bool:
    """Whether a base image is here, or its registry answers."""
    if subprocess.run([runner, "image", "inspect", base], capture_output=True).returncode == 0:
        return True
    registry = base.partition("/")[0].replace("docker.io", "registry-1.docker.io")
    try:
        urllib.request.urlopen(f"https://{registry}/v2/", timeout=10)
    except urllib.error.HTTPError as refused:
        return refused.code == 401  # It wants a token, as registries do.
    except OSError:
        return False
    return True


def build(args: argparse.Namespace, image: str) -> None:
    """Build one target under a name and tell its size.

    Raises:
        ImageError: no tool is here, the base can't be had, or the build failed.
    """
    tool, base = _first("buildah", "podman", "docker"), args.base
    if args.stand_in_base:
        base = _stand_in_base()
    revision = _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    options = ["--target", args.target, "--build-arg", f"REVISION={revision}"]
    options += [] if base is None else ["--build-arg", f"BASE={base}"]
    if args.torch_index is not None:
        options += ["--build-arg", f"TORCH_INDEX={args.torch_index}"]
    # Docker's own format: the other drops HEALTHCHECK.
    options += [] if tool == "docker" else ["--format", "docker", "--network", "host"]
    if args.action == "quick" and tool != "docker":
        options += ["--layers=false"]  # Else each step leaves an image.
    with contextlib.ExitStack() as stack:
        if args.host_pip:
            options += stack.enter_context(_host_pip())
        command = [tool, "build", *options, "-f", "deploy/Dockerfile", "-t", image, "."]
        _tell(shlex.join(command))
        if _status(command):
            raise ImageError(
                f"{image} NOT BUILT: see above; where no image registry is reached, "
                "--stand-in-base builds the cpu target on debootstrap's Debian"
            )
    size_bytes = int(_output([_first("podman", "docker"), "image", "inspect", "--format",
                              "{{.Size}}", image]))  # fmt: skip
    _tell(f"{image} built: {size_bytes / 1e6:,.0f} MB")
    if args.stand_in_base:
        _tell("Its base is a stand-in: try it, don't ship it.")


def write_sbom(tool: str, image: str, path: Path) -> None:
    """Write what an image says that it holds beside it: a CycloneDX document.

    Raises:
        ImageError: it says nothing, or leaves out what serves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    container = _output([tool, "create", image])
    try:
        _output([tool, "cp", f"{container}:{_SBOM}", str(path)])
    finally:
        subprocess.run([tool, "rm", container], capture_output=True)
    try:
        content = json.loads(path.read_text())
        found = {part["name"]: part["version"] for part in content["components"]}
    except (ValueError, KeyError, TypeError) as fault:
        raise ImageError(f"{path}: no SBOM: {fault!r}") from None
    missing = {"torch", "diffusers", "ray", "fastapi"} - set(found)
    if content.get("bomFormat") != "CycloneDX" or missing:
        raise ImageError(f"{path}: no SBOM of this image; it lacks {sorted(missing)}")
    _tell(f"{path}: {len(found)} components, torch {found['torch']}, ray {found['ray']}")


def _stand_in_base() -> str:
    """A minimal Debian of the Dockerfile's release, imported under a local name; made once."""
    tool = _first("podman", "docker")
    if subprocess.run([tool, "image", "inspect", _STAND_IN], capture_output=True).returncode == 0:
        return _STAND_IN
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise Missing("without an image registry it needs debootstrap, and root")
    _tell("Making a stand-in base with debootstrap ...")
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        root = Path(scratch) / "root"
        bootstrap = ["debootstrap", "--variant=minbase", "bookworm", str(root)]
        if subprocess.run(bootstrap, stdout=subprocess.DEVNULL).returncode:
            raise Missing("debootstrap failed: is a mirror of Debian reached?")
        packed = Path(scratch) / "root.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(packed), "."], check=True)
        subprocess.run([tool, "import", str(packed), _STAND_IN], check=True)
    return _STAND_IN


@contextlib.contextmanager
def _host_pip() -> Iterator[list[str]]:
    """Build options that mount this machine's pip configuration and the files it names."""
    lines = _output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    settings: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition("=")
        # Sections and the environment alike; the later one in the list is the weaker one.
        settings.setdefault(key.rsplit(".", 1)[-1], value.strip("'\""))
    paths = {
        path
        for value in settings.values()
        for word in value.split()
        if (path := Path(word.removeprefix("file://"))).is_absolute() and path.exists()
    }
    # Elsewhere than at their own places, which packages in the build write to.
    mounts = {path: f"/run/host{path}" for path in paths}
    for path, place in mounts.items():
        settings = {
            key: " ".join(
                word.replace(str(path), place)
                if Path(word.removeprefix("file://")) == path
                else word
                for word in value.split()
            )
            for key, value in settings.items()
        }
    with tempfile.NamedTemporaryFile("w", prefix="pip-", suffix=".conf") as config:
        config.write("[global]\n")
        config.writelines(f"{key} = {value}\n" for key, value in settings.items())
        config.flush()
        Path(config.name).chmod(0o644)
        # A local index's pages point to files beside its folder `simple`.
        places = {
            (path.parent if path.name == "simple" else path): place.removesuffix("/simple")
            for path, place in mounts.items()
        }
        places[Path(config.name)] = "/etc/pip.conf"
        yield [
            option
            for path, place in sorted(places.items())
            for option in ("--volume", f"{path}:{place}:ro")
        ]


def try_it(tool: str, image: str) -> None:
    """Run the image restricted as in the manifests: ready, pictures, and a clean end on SIGTERM.

    Raises:
        ImageError: what didn't hold.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    container = f"{_NAME}-{os.getpid()}"
    command = [
        tool, "run", "--detach", "--name", container, "--read-only", "--user", "1000:1000",
        "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", _MEMORY,
        "--shm-size", "1g", "--tmpfs", "/tmp:mode=1777", "--tmpfs", "/home/serve:mode=1777",
        "--publish", f"127.0.0.1:{port}:8000", image,
    ]  # fmt: skip
    try:
        _output(command)
        began = time.monotonic()
        _wait_until_ready(url, tool, container)
        _tell(
            f"ready after {time.monotonic() - began:.0f} s: read-only, no capabilities, {_MEMORY}"
        )
        for variant in _VARIANTS:
            _draw(url, {"model": variant, "prompt": "a red star on a white background", "seed": 1})
            _tell(f"{variant} drew a picture")
        _drain(url, tool, container)
    except ImageError:
        logs = subprocess.run(
            [tool, "logs", "--tail", "30", container], capture_output=True, text=True
        )
        print(logs.stdout + logs.stderr, file=sys.stderr)
        raise
    finally:
        subprocess.run([tool, "rm", "--force", container], capture_output=True)


def try_load_tests(tool: str, image: str) -> None:
    """Start the commands of the load tests' Jobs, restricted as in the manifests.

    Raises:
        ImageError: one doesn't start.
    """
    for arguments in (["loadtests.compare", "--help"], ["locust", "--version"]):
        _output(
            [tool, "run", "--rm", "--read-only", "--user", "1000:1000", "--cap-drop", "all",
             "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:mode=1777",
             "--tmpfs", "/home/serve:mode=1777", image, "python", "-m", *arguments]
        )  # fmt: skip
        _tell(f"{arguments[0]} starts")


def _wait_until_ready(url: str, tool: str, container: str) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/readyz", timeout=5)
            return
        if _output([tool, "inspect", "--format", "{{.State.Running}}", container]) != "true":
            raise ImageError("the container has ended")
        time.sleep(0.5)
    raise ImageError(f"not ready after {_READY_S} s")


def _draw(url: str, asked: dict[str, object]) -> int:
    """How many pictures came; each decodes."""
    request = urllib.request.Request(
        f"{url}/v1/images/generations",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            pictures = json.load(reply)["data"]
    except (urllib.error.URLError, ConnectionError) as fault:
        raise ImageError(f"{asked['model']}: {fault}") from None
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))).load()
    return len(pictures)


def _drain(url: str, tool: str, container: str) -> None:
    """SIGTERM while a request is under way: it is answered, and the container ends well."""
    long = {"model": "original", "prompt": "a blue circle", "n": 2, "num_inference_steps": 50}
    came: list[int | ImageError] = []

    def ask() -> None:
        try:
            came.append(_draw(url, long))
        except ImageError as fault:
            came.append(fault)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    if came:
        raise ImageError("the request was answered before it could be interrupted")
    _output([tool, "kill", "--signal", signal.SIGTERM.name, container])
    asking.join(_END_S)
    if came != [2]:
        raise ImageError(f"SIGTERM lost the request that was under way: {came}")
    status = _output([tool, "wait", container])
    if status != "0":
        raise ImageError(f"after SIGTERM the container ended with {status}")
    _tell("SIGTERM: the request under way was answered, then it ended with 0")


def _first(*tools: str) -> str:
    for tool in tools:
        # A client without its engine is no tool.
        if (
            shutil.which(tool)
            and subprocess.run([tool, "info"], capture_output=True).returncode == 0
        ):
            return tool
    raise Missing(f"none of {', '.join(tools)} works here")


def _status(command: Sequence[str]) -> int:
    """The command's exit status; Ctrl-C, which it gets too, leaves it time to clean up."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CLEAN_UP_S)
        raise


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
