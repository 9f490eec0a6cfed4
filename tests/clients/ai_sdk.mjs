// The AI SDK: BASE_URL SCENARIO PROMPT; prints what it got as JSON.
import { once } from "node:events";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

const [url, scenario, prompt] = process.argv.slice(2);
const service = createOpenAICompatible({ name: "service", baseURL: `${url}/v1` });

const draw = async (n, steps, abortSignal) => {
  const { images } = await generateImage({
    model: service.imageModel("original"),
    prompt,
    n,
    size: "96x96",
    providerOptions: { service: { seed: 7, num_inference_steps: steps } },
    abortSignal,
  });
  return { images: images.map((image) => image.base64) };
};

const scenarios = {
  draw: () => draw(1, 2),
  two: () => draw(2, 2),
  refused: () =>
    draw(1, 0).catch((fault) => ({ error: fault.name, text: fault.message, ...fault.data?.error })),
  leave: () => {
    const controller = new AbortController();
    once(process.stdin, "data").then(() => controller.abort());
    return draw(1, 150, controller.signal).catch((fault) => ({ error: fault.name }));
  },
};
console.log(JSON.stringify(await scenarios[scenario]()));
process.exit();
