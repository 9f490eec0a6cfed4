"""`python -m loadtests.overhead.fastapi_rival PORT`: FastAPI on uvicorn, in one process."""

import sys

import uvicorn
from fastapi import FastAPI

from serve.http.schemas import GenerationRequest, ImagesResponse

from .rivals import PATH, answer, picture

api = FastAPI()
_png = picture()


@api.post(PATH)
async def generate(asked: GenerationRequest) -> ImagesResponse:
    """The answer, at once."""
    return answer(asked, _png)


if __name__ == "__main__":
    uvicorn.run(api, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
