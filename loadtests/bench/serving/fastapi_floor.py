"""`python -m loadtests.bench.serving.fastapi_floor PORT ANSWER`: the least that HTTP costs.

FastAPI on uvicorn, in one process, which checks a request as the service does and gives the answer
in the JSON file ANSWER.
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from serve.http.schemas import GenerationRequest, ImagesResponse

api = FastAPI()
_answer = ImagesResponse.model_validate_json(Path(sys.argv[2]).read_bytes())


@api.post("/v1/images/generations")
async def generate(asked: GenerationRequest) -> ImagesResponse:
    """The answer, at once."""
    return _answer


if __name__ == "__main__":
    uvicorn.run(api, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
