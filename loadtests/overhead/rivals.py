"""One request, and the same answer to it from other servers, each written as its makers show."""

import base64
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from serve.generation import PictureFormat, Timings
from serve.http.schemas import GenerationRequest, Image, ImagesResponse
from serve.replica.encoding import encode

from .photo import photo

# Modules beside this one, by the name of the server.
RIVALS = {"FastAPI": "fastapi_rival", "LitServe": "litserve_rival"}
PATH = "/v1/images/generations"
VARIANT = "distilled"
PROMPT = "a golden vase with different flowers"
BODY = {"model": VARIANT, "prompt": PROMPT, "seed": 7, "num_inference_steps": 1}
# Of a picture as the miniature draws it: what is measured isn't how fast bytes are moved.
_SIDE_PX = 96
_START_S = 60


def picture() -> bytes:
    """A PNG, always the same."""
    return encode(photo(_SIDE_PX), PictureFormat("png", 100))


def answer(asked: GenerationRequest, png: bytes) -> ImagesResponse:
    """What the service's own routes make of it; `created` is 0."""
    return ImagesResponse(
        created=0,
        model=asked.model or VARIANT,
        model_reason=None,
        data=[Image(b64_json=base64.b64encode(png).decode("ascii"), seed=asked.seed or 0)],
        output_format="png",
        size=f"{_SIDE_PX}x{_SIDE_PX}",
        timings=Timings(0.0, 0.0, 0.0, 0.0),
        warnings=[],
    )


@contextlib.contextmanager
def running(name: str) -> Iterator[str]:
    """Start one on a free port, and end it afterwards; yields its address.

    Raises:
        RuntimeError: it doesn't listen.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    module = f"{__package__}.{RIVALS[name]}"
    process = subprocess.Popen([sys.executable, "-m", module, str(port)])
    try:
        end_at = time.monotonic() + _START_S
        while not _listens(port):
            if time.monotonic() > end_at or process.poll() is not None:
                raise RuntimeError(f"{name} does not listen on port {port}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
