"""`python -m loadtests.overhead.litserve_rival PORT`: a process for HTTP, and one that predicts."""

import sys
from typing import Any

import litserve

from serve.http.schemas import GenerationRequest

from .rivals import PATH, answer, picture


class Instant(litserve.LitAPI):
    """Answers at once; LitServe calls the methods in this order."""

    def setup(self, device: str) -> None:
        """Once, in the process that predicts."""
        self._png = picture()

    def decode_request(self, request: GenerationRequest) -> GenerationRequest:
        """LitServe looks for a parameter of that name, and reads its type."""
        return request

    def predict(self, asked: GenerationRequest) -> GenerationRequest:
        """Nothing to do."""
        return asked

    def encode_response(self, asked: GenerationRequest) -> dict[str, Any]:
        """The answer."""
        return answer(asked, self._png).model_dump()


if __name__ == "__main__":
    server = litserve.LitServer(Instant(api_path=PATH), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False
    )
