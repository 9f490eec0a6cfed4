"""The `openai` client: BASE_URL SCENARIO PROMPT; prints what it got as JSON.

For an edit, PROMPT is the path of a picture.
"""

import json
import sys
from pathlib import Path

import openai

url, scenario, prompt = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
asked = {"model": "original", "prompt": prompt}
few, many, none = (
    {"seed": 7, "num_inference_steps": steps, "size": "96x96"} for steps in (2, 150, 0)
)
if scenario in ("draw", "two"):
    count = 1 if scenario == "draw" else 2
    reply = client.images.generate(**asked, n=count, extra_body=few)
    got = {"images": [image.b64_json for image in reply.data]}
elif scenario == "stream":
    stream = client.images.generate(**asked, stream=True, partial_images=1, extra_body=few)
    events = list(stream)
    got = {"events": [event.type for event in events], "images": [events[-1].b64_json]}
elif scenario == "edit":
    form = {"model": "original", "prompt": "a star", "image": Path(prompt), "mask": Path(prompt)}
    reply = client.images.edit(**form, extra_body={**few, "strength": 0.5})
    got = {"images": [image.b64_json for image in reply.data]}
elif scenario == "refused":
    try:
        got = client.images.generate(**asked, extra_body=none)
    except openai.BadRequestError as fault:
        got = {"error": type(fault).__name__, "text": str(fault), "code": fault.code}
elif scenario == "leave":
    stream = client.images.generate(**asked, stream=True, partial_images=1, extra_body=many)
    sys.stdin.readline()
    stream.close()
    got = {"error": "closed"}
print(json.dumps(got))
