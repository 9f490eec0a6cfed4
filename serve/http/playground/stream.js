// The Images API from the browser: its streams of events, and its errors.

// The server's heartbeats come every 5 s; whoever is silent for six of them is gone.
const SILENCE_MS = 30_000;

// The server's word, from a status or from an error event, where `status` is null.
export class Refusal extends Error {
  constructor(status, error, retryAfterS = null) {
    super(error?.message || `the server answered with status ${status} and said no more`);
    Object.assign(this, { status, retryAfterS, param: error?.param ?? null });
  }
}

// The server said nothing that could be read.
export class Lost extends Error {}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { cache: "no-store", ...options });
  } catch (fault) {
    throw fault.name === "AbortError" ? fault : new Lost("There is no connection to the server.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new Refusal(response.status, body.error, Number.isNaN(seconds) ? null : seconds);
}

const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

export async function models(url, key) {
  const reply = await request(url, { headers: authorization(key) });
  return (await reply.json()).data;
}

// Yields the data of each event as it arrives; returns after the end mark.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Lost("The connection was lost before the picture was done.");
    const messages = (text + value).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const data = message
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trim())
        .join("\n");
      if (data === "[DONE]") return;
      // A comment, which keeps the connection open, has none.
      yield data ? JSON.parse(data) : null;
    }
  }
}

// Draws, and calls `onEvent` with previews and with the picture. Aborting `signal` closes the
// connection, and the server stops drawing.
export async function draw(url, body, key, signal, onEvent) {
  const own = new AbortController();
  const leave = () => own.abort();
  signal.addEventListener("abort", leave);
  if (signal.aborted) leave();
  let silent = false;
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      silent = true;
      own.abort();
    }, SILENCE_MS);
  };
  try {
    heard();
    const response = await request(url, {
      method: "POST",
      // The browser names a form's type itself, with its boundary.
      headers: {
        ...(body instanceof FormData ? {} : { "Content-Type": "application/json" }),
        ...authorization(key),
      },
      body: body instanceof FormData ? body : JSON.stringify(body),
      signal: own.signal,
    });
    for await (const event of events(response.body)) {
      heard();
      if (event?.type === "error") throw new Refusal(null, event.error);
      if (event) onEvent(event);
    }
  } catch (fault) {
    if (silent) throw new Lost(`The server has said nothing for ${SILENCE_MS / 1000} s.`);
    if (signal.aborted || fault instanceof Refusal || fault instanceof Lost) throw fault;
    throw new Lost("The connection was lost before the picture was done.");
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", leave);
    own.abort();
  }
}

export function pictureOf(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: `image/${event.output_format}` });
}
