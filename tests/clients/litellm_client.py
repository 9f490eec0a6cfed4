"""The `litellm` client: BASE_URL SCENARIO PROMPT; prints what it got as JSON."""

import asyncio
import json
import os
import sys

# Else it fetches a list of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

url, scenario, prompt = sys.argv[1:]
service = {"api_base": f"{url}/v1", "api_key": "none"}


async def draw(n: int = 1, steps: int = 2) -> list[str]:
    own = {"seed": 7, "num_inference_steps": steps}
    reply = await litellm.aimage_generation(
        model="openai/original", prompt=prompt, n=n, size="96x96", extra_body=own, **service
    )
    return [image.b64_json for image in reply.data]


async def leave() -> str:
    drawing = asyncio.create_task(draw(steps=150))
    await asyncio.to_thread(sys.stdin.readline)
    drawing.cancel()
    (fault,) = await asyncio.gather(drawing, return_exceptions=True)
    return type(fault).__name__


if scenario in ("draw", "two"):
    got = {"images": asyncio.run(draw(1 if scenario == "draw" else 2))}
elif scenario == "refused":
    try:
        got = asyncio.run(draw(steps=0))
    except litellm.BadRequestError as fault:
        got = {"error": type(fault).__name__, "text": str(fault), "code": fault.code}
elif scenario == "leave":
    got = {"error": asyncio.run(leave())}
print(json.dumps(got))
