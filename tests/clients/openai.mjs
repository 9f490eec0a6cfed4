// The `openai` client of Node: BASE_URL SCENARIO PROMPT (of an edit a picture's path); prints
// what it got as JSON.
import { once } from "node:events";
import fs from "node:fs";
import OpenAI from "openai";

const [url, scenario, prompt] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const asked = { model: "original", prompt, size: "96x96", seed: 7, num_inference_steps: 2 };

const scenarios = {
  draw: async (n = 1) => {
    const reply = await client.images.generate({ ...asked, n });
    return { images: reply.data.map((image) => image.b64_json) };
  },
  two: () => scenarios.draw(2),
  stream: async () => {
    const events = [];
    const stream = await client.images.generate({ ...asked, stream: true, partial_images: 1 });
    for await (const event of stream) events.push(event);
    return { events: events.map((event) => event.type), images: [events.at(-1).b64_json] };
  },
  edit: async () => {
    const picture = () => fs.createReadStream(prompt);
    const form = { ...asked, prompt: "a star", image: picture(), mask: picture(), strength: 0.5 };
    const reply = await client.images.edit(form);
    return { images: reply.data.map((image) => image.b64_json) };
  },
  refused: async () => {
    try {
      return await client.images.generate({ ...asked, num_inference_steps: 0 });
    } catch (fault) {
      return { error: fault.constructor.name, text: fault.message, code: fault.code };
    }
  },
  leave: async () => {
    const controller = new AbortController();
    const body = { ...asked, num_inference_steps: 150 };
    const drawing = client.images.generate(body, { signal: controller.signal });
    once(process.stdin, "data").then(() => controller.abort());
    return drawing.catch((fault) => ({ error: fault.constructor.name }));
  },
};
console.log(JSON.stringify(await scenarios[scenario]()));
process.exit();
