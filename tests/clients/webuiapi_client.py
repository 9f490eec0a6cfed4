"""The `webuiapi` client: BASE_URL SCENARIO PROMPT; prints what it got as JSON.

For an edit, PROMPT is the path of a picture.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import webuiapi
from PIL import Image

url, scenario, prompt = sys.argv[1:]

client = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1")


def draw(batch_size: int = 1, steps: int = 2) -> list[str]:
    reply = client.txt2img(
        prompt=prompt, seed=7, batch_size=batch_size, steps=steps, width=96, height=96
    )
    assert [image.size for image in reply.images] == [(96, 96)] * batch_size
    return reply.json["images"]


def refusal(fault: RuntimeError) -> dict[str, object]:
    status, text = fault.args
    return {"error": f"{type(fault).__name__} {status}", "text": text}


if scenario in ("draw", "two"):
    got = {"images": draw(1 if scenario == "draw" else 2)}
elif scenario == "edit":
    reply = client.img2img(
        images=[Image.open(prompt).convert("RGB")],
        prompt="a star",
        seed=7,
        steps=2,
        width=96,
        height=96,
        denoising_strength=0.5,
    )
    got = {"images": reply.json["images"]}
elif scenario == "refused":
    try:
        got = draw(steps=0)
    except RuntimeError as fault:
        got = refusal(fault)
elif scenario == "leave":
    with ThreadPoolExecutor() as pool:
        drawing = pool.submit(draw, steps=150)
        sys.stdin.readline()
        client.interrupt()
        got = refusal(drawing.exception())
print(json.dumps(got))
