// The picture that an edit starts from, and its mask: painted with a pointer or with the keyboard.

const $ = (id) => document.getElementById(id);
const canvas = $("mask");
const STEP = 1 / 32; // Of a side: how far an arrow key moves.

let picture = null; // The file.
let bitmap = null;
let mask = null; // As large as the picture; painted where that may change.
let cursor = { x: 0.5, y: 0.5 };
let listen = { tell: () => {}, changed: () => {}, refused: () => {} };

const context = (of) => of.getContext("2d", { willReadFrequently: true });
const percent = (share) => `${Math.round(100 * share)} %`;

function newCanvas() {
  const { width, height } = bitmap;
  return Object.assign(document.createElement("canvas"), { width, height });
}

export function setUp(listeners) {
  listen = listeners;
}

// Takes a file as the picture, and says how large it is; or says why it can't.
export async function choose(file, { keptMask = null } = {}) {
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    listen.refused("This browser can't read that file as a picture.");
    return;
  }
  picture = file;
  mask = newCanvas();
  if (keptMask) {
    // Opaque where nothing may change.
    const kept = await createImageBitmap(keptMask);
    context(mask).fillRect(0, 0, mask.width, mask.height);
    context(mask).globalCompositeOperation = "destination-out";
    context(mask).drawImage(kept, 0, 0);
  }
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  $("masking").hidden = false;
  show();
  listen.changed(bitmap.width, bitmap.height);
  listen.tell(`A picture of ${bitmap.width} by ${bitmap.height} pixels to start from.`);
}

export function remove() {
  picture = bitmap = mask = null;
  $("image").value = "";
  $("masking").hidden = true;
}

// What to send beside the text; the mask only where something is painted.
export async function parts() {
  if (!picture) return {};
  return { picture, mask: isPainted() ? await maskFile() : null };
}

function isPainted() {
  const { data } = context(mask).getImageData(0, 0, mask.width, mask.height);
  // Every fourth is an alpha; what the server takes for transparent.
  return data.some((value, index) => index % 4 === 3 && value > 127);
}

function maskFile() {
  const file = newCanvas();
  context(file).fillRect(0, 0, file.width, file.height);
  context(file).globalCompositeOperation = "destination-out";
  context(file).drawImage(mask, 0, 0);
  return new Promise((resolve) => file.toBlob(resolve, "image/png"));
}

function show() {
  const drawn = context(canvas);
  drawn.globalAlpha = 1;
  drawn.clearRect(0, 0, canvas.width, canvas.height);
  drawn.drawImage(bitmap, 0, 0);
  drawn.globalAlpha = 0.6;
  drawn.drawImage(mask, 0, 0);
  drawn.globalAlpha = 1;
  if (document.activeElement !== canvas) return;
  for (const [colour, width] of [["#000", 3], ["#fff", 1]]) {
    drawn.beginPath();
    drawn.arc(cursor.x * canvas.width, cursor.y * canvas.height, radius(), 0, 2 * Math.PI);
    Object.assign(drawn, { strokeStyle: colour, lineWidth: (width * canvas.width) / 300 });
    drawn.stroke();
  }
}

const radius = () => (Number($("brush").value) / 200) * Math.max(canvas.width, canvas.height);

function paint(from, to) {
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
canvas.onfocus = canvas.onblur = () => bitmap && show();
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
$("brush").oninput = () => bitmap && show();
$("clear-mask").onclick = () => {
  context(mask).clearRect(0, 0, mask.width, mask.height);
  show();
  listen.tell("The mask is empty: all of the picture may change.");
};
$("save-mask").onclick = async () => {
  const url = URL.createObjectURL(await maskFile());
  Object.assign(document.createElement("a"), { href: url, download: "mask.png" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
};
$("image").onchange = () => $("image").files[0] && choose($("image").files[0]);
$("remove-picture").onclick = () => {
  remove();
  $("image").focus();
  listen.tell("No picture: every variant draws from nothing but noise.");
};
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData ?? { files: [], types: [] };
  // What offices copy is text and a picture of it; into a field goes the text.
  const text = types.includes("text/plain") && event.target.matches("input, textarea");
  if (files.length && !text) take(files);
});

function take([file]) {
  $("edit").open = true;
  choose(file);
}
