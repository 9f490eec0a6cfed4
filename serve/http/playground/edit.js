// The picture that an edit starts from, and its mask: painted with a pointer or with the keyboard.

const $ = (id) => document.getElementById(id);
const canvas = $("mask");
const STEP = 1 / 32; // Of a side: how far an arrow key moves.
const SHOWN_PX = 1024; // The longest side here: as fine as what is drawn, and quick to paint on.
const OPAQUE_FROM = 128; // Of alpha, as on the server.

let picture = null; // The file.
let size = null; // Its own, in pixels.
let image = null; // The picture as it is shown.
let mask = null; // As large as that; painted where it may change.
let touched = false; // Whether the mask is another than the picture's own transparency.
let transparent = false;
let kept = [1, 1]; // The shares of width and height that aren't cut off.
let cursor = { x: 0.5, y: 0.5 };
let settled = Promise.resolve(); // When what people chose or removed before has happened.
let listen = { tell: () => {}, changed: () => {}, refused: () => {} };

const context = (of) => of.getContext("2d", { willReadFrequently: true });
const percent = (share) => `${Math.round(100 * share)} %`;

const newCanvas = ({ width, height }) =>
  Object.assign(document.createElement("canvas"), { width, height });

function drawnOn(target, source) {
  context(target).drawImage(source, 0, 0, target.width, target.height);
  return target;
}

export function setUp(listeners) {
  listen = listeners;
}

// Takes a file as the picture, and says how large it is; or says why it can't, and keeps the one
// before. What was `drawn` before, and comes back, has a mask or none, and a size of its own.
export const choose = (file, drawn = null) => next(() => read(file, drawn));
export const remove = () => next(clear);

// In turn: a large picture takes a while to read, and the last choice is the one that holds.
function next(work) {
  settled = settled.then(work, work);
  return settled;
}

async function read(file, drawn) {
  const name = file.name || "picture.png";
  let bitmap, copy, drawnMask;
  try {
    bitmap = await createImageBitmap(file);
    // What is on the disk may change before it is sent, which browsers refuse.
    copy = new File([await file.arrayBuffer()], name, { type: file.type });
    drawnMask = drawn?.mask && (await createImageBitmap(drawn.mask));
  } catch {
    showName();
    const stays = picture ? ` “${picture.name}” stays the one to start from.` : "";
    listen.refused(`This browser can't read “${name}” as a picture.${stays}`);
    return;
  }
  picture = copy;
  size = { width: bitmap.width, height: bitmap.height };
  const scale = Math.min(1, SHOWN_PX / Math.max(size.width, size.height));
  const [width, height] = [size.width, size.height].map((side) => Math.ceil(scale * side));
  image = drawnOn(newCanvas({ width, height }), bitmap);
  bitmap.close();
  mask = opposite(image);
  transparent = isPainted();
  touched = Boolean(drawnMask);
  if (touched) mask = opposite(drawnOn(newCanvas(image), drawnMask));
  Object.assign(canvas, { width, height });
  canvas.style.setProperty("--shape", width / height);
  $("masking").hidden = false;
  const words = `A picture of ${size.width} by ${size.height} pixels to start from.`;
  $("own-mask").textContent =
    transparent && !touched ? "What is transparent in this picture is painted already." : "";
  showName();
  if (!drawn) listen.changed(size.width, size.height);
  show();
  listen.tell(`${words} ${$("own-mask").textContent}`.trim());
}

// Painted where `source` is transparent.
function opposite(source) {
  const pixels = context(source).getImageData(0, 0, source.width, source.height);
  const colours = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < colours.length; i++) {
    colours[i] = pixels.data[4 * i + 3] < OPAQUE_FROM ? 0xff6c33d6 : 0; // #d6336c
  }
  const target = newCanvas(source);
  context(target).putImageData(pixels, 0, 0);
  return target;
}

// The field names the picture, however that came.
function showName() {
  const files = new DataTransfer();
  if (picture) files.items.add(picture);
  $("image").files = files.files;
}

function clear() {
  picture = mask = null;
  showName();
  $("masking").hidden = true;
}

// Says and shows what of the picture is cut off where it is drawn in another shape.
export function fitTo(width, height) {
  if (!picture || !(width && height)) return;
  const shape = width / height / (size.width / size.height);
  kept = [Math.min(1, shape), Math.min(1, 1 / shape)];
  const sides = shape < 1 ? "left and right" : "top and bottom";
  const cut = 1 - Math.min(...kept);
  $("cut").textContent =
    cut < 0.01 ? "" : `At ${width}×${height} px, ${percent(cut)} of the picture is cut off, ${sides}.`;
  show();
}

// What to send beside the text: the mask only where it says more than the picture itself.
export async function parts() {
  await settled;
  if (!picture) return {};
  const sent = touched && (transparent || isPainted());
  return { picture, mask: sent ? await maskFile() : null };
}

function isPainted() {
  const { data } = context(mask).getImageData(0, 0, mask.width, mask.height);
  for (let i = 3; i < data.length; i += 4) if (data[i] >= OPAQUE_FROM) return true;
  return false;
}

// Opaque where nothing may change; without paint nowhere.
function maskFile() {
  const file = newCanvas(size);
  if (isPainted()) context(file).fillRect(0, 0, file.width, file.height);
  context(file).globalCompositeOperation = "destination-out";
  drawnOn(file, mask);
  return new Promise((resolve) => file.toBlob(resolve, "image/png"));
}

function show() {
  const drawn = context(canvas);
  const { width, height } = canvas;
  drawn.globalAlpha = 1;
  drawn.clearRect(0, 0, width, height);
  drawn.drawImage(image, 0, 0);
  drawn.globalAlpha = 0.7;
  drawn.drawImage(mask, 0, 0);
  const [left, top] = kept.map((share) => (1 - share) / 2);
  for (const [x, y] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) {
    // What is cut off is dark.
    drawn.fillRect(x * width * (1 - left), y * height * (1 - top), width, height);
  }
  drawn.globalAlpha = 1;
  if (document.activeElement !== canvas) return;
  for (const [colour, thick] of [["#000", 3], ["#fff", 1]]) {
    drawn.beginPath();
    drawn.arc(cursor.x * width, cursor.y * height, radius(), 0, 2 * Math.PI);
    Object.assign(drawn, { strokeStyle: colour, lineWidth: (thick * width) / canvas.clientWidth });
    drawn.stroke();
  }
}

const radius = () => (Number($("brush").value) / 200) * Math.max(canvas.width, canvas.height);

function paint(from, to) {
  touched = true;
  const on = context(mask);
  on.globalCompositeOperation = $("erase").checked ? "destination-out" : "source-over";
  Object.assign(on, { strokeStyle: "#d6336c", lineWidth: 2 * radius(), lineCap: "round" });
  on.beginPath();
  on.moveTo(from.x * mask.width, from.y * mask.height);
  on.lineTo(to.x * mask.width, to.y * mask.height + 0.01);
  on.stroke();
  show();
}

const place = (event) => {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
};

canvas.onpointerdown = (event) => {
  event.preventDefault();
  if (event.button) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  cursor = place(event);
  paint(cursor, cursor);
};
canvas.onpointermove = (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  const before = cursor;
  cursor = place(event);
  paint(before, cursor);
};
canvas.onfocus = canvas.onblur = () => picture && show();
canvas.onkeydown = (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (move) {
    const far = STEP * (event.shiftKey ? 4 : 1);
    const [x, y] = [cursor.x + far * move[0], cursor.y + far * move[1]];
    cursor = { x: Math.min(1, Math.max(0, x)), y: Math.min(1, Math.max(0, y)) };
    show();
  } else if (event.key === " " || event.key === "Enter") {
    paint(cursor, cursor);
    const what = $("erase").checked ? "Erased" : "Painted";
    listen.tell(`${what} at ${percent(cursor.x)} from the left, ${percent(cursor.y)} from the top.`);
  } else return;
  event.preventDefault();
};
$("brush").oninput = show;
$("clear-mask").onclick = () => {
  touched = true;
  $("own-mask").textContent = "";
  context(mask).clearRect(0, 0, mask.width, mask.height);
  show();
  listen.tell("The mask is empty: all of the picture may change.");
};
$("save-mask").onclick = async () => {
  const url = URL.createObjectURL(await maskFile());
  Object.assign(document.createElement("a"), { href: url, download: "mask.png" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
};
$("image").onchange = () => ($("image").files.length ? take($("image").files) : showName());
$("remove-picture").onclick = () => {
  remove().then(() => listen.tell("No picture: every variant draws from nothing but noise."));
  listen.changed();
  $("image").focus();
};
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    const { files, types } = event.dataTransfer;
    // Text and links may go into fields. Anywhere else a link would replace the page, as files do.
    if (!types.includes("Files") && event.target.matches?.(":read-write")) return;
    event.preventDefault();
    if (kind === "drop" && types.some((type) => ["Files", "text/uri-list"].includes(type)))
      take(files);
  });
}
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  // What offices copy is text and a picture of it; into a field goes the text.
  const text = types.includes("text/plain") && event.target.matches("input, textarea");
  if (!files.length || text) return;
  event.preventDefault();
  take(files);
});

function take(files) {
  if ($("settings").hidden) return;
  $("edit").open = true;
  if (files.length === 1) choose(files[0]);
  else if (files.length) listen.refused(`These are ${files.length} files; one picture is needed.`);
  else listen.refused("That is no file; a picture in a file is needed.");
  $("image").scrollIntoView({ block: "nearest" });
}
