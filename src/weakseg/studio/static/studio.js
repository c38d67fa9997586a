// The review page: a list at the side, a photograph with its mask on the stage, tools below. No library, no build step.
import { both, capsule, cut, flood, nothing, paste, polygon } from "/drawing.js";

const IGNORE = 255;
const UNDO_STEPS = 60;
const $ = (id) => document.getElementById(id);
const stage = $("stage"), layers = $("layers"), ring = $("ring");
const photo = $("photo").getContext("2d"), paint = $("mask").getContext("2d");

let classes = [], photographs = [], counts = {}, filter = "all", onlyClass = 0;
let current = null; // {entry, labels, width, height}: what is on the stage
let tool = "brush", drawing = 1, held = null, peeking = false;
let view = { scale: 1, x: 0, y: 0, own: false }; // own: somebody zoomed or moved
let undone = [], done = [], base = null, stroke = null;
let saving = null, timer = 0, opened = 0, stamp = 0;
const colours = new Uint8Array(256 * 3);

// --- asking the server ---

async function ask(method, path, body, type) {
  const headers = method === "GET" ? {} : { "x-weakseg": "1", ...(type ? { "content-type": type } : {}) };
  const answer = await fetch(path, { method, headers, body });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ error: answer.statusText }));
    throw new Error(said.error);
  }
  return answer;
}

const at = (what, id) => `/api/${what}/${encodeURIComponent(id)}`;

function tell(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

const guarded = (work) => async (...given) => {
  try { return await work(...given); } catch (error) { tell(String(error.message || error), true); }
};

// --- the list ---

const listed = () => photographs.filter((p) =>
  (filter === "all" || (filter === "edited" ? p.edited : p.decision === filter)) &&
  (!onlyClass || p.shares[onlyClass] || (p.tags || []).includes(onlyClass)));

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function row(entry) {
  const item = element("li");
  item.dataset.id = entry.id;
  item.tabIndex = -1;
  const picture = element("img");
  picture.alt = "";
  picture.loading = "lazy";
  picture.src = `${at("thumb", entry.id)}?${stamp}`;
  const words = element("div", "words");
  item.append(picture, words);
  item.addEventListener("click", () => show(entry.id));
  dress(item, entry);
  return item;
}

function dress(item, entry) {
  const words = item.querySelector(".words");
  words.replaceChildren(element("div", "id", entry.id));
  const marks = element("div");
  if (entry.decision !== "open") marks.append(element("span", `mark ${entry.decision}`, entry.decision));
  if (entry.edited) marks.append(element("span", "mark edited", "edited"));
  if (marks.childNodes.length) words.append(marks);
  if (entry.doubts.length) words.append(element("div", entry.weight >= 1 ? "why grave" : "why", entry.doubts.slice(0, 2).join(", ")));
  item.classList.toggle("current", Boolean(current && current.entry.id === entry.id));
}

function renderList() {
  $("list").replaceChildren(...listed().map(row));
  renderCounts();
}

function renderCounts() {
  const all = photographs.length;
  $("counts").textContent = `${counts.accepted} accepted, ${counts.rejected} rejected, ${counts.open} open`;
  $("progress").querySelector(".accepted").style.width = `${100 * counts.accepted / all}%`;
  $("progress").querySelector(".rejected").style.width = `${100 * counts.rejected / all}%`;
}

function renew(told, picture) {
  const entry = told.photograph;
  counts = told.counts;
  photographs[photographs.findIndex((p) => p.id === entry.id)] = entry;
  if (current && current.entry.id === entry.id) { current.entry = entry; renderAbout(); }
  const item = $("list").querySelector(`[data-id="${CSS.escape(entry.id)}"]`);
  if (item) {
    dress(item, entry);
    if (picture) item.querySelector("img").src = `${at("thumb", entry.id)}?${++stamp}`;
  }
  renderCounts();
}

// --- one photograph on the stage ---

const show = guarded(async (id) => {
  await saved();
  const entry = photographs.find((p) => p.id === id);
  if (!entry) return;
  const mine = ++opened;
  tell("opening");
  const [bitmap, labels] = await Promise.all([
    ask("GET", at("photo", id)).then((a) => a.blob()).then((b) => createImageBitmap(b)),
    ask("GET", at("mask", id)).then((a) => a.arrayBuffer()).then((b) => new Uint8Array(b)),
  ]);
  if (mine !== opened) return; // another one was asked for meanwhile
  current = { entry, labels, width: entry.width, height: entry.height };
  done = []; undone = []; stroke = null;
  for (const canvas of [$("photo"), $("mask")]) { canvas.width = entry.width; canvas.height = entry.height; }
  photo.drawImage(bitmap, 0, 0, entry.width, entry.height);
  layers.style.width = `${entry.width}px`;
  layers.style.height = `${entry.height}px`;
  const own = Object.keys(entry.shares).map(Number).filter((k) => k && k !== IGNORE);
  if (!own.includes(drawing)) choose(own[0] || (entry.tags || [])[0] || 1);
  fit();
  redraw();
  renderAbout();
  renderClasses();
  for (const item of $("list").children) item.classList.toggle("current", item.dataset.id === id);
  const item = $("list").querySelector(".current");
  if (item) item.scrollIntoView({ block: "nearest" });
  location.replace(`#${encodeURIComponent(id)}`);
  tell("");
});

function renderAbout() {
  const { entry } = current;
  $("name").textContent = entry.id;
  $("doubts").textContent = entry.doubts.join(", ");
  $("accept").setAttribute("aria-pressed", entry.decision === "accepted");
  $("reject").setAttribute("aria-pressed", entry.decision === "rejected");
  $("undo").disabled = !done.length;
  $("redo").disabled = !undone.length;
  $("reset").disabled = !entry.edited;
}

// the labels of a rectangle as colours; where the neighbour differs, a white line
function redraw(rect) {
  if (!current) return;
  const { labels, width, height } = current;
  const x0 = Math.max(0, (rect ? rect.x0 : 0) - 1), y0 = Math.max(0, (rect ? rect.y0 : 0) - 1);
  const x1 = Math.min(width, (rect ? rect.x1 : width) + 1), y1 = Math.min(height, (rect ? rect.y1 : height) + 1);
  if (x1 <= x0 || y1 <= y0) return;
  const image = paint.createImageData(x1 - x0, y1 - y0), out = image.data;
  const strength = peeking ? 0 : Math.round(2.55 * $("opacity").value);
  let k = 0;
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++, k += 4) {
    const p = y * width + x, label = labels[p];
    const border = strength && ((x + 1 < width && labels[p + 1] !== label) || (y + 1 < height && labels[p + width] !== label));
    if (border) { out[k] = out[k + 1] = out[k + 2] = 255; out[k + 3] = 230; continue; }
    if (!label) continue;
    if (label === IGNORE) { // chequered, as in the report
      const grey = ((x >> 2) + (y >> 2)) & 1 ? 235 : 110;
      out[k] = out[k + 1] = out[k + 2] = grey;
    } else { out[k] = colours[3 * label]; out[k + 1] = colours[3 * label + 1]; out[k + 2] = colours[3 * label + 2]; }
    out[k + 3] = strength;
  }
  paint.putImageData(image, x0, y0);
}

// --- zoom and move ---

function place() {
  layers.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  layers.classList.toggle("large", view.scale >= 3);
}

function fit() {
  const { width, height } = current, box = stage.getBoundingClientRect(), room = 24;
  view.scale = Math.max(.02, Math.min((box.width - 2 * room) / width, (box.height - 2 * room) / height, 8));
  view.x = (box.width - view.scale * width) / 2;
  view.y = (box.height - view.scale * height) / 2;
  view.own = false;
  place();
}

function zoom(factor, x, y) {
  const scale = Math.min(40, Math.max(.02, view.scale * factor));
  view.x = x - (x - view.x) * scale / view.scale;
  view.y = y - (y - view.y) * scale / view.scale;
  view.scale = scale;
  view.own = true;
  place();
}

// --- drawing: a stroke changes labels at once and is kept as the rectangle it touched ---

const spot = (event) => {
  const box = stage.getBoundingClientRect();
  return { x: (event.clientX - box.left - view.x) / view.scale, y: (event.clientY - box.top - view.y) / view.scale };
};

function begin() { base = { ...current, labels: current.labels.slice() }; return { rect: nothing(), points: [] }; }

// keep what a change replaced, unless it changed nothing
function commit(rect) {
  const before = base;
  base = null;
  if (!before || rect.x1 <= rect.x0 || rect.y1 <= rect.y0) return;
  const old = cut(before, rect), now = cut(current, rect);
  if (old.every((v, k) => v === now[k])) return;
  done.push({ rect, old, now });
  if (done.length > UNDO_STEPS) done.shift();
  undone = [];
  changed();
}

function restore(piece, rect) { paste(current, piece, rect); redraw(rect); changed(); }
function undo() { const step = done.pop(); if (step) { undone.push(step); restore(step.old, step.rect); } }
function redo() { const step = undone.pop(); if (step) { done.push(step); restore(step.now, step.rect); } }

// --- keeping ---

function changed() {
  renderAbout();
  tell("not saved yet");
  current.dirty = true;
  clearTimeout(timer);
  timer = setTimeout(() => saved().catch(() => {}), 600);
}

async function saved() {
  clearTimeout(timer);
  if (saving) await saving;
  if (!current || !current.dirty) return;
  const it = current;
  it.dirty = false;
  saving = ask("PUT", at("mask", it.entry.id), it.labels.slice(), "application/octet-stream")
    .then((a) => a.json())
    .then((told) => { renew(told, true); if (!it.dirty) tell("saved"); })
    .catch((error) => { it.dirty = true; tell(`not saved: ${error.message}`, true); throw error; })
    .finally(() => { saving = null; });
  await saving;
}

const decide = guarded(async (decision) => {
  if (!current) return;
  await saved();
  const { entry } = current, places = listed(), k = places.findIndex((p) => p.id === entry.id);
  const next = [...places.slice(k + 1), ...places.slice(0, Math.max(0, k))].find((p) => p.decision === "open" && p.id !== entry.id);
  const wanted = entry.decision === decision ? "open" : decision;
  renew(await (await ask("PUT", at("decision", entry.id), JSON.stringify({ decision: wanted }), "application/json")).json());
  if (filter !== "all") renderList();
  if (wanted !== "open" && next) await show(next.id);
});

const refine = guarded(async () => {
  if (!current || held) return;
  await saved();
  const it = current;
  $("busy").hidden = false;
  try {
    const answer = await ask("POST", at("refine", it.entry.id), it.labels.slice(), "application/octet-stream");
    const labels = new Uint8Array(await answer.arrayBuffer());
    if (current !== it) return;
    begin();
    it.labels.set(labels);
    redraw();
    commit({ x0: 0, y0: 0, x1: it.width, y1: it.height });
  } finally { $("busy").hidden = true; }
});

const reset = guarded(async () => {
  if (!current || !current.entry.edited) return;
  clearTimeout(timer);
  if (saving) await saving;
  current.dirty = false;
  renew(await (await ask("DELETE", at("mask", current.entry.id))).json(), true);
  await show(current.entry.id);
  tell("as it was before the review");
});

function step(by) {
  const places = listed(), k = places.findIndex((p) => current && p.id === current.entry.id);
  const next = places[Math.min(places.length - 1, Math.max(0, k + by))];
  if (next && (!current || next.id !== current.entry.id)) show(next.id);
}

// --- tools ---

function choose(k) { drawing = k; renderClasses(); }

function take(name) {
  tool = name;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === name);
  stage.classList.toggle("pan", name === "pan");
  ring.hidden = true;
}

function renderClasses() {
  const here = current ? new Set([...Object.keys(current.entry.shares).map(Number), ...(current.entry.tags || [])]) : new Set();
  $("classes").replaceChildren(...classes.map((c) => {
    const button = element("button", here.has(c.id) || !c.id ? "" : "absent");
    const swatch = element("span", "swatch");
    swatch.style.background = `rgb(${c.colour.join()})`;
    button.append(swatch, element("span", "", c.name));
    if (c.id < 10) button.append(element("kbd", "", c.id));
    if (c.id === IGNORE) button.append(element("kbd", "", "U"));
    button.setAttribute("aria-pressed", c.id === drawing);
    button.addEventListener("click", () => choose(c.id));
    return button;
  }));
}

function moveRing(event) {
  const box = stage.getBoundingClientRect(), across = Math.max(3, view.scale * $("size").value);
  ring.hidden = tool !== "brush" || event.pointerType === "touch";
  const place = { left: event.clientX - box.left, top: event.clientY - box.top, width: across, height: across };
  for (const [name, pixels] of Object.entries(place)) ring.style[name] = `${pixels}px`;
}

function lassoLine(points) {
  redraw();
  paint.save();
  paint.strokeStyle = "#fff";
  paint.lineWidth = Math.max(1, 1.5 / view.scale);
  paint.beginPath();
  points.forEach((p, k) => (k ? paint.lineTo(p.x, p.y) : paint.moveTo(p.x, p.y)));
  paint.stroke();
  paint.restore();
}

stage.addEventListener("pointerdown", (event) => {
  if (!current || event.button === 2) return;
  stage.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  const p = spot(event);
  if (tool === "pan" || event.button === 1 || held === "space") { stroke = { pan: true, x: event.clientX, y: event.clientY }; event.preventDefault(); return; }
  stroke = begin();
  if (tool === "fill") {
    const x = Math.floor(p.x), y = Math.floor(p.y);
    if (x >= 0 && y >= 0 && x < current.width && y < current.height) { const rect = flood(current, x, y, drawing); redraw(rect); commit(rect); }
    stroke = null;
    return;
  }
  stroke.points.push(p);
  if (tool === "brush") dab(p, p);
});

function dab(a, b) {
  const rect = capsule(current, a, b, Math.max($("size").value / 2, .75), drawing);
  stroke.rect = both(stroke.rect, rect);
  redraw(rect);
}

stage.addEventListener("pointermove", (event) => {
  moveRing(event);
  if (!stroke || !current) return;
  if (stroke.pan) {
    view.x += event.clientX - stroke.x; view.y += event.clientY - stroke.y;
    stroke.x = event.clientX; stroke.y = event.clientY;
    view.own = true;
    return place();
  }
  for (const one of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) {
    const p = spot(one);
    if (tool === "brush") dab(stroke.points[stroke.points.length - 1], p);
    stroke.points.push(p);
  }
  if (tool === "lasso") lassoLine(stroke.points);
});

function lift() {
  if (!stroke) return;
  const it = stroke;
  stroke = null;
  if (it.pan) return;
  if (tool === "lasso" && it.points.length > 2) it.rect = polygon(current, it.points, drawing);
  if (tool === "lasso") redraw();
  commit(it.rect);
}
stage.addEventListener("pointerup", lift);
stage.addEventListener("pointercancel", lift);
stage.addEventListener("pointerleave", () => { ring.hidden = true; });
stage.addEventListener("dblclick", () => { if (current && tool === "pan") fit(); });
stage.addEventListener("contextmenu", (event) => event.preventDefault());
stage.addEventListener("wheel", (event) => {
  if (!current) return;
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? .01 : .0015)), event.clientX - box.left, event.clientY - box.top);
  moveRing(event);
}, { passive: false });

// --- keys and buttons ---

const KEYS = {
  a: () => decide("accepted"), x: () => decide("rejected"), o: () => decide("open"),
  arrowdown: () => step(1), j: () => step(1), arrowup: () => step(-1), k: () => step(-1),
  b: () => take("brush"), l: () => take("lasso"), f: () => take("fill"), h: () => take("pan"), u: () => choose(IGNORE),
  r: refine, z: undo, y: redo,
  "[": () => { $("size").value = Math.round($("size").value / 1.3) - 1; }, "]": () => { $("size").value = Math.round($("size").value * 1.3) + 1; },
};

addEventListener("keydown", (event) => {
  if (event.target.matches("select, input") && !event.target.matches("[type=range]")) return;
  if (event.altKey || (event.ctrlKey || event.metaKey) && !"zy".includes(event.key.toLowerCase())) return;
  const key = event.key.toLowerCase();
  if (key === " ") { held = "space"; stage.classList.add("pan"); event.preventDefault(); return; }
  if (key === "v" && !event.repeat) { peeking = true; redraw(); return; }
  if (stroke) return;
  if (/^[0-9]$/.test(key) && classes.some((c) => c.id === Number(key))) return choose(Number(key));
  const act = key === "z" && event.shiftKey ? redo : KEYS[key];
  if (act) { event.preventDefault(); act(); }
});

addEventListener("keyup", (event) => {
  if (event.key === " ") { held = null; stage.classList.toggle("pan", tool === "pan"); }
  if (event.key.toLowerCase() === "v") { peeking = false; redraw(); }
});

for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => take(button.dataset.tool));
for (const button of document.querySelectorAll("[data-filter]")) button.addEventListener("click", () => {
  filter = button.dataset.filter;
  for (const other of document.querySelectorAll("[data-filter]")) other.setAttribute("aria-pressed", other === button);
  renderList();
});
$("class-filter").addEventListener("change", (event) => { onlyClass = Number(event.target.value); event.target.blur(); renderList(); });
$("accept").addEventListener("click", () => decide("accepted"));
$("reject").addEventListener("click", () => decide("rejected"));
$("refine").addEventListener("click", refine);
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
$("reset").addEventListener("click", reset);
$("opacity").addEventListener("input", () => redraw());
new ResizeObserver(() => { if (current && !view.own) fit(); }).observe(stage);
addEventListener("beforeunload", (event) => { if (current && current.dirty) event.preventDefault(); });

guarded(async () => {
  const told = await (await ask("GET", "/api/review")).json();
  ({ classes, photographs, counts } = told);
  for (const c of classes) colours.set(c.colour, 3 * c.id);
  $("class-filter").replaceChildren(new Option("every class", 0), ...classes.filter((c) => c.id && c.id !== IGNORE).map((c) => new Option(c.name, c.id)));
  renderList();
  renderClasses();
  const asked = decodeURIComponent(location.hash.slice(1));
  const first = photographs.find((p) => p.id === asked) || photographs.find((p) => p.decision === "open") || photographs[0];
  await show(first.id);
})();
