// The page: reads the form, draws with every variant at once, and shows what comes.

import { curl } from "./curl.js";
import * as edit from "./edit.js";
import * as history from "./history.js";
import { Lost, Refusal, draw, models as askModels, pictureOf } from "./stream.js";

const $ = (id) => document.getElementById(id);
const MODELS_URL = new URL("v1/models", document.baseURI).href; // Also owns defaults and bounds.
const IMAGES_URL = new URL("v1/images/generations", document.baseURI).href;
const EDITS_URL = new URL("v1/images/edits", document.baseURI).href;
const KEY = "distilled-sd-serve.key";
const form = $("settings");

let models = [];
let key = sessionStorage.getItem(KEY);
let shown = null; // The run whose pictures are on the page.
let cards = new Map(); // Its cards, by variant.
const drawing = new Map(); // What is under way: result to run.

const seconds = (s) => `${s.toFixed(s < 10 ? 2 : 1)} s`;
const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);
const pixels = (size) => `${size.replace("x", "×")} px`;

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

// Tells who can't see the cards change.
function tell(text) {
  $("log").append(element("p", text));
  while ($("log").childElementCount > 30) $("log").firstElementChild.remove();
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// --- The form -------------------------------------------------------------------------------

function limit(id, [low, high], step) {
  const input = $(id);
  if (input.type === "number") Object.assign(input, { min: low, max: high });
  else input.maxLength = high;
  if (step) input.step = step;
}

const two = (size) => size.split("x");

function fill({ picture, mask, ...settings }) {
  const [width, height] = two(settings.size);
  for (const [name, value] of Object.entries({ ...settings, width, height })) {
    if (name !== "size") form.elements[name].value = value;
  }
  $("strength-value").value = $("strength").value;
  showCut();
  clearComplaints();
}

function settings() {
  const value = (name) => form.elements[name].value;
  return {
    prompt: value("prompt"),
    negative_prompt: value("negative_prompt"),
    seed: Number(value("seed")),
    num_inference_steps: Number(value("num_inference_steps")),
    guidance_scale: Number(value("guidance_scale")),
    size: `${Number(value("width"))}x${Number(value("height"))}`,
    strength: Number(value("strength")),
  };
}

// Sets the size to the picture's; to its shape in the default's area where it is larger than that.
// The server has the same rule, in `_default_size`, for requests without a size.
function fitSize(width, height) {
  const [min, max, step] = ["min", "max", "step"].map((name) => Number($("size")[name]));
  const [side] = two(models[0].defaults.size).map(Number);
  const most = Math.min(1, max / Math.max(width, height), side / Math.sqrt(width * height));
  const scale = Math.max(most, min / Math.min(width, height));
  const sides = [width, height].map((px) => Math.max(min, Math.round((scale * px) / step) * step));
  // A little over is rounding; more is a shape with one side too long.
  if (Math.max(...sides) > max + step) {
    complain(
      "size",
      `No size from ${min} to ${max} px a side has the shape of this picture, ${width}×${height} ` +
        "px. Choose a size: what it doesn't cover is cut off.",
    );
  } else [$("size").value, $("height").value] = sides.map((px) => Math.min(px, max));
  showCut();
}

const showCut = () => edit.fitTo(Number($("size").value), Number($("height").value));

function randomSeed() {
  const [low, high] = models[0].bounds.seed;
  return low + (crypto.getRandomValues(new Uint32Array(1))[0] % (high - low + 1));
}

function prepareForm() {
  const { defaults, size_step_px } = models[0];
  for (const name of ["prompt", "negative_prompt", "seed", "num_inference_steps", "guidance_scale"]) {
    const bounds = models.map((model) => model.bounds[name]);
    // The widest: a variant whose bounds are narrower draws with its own default.
    const low = Math.min(...bounds.map(([least]) => least));
    limit(name, [low, Math.max(...bounds.map(([, most]) => most))]);
  }
  // Every variant has to be able to draw it.
  const low = Math.max(...models.map((model) => model.size_bounds_px[0]));
  const high = Math.min(...models.map((model) => model.size_bounds_px[1]));
  for (const id of ["size", "height"]) limit(id, [low, high], size_step_px);
  const { num_inference_steps, guidance_scale, size } = defaults;
  fill({ num_inference_steps, guidance_scale, size, seed: randomSeed() });
  const random = models.some((model) => model.random_weights);
  $("family").textContent =
    `Served here: ${models[0].family}${random ? ", with random weights, so pictures are noise" : ""}.`;
  form.hidden = false;
}

// `n` is a bound on the whole work, of which the page has the steps and the size.
const fieldOf = (param) => (param === "n" ? $("num_inference_steps") : $(param ?? ""));

function complain(param, message) {
  const input = fieldOf(param);
  if (!form.contains(input) || input.closest("[hidden]")) return false;
  if ($("edit").contains(input)) $("edit").open = true;
  const id = `${input.id}-error`;
  // Every variant refuses for the same reason: it is said once.
  if ($(id)) return true;
  input.closest(".field").append(element("p", message, { id, className: "error" }));
  input.setAttribute("aria-invalid", "true");
  input.dataset.hint = input.getAttribute("aria-describedby") ?? "";
  input.setAttribute("aria-describedby", `${input.dataset.hint} ${id}`.trim());
  input.focus();
  return true;
}

function clearComplaints() {
  for (const error of form.querySelectorAll(".error")) error.remove();
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    if (input.dataset.hint) input.setAttribute("aria-describedby", input.dataset.hint);
    else input.removeAttribute("aria-describedby");
  }
}

// --- Drawing --------------------------------------------------------------------------------

// Steps and guidance that a few-step variant doesn't allow, or that nobody has changed, are left out,
// so that it draws with its own.
function bodyOf(id, { negative_prompt, strength, picture, mask, ...rest }) {
  const model = models.find((one) => one.id === id);
  const sent = ([name, value]) => {
    if (!["num_inference_steps", "guidance_scale"].includes(name) || !model) return true;
    const unchanged = value === models[0].defaults[name] && value !== model.defaults[name];
    return value <= model.bounds[name][1] && !unchanged;
  };
  return {
    model: id,
    ...Object.fromEntries(Object.entries(rest).filter(sent)),
    ...(negative_prompt && { negative_prompt }),
    ...(picture && { strength }),
  };
}

const urlOf = ({ picture }) => (picture ? EDITS_URL : IMAGES_URL);

// An edit is sent as a form, everything else as JSON.
function contentOf(body, { picture, mask }) {
  if (!picture) return body;
  const content = new FormData();
  for (const [name, value] of Object.entries(body)) content.append(name, value);
  content.append("image", picture, "picture");
  if (mask) content.append("mask", mask, "mask.png");
  return content;
}

const stepsOf = (model, settings) =>
  bodyOf(model.id, settings).num_inference_steps ?? model.defaults.num_inference_steps;

const mostPreviews = () => models[0]?.bounds.partial_images[1] ?? 0;

const streamed = (body) => ({ ...body, stream: true, partial_images: mostPreviews() });

let beginning = false;

async function begin() {
  beginning = true;
  // A picture that is still being read sets the size.
  const parts = await edit.parts().finally(() => (beginning = false));
  const chosen = { ...settings(), ...parts };
  const run = {
    id: Date.now(),
    settings: chosen,
    inTurn: $("in-turn").checked,
    results: models.map((model) => ({
      model: model.id,
      about: model.description,
      steps: stepsOf(model, chosen),
    })),
  };
  show(run);
  tell(`Drawing with ${run.results.length} variants, seed ${run.settings.seed}.`);
  drawAll(run, run.results);
  // On a narrow screen the pictures come below the form.
  if ($("cards").getBoundingClientRect().top > innerHeight / 2) $("pictures-title").scrollIntoView();
}

async function drawAll(run, results) {
  clearComplaints();
  trouble("");
  run.stop = new AbortController();
  for (const result of results) {
    Object.assign(result, { state: "waiting", previews: 0, picture: null, problem: null, tryAt: null });
    drawing.set(result, run);
    refresh(run, result);
  }
  const begun = [];
  for (const result of results) {
    begun.push(drawOne(run, result, run.stop.signal));
    if (run.inTurn) await begun.at(-1);
  }
  await Promise.all(begun);
}

async function drawOne(run, result, signal) {
  const beganAt = performance.now();
  const onEvent = (event) => {
    if (event.type.endsWith(".partial_image")) {
      result.state = "drawing";
      result.previews += 1;
      tell(`${result.model}: preview ${result.previews}.`);
    } else if (event.type.endsWith(".completed")) {
      const { timings, warnings, size } = event;
      const total_s = (performance.now() - beganAt) / 1000;
      Object.assign(result, { state: "done", timings, warnings, size, total_s });
      result.picture = pictureOf(event);
      tell([`${result.model}: done in ${seconds(total_s)}.`, ...warnings].join(" "));
    } else return;
    look(result, result.picture ?? pictureOf(event));
    refresh(run, result);
  };
  try {
    const body = streamed(bodyOf(result.model, run.settings));
    await draw(urlOf(run.settings), contentOf(body, run.settings), key, signal, onEvent);
    if (!result.picture) throw new Lost("The server ended the stream without a picture.");
  } catch (fault) {
    if (signal.aborted) Object.assign(result, { state: "stopped", problem: "Stopped." });
    else fail(result, fault);
    tell(`${result.model}: ${result.problem}`);
  } finally {
    drawing.delete(result);
    refresh(run, result);
  }
  if (result.picture) await remember(run);
}

function fail(result, fault) {
  result.state = "failed";
  result.problem = fault.message;
  if (!(fault instanceof Refusal)) {
    // A fault of the page itself must not look like the server's.
    if (!(fault instanceof Lost)) throw fault;
  } else if (fault.status === 401) {
    result.state = "locked";
    result.problem = "Not drawn: the server asks for an API key.";
    askForKey();
  } else if (fault.status === 429) {
    result.problem = `The server is too busy. ${fault.message}`;
  } else if (fault.status === null) {
    result.problem = `The server broke off. ${fault.message}`;
  } else if (fault.status >= 500) {
    result.problem = `The server failed. ${fault.message}`;
  } else {
    result.state = "refused";
    if (!complain(fault.param, fault.message)) trouble(fault.message);
  }
  if (fault.retryAfterS) result.tryAt = Date.now() + 1000 * fault.retryAfterS;
}

function askForKey() {
  trouble(key ? "The server doesn't accept this API key." : "This server asks for an API key.");
  $("key-form").hidden = false;
  $("key").focus();
}

// The picture to show; what was shown before is given back to the browser.
function look(result, blob) {
  if (result.url) URL.revokeObjectURL(result.url);
  result.url = URL.createObjectURL(blob);
}

// --- Showing --------------------------------------------------------------------------------

function show(run) {
  for (const result of shown?.results ?? []) {
    if (!run.results.includes(result)) URL.revokeObjectURL(result.url);
  }
  shown = run;
  cards = new Map();
  const [width, height] = two(run.settings.size);
  for (const result of run.results) {
    const card = $("card").content.firstElementChild.cloneNode(true);
    cards.set(result.model, card);
    card.dataset.model = result.model;
    card.querySelector("h3").textContent = result.model;
    card.querySelector("h3").tabIndex = -1;
    card.querySelector(".about").textContent = result.about;
    card.querySelector(".frame").style.aspectRatio = `${width} / ${height}`;
    card.querySelector(".retry").onclick = () => {
      card.querySelector("h3").focus();
      drawAll(run, [result]);
    };
    refresh(run, result);
  }
  $("cards").replaceChildren(...cards.values());
  $("shown").textContent =
    `“${run.settings.prompt}”, seed ${run.settings.seed}. Totals are from click to picture.`;
  $("commands").hidden = false;
  choose($("which"), run.results.map((result) => result.model), 0);
  showCommands();
}

const STATES = { waiting: "Waiting for the server …", drawing: "Drawing …", done: "Done" };

function refresh(run, result) {
  $("stop").hidden = drawing.size === 0;
  $("draw").setAttribute("aria-disabled", String(drawing.size > 0));
  if (run !== shown) return;
  const card = cards.get(result.model);
  const part = (selector) => card.querySelector(selector);
  const underWay = drawing.has(result);
  Object.assign(card.dataset, { state: result.state ?? "waiting", previews: result.previews ?? 0 });
  card.setAttribute("aria-busy", String(underWay));
  const wait_s = result.tryAt ? Math.ceil((result.tryAt - Date.now()) / 1000) : 0;
  const wait = wait_s > 0 ? ` You can try again in ${wait_s} s.` : "";
  const problem = result.problem && sentence(result.problem) + wait;
  part(".state").textContent = problem ?? STATES[result.state] ?? "";
  part("progress").hidden = !underWay;
  // The previews and the picture itself are as many equal parts of the way.
  part("progress").value = (result.previews ?? 0) / (mostPreviews() + 1);
  part("progress").setAttribute("aria-label", `${result.model}, how far`);
  const retries = !underWay && ["failed", "stopped"].includes(result.state);
  part(".retry").hidden = !retries || wait_s > 0;
  part(".retry").setAttribute("aria-label", `Try ${result.model} again`);

  const image = part("img");
  image.hidden = !result.url;
  if (result.url && image.src !== result.url) image.src = result.url;
  const what = result.picture ? "" : "Preview of ";
  image.alt = `${what}“${run.settings.prompt}”, drawn by ${result.model}`;
  part("dl").hidden = part(".save").hidden = !result.picture;
  if (result.picture) {
    const { queue_s, denoise_s, decode_s } = result.timings;
    const facts = {
      Queue: seconds(queue_s),
      Denoise: seconds(denoise_s),
      Decode: seconds(decode_s),
      Total: seconds(result.total_s),
      ...(result.steps && { Steps: result.steps }),
      Size: pixels(result.size),
      File: kilobytes(result.picture.size),
    };
    part("dl").replaceChildren(
      ...Object.entries(facts).flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
    );
    const extension = result.picture.type.split("/")[1];
    Object.assign(part(".save"), {
      href: result.url,
      download: `${result.model}-${run.settings.seed}.${extension}`,
    });
    part(".save").setAttribute("aria-label", `Save the picture of ${result.model}`);
  }
  const warnings = (result.picture && result.warnings) || [];
  part(".warnings").hidden = !warnings.length;
  part(".warnings").replaceChildren(...warnings.map((warning) => element("li", warning)));
  showCost();
  showComparison();
}

// Counts the waits down; says once when one is over.
setInterval(() => {
  for (const result of shown?.results ?? []) {
    if (!result.tryAt) continue;
    const over = result.tryAt <= Date.now();
    if (over) result.tryAt = null;
    refresh(shown, result);
    if (over) tell(`${result.model}: you can try again now.`);
  }
}, 500);

const finished = () => shown.results.filter((result) => result.picture);

function showCost() {
  const costs = finished().map(({ model, timings }) => [
    model,
    timings.denoise_s + timings.decode_s,
  ]);
  const slowest_s = Math.max(...costs.map(([, cost_s]) => cost_s));
  $("cost").hidden = costs.length < 2 || slowest_s === 0;
  if ($("cost").hidden) return;
  $("fair").textContent = shown.inTurn
    ? "drew in turn"
    : "drew at the same time and may have shared a device";
  $("bars").replaceChildren(
    ...costs.map(([model, cost_s]) => {
      const percent = Math.round((100 * cost_s) / slowest_s);
      const bar = element("i", "");
      bar.style.width = `${percent}%`;
      const item = element("li", "");
      item.append(element("span", model), element("span", `${percent} % (${seconds(cost_s)})`), bar);
      return item;
    }),
  );
}

// Offers `names`; keeps what a person chose, as long as it is among them.
function choose(select, names, preferred) {
  const before = select.dataset.chosen;
  if ([...select.options].map((option) => option.value).join() === names.join()) return;
  select.replaceChildren(...names.map((name) => element("option", name)));
  select.value = names.includes(before) ? before : names.at(preferred);
}

function showComparison() {
  const results = finished();
  $("compare").hidden = results.length < 2;
  if ($("compare").hidden) return;
  const names = results.map((result) => result.model);
  choose($("left"), names, 0);
  choose($("right"), names, -1);
  if ($("left").value === $("right").value) {
    $("right").value = names.findLast((name) => name !== $("left").value);
  }
  for (const side of ["left", "right"]) {
    const result = results.find((one) => one.model === $(side).value);
    const image = $(`${side}-picture`);
    if (image.src !== result.url) image.src = result.url;
    image.alt = `${side}: ${result.model}`;
  }
  const [width, height] = two(shown.settings.size);
  $("stage").style.aspectRatio = `${width} / ${height}`;
  divide();
}

function divide() {
  const { value } = $("split");
  $("stage").style.setProperty("--split", `${value}%`);
  $("split").setAttribute(
    "aria-valuetext",
    `${$("left").value} to ${value} %, then ${$("right").value}`,
  );
}

function showCommands() {
  const body = bodyOf($("which").value, shown.settings);
  const withKey = Boolean(key);
  const { picture, mask } = shown.settings;
  const files = {
    ...(picture && { image: picture.name ?? "picture.png" }),
    ...(mask && { mask: "mask.png" }),
  };
  const url = urlOf(shown.settings);
  $("sent").textContent = curl(url, streamed(body), { withKey, flags: ["-N"], files });
  const file = `${body.model}-${body.seed}.png`;
  $("saved").textContent = curl(url, body, {
    withKey,
    files,
    flags: ["-H 'Accept: image/png'", "-o", file],
  });
  $("key-note").hidden = !withKey;
  $("files-note").hidden = !picture;
  $("copied").textContent = "";
}

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    $("copied").textContent = "Copied.";
  } catch {
    // Browsers give pages a clipboard only over https or on this machine.
    getSelection().selectAllChildren(source);
    $("copied").textContent = "This browser doesn't let the page copy. It is selected: copy it.";
  }
}

// --- History --------------------------------------------------------------------------------

let thumbnails = [];
const reason = (fault) => fault?.message || fault?.name || "no reason given";

async function remember(run) {
  const results = run.results
    .filter((result) => result.picture)
    .map(({ model, about, steps, picture, timings, warnings, size, total_s }) => ({
      model, about, steps, picture, timings, warnings, size, total_s,
    }));
  let lost = "";
  try {
    const { id, settings, inTurn } = run;
    await history.put({ id, settings, inTurn, results });
  } catch (fault) {
    lost =
      `The last pictures are not kept: this browser doesn't store them (${reason(fault)}). ` +
      "Private windows often don't, and a full disk can't. ";
  }
  await listHistory(lost);
}

async function listHistory(lost = "") {
  let runs;
  try {
    runs = await history.all();
  } catch (fault) {
    $("history-hint").textContent =
      `Nothing is kept: this browser opens no database for this page (${reason(fault)}).`;
    return;
  }
  $("history-hint").textContent =
    lost ||
    `${runs.length ? "" : "Empty. "}The newest ${history.LIMIT} are kept, in this browser only.`;
  $("clear").hidden = !runs.length;
  const focused = document.activeElement?.dataset.run;
  thumbnails.forEach(URL.revokeObjectURL);
  thumbnails = runs.map((run) => URL.createObjectURL(run.results[0].picture));
  $("history").replaceChildren(
    ...runs.map((run, index) => {
      const { prompt, seed, num_inference_steps, size } = run.settings;
      const text = element("span", prompt);
      const when = new Date(run.id).toLocaleString();
      text.append(
        element(
          "small",
          `seed ${seed}, ${num_inference_steps} steps, ${pixels(size)}, ` +
            `${run.settings.picture ? "from a picture, " : ""}${when}`,
        ),
      );
      const button = element("button", "", { type: "button" });
      button.dataset.run = run.id;
      button.append(Object.assign(new Image(), { src: thumbnails[index], alt: "" }), text);
      button.onclick = () => restore(run);
      const item = element("li", "");
      item.append(button);
      return item;
    }),
  );
  if (focused) $("history").querySelector(`[data-run="${focused}"]`)?.focus();
}

async function restore(run) {
  const { picture, mask } = run.settings;
  $("edit").open = Boolean(picture);
  edit.remove();
  fill(run.settings);
  if (picture) edit.choose(picture, { mask }).then(showCut);
  for (const result of run.results) {
    if (!result.url) look(result, result.picture);
    result.state = "done";
  }
  show(run);
  tell(`Settings and pictures of “${run.settings.prompt}” are back.`);
}

// --- What people do -------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (drawing.size === 0 && !beginning) begin();
});
form.addEventListener("input", clearComplaints);
$("size").oninput = $("height").oninput = showCut;
$("strength").oninput = () => ($("strength-value").value = $("strength").value);
edit.setUp({
  tell,
  changed: (width, height) => {
    clearComplaints();
    if (width) fitSize(width, height);
  },
  refused: (words) => {
    clearComplaints();
    complain("image", words);
    tell(words);
  },
});
$("random").onclick = () => {
  $("seed").value = randomSeed();
  tell(`Seed ${$("seed").value}.`);
};
$("stop").onclick = () => {
  for (const run of new Set(drawing.values())) run.stop.abort();
  $("draw").focus();
};
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  sessionStorage.setItem(KEY, key);
  $("key").value = "";
  $("key-form").hidden = true;
  trouble("");
  if (!models.length) return load();
  $("draw").focus();
  showCommands();
  return drawAll(shown, shown.results.filter((result) => result.state === "locked"));
});
for (const id of ["left", "right", "which"]) {
  $(id).onchange = () => {
    $(id).dataset.chosen = $(id).value;
    if (id === "which") showCommands();
    else showComparison();
  };
}
$("split").oninput = divide;
$("stage").onpointerdown = $("stage").onpointermove = (event) => {
  if (!event.buttons) return;
  event.preventDefault();
  const { left, width } = $("stage").getBoundingClientRect();
  $("split").value = (100 * (event.clientX - left)) / width;
  divide();
};
for (const button of document.querySelectorAll("[data-copies]")) {
  button.onclick = () => copy($(button.dataset.copies));
}
$("clear").onclick = async () => {
  try {
    await history.clear();
    tell("The history is empty.");
  } catch (fault) {
    tell(`The history can't be cleared: ${reason(fault)}.`);
  }
  await listHistory();
  $("draw").focus();
};

async function load() {
  $("loading").hidden = false;
  try {
    models = await askModels(MODELS_URL, key);
    prepareForm();
  } catch (fault) {
    if (fault instanceof Refusal && fault.status === 401) askForKey();
    else if (fault instanceof Refusal || fault instanceof Lost)
      trouble(`${fault.message} Reload the page to try again.`);
    else throw fault;
  } finally {
    $("loading").hidden = true;
  }
}

await Promise.all([load(), listHistory()]);
