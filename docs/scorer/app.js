// The page: a queue of photographs, their cards, and one of them in detail. worker.js decodes and scores.
import {colourLimit, paint, relative} from "./colours.js";

const byId = id => document.getElementById(id);
const entries = [];
let count = 0; // of all photographs so far, also of those that were cleared
let ready = false;
let busy = null; // the entry being scored
let shown = null; // the entry in the dialog
let limit = 1;
let ignored = 0; // non-image files in folders

byId("state").textContent = "Loading the model\u2026";
const model = await fetch(new URL("model.json", import.meta.url)).then(response => {
  if (!response.ok) throw new Error(`the server answers ${response.status}`);
  return response.json();
}).catch(error => {
  unusable(`model.json: ${error.message}`);
  throw error;
});
const worker = new Worker(new URL("worker.js", import.meta.url), {type: "module"});
worker.onerror = event => unusable(event.message || "the worker cannot be started");
worker.onmessage = ({data}) => {
  if (data.type === "loading") byId("loading").value = data.fraction;
  else if (data.type === "ready") start(data.threads);
  else if (data.type === "unusable") unusable(data.error);
  else if (data.type === "detail") showDetail(data);
  else if (data.type === "no detail") showMissing(data);
  else finish(data);
};

function start(threads) {
  ready = true;
  byId("loading").hidden = true;
  byId("state").textContent = `Ready (${threads === 1 ? "one thread" : `${threads} threads`}). Nothing is uploaded.`;
  next();
}

function unusable(error) {
  byId("loading").hidden = true;
  byId("state").textContent = `The model cannot be loaded: ${error}`;
}

// Files: chosen, dropped, or in chosen or dropped folders
const isHidden = path => path.split("/").some(part => /^(\.|@eaDir|\$RECYCLE\.BIN|__MACOSX|uiqa_report_)/.test(part));
const isPicture = file => file.type.startsWith("image/") && !/gif|svg|icon/.test(file.type);
const byName = (a, b) => a.name.localeCompare(b.name, undefined, {numeric: true});

async function filesIn(entry) {
  const name = entry.fullPath.slice(1);
  const files = [];
  try {
    if (entry.isFile) return [{file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name}];
    const reader = entry.createReader();
    for (;;) { // a reader returns at most a hundred entries at a time
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return files;
      for (const child of part) files.push(...await filesIn(child));
    }
  } catch (error) {
    return [...files, {name, error: `it cannot be read: ${error.message}`}];
  }
}

function addFolder(files) { // as predict.py does: the pictures in it, by name
  const visible = files.filter(({name}) => !isHidden(name));
  const pictures = visible.filter(({file}) => !file || isPicture(file));
  ignored += visible.length - pictures.length;
  add(pictures.sort(byName));
}

function add(files) {
  for (const {file, name, error} of files) entries.push({id: count++, file, name, error, state: error ? "failed" : "waiting"});
  render();
  next();
}

byId("files").addEventListener("change", event => {
  add([...event.target.files].map(file => ({file, name: file.name})));
  event.target.value = "";
});
byId("folder").addEventListener("change", event => {
  addFolder([...event.target.files].map(file => ({file, name: file.webkitRelativePath})));
  event.target.value = "";
});
addEventListener("dragover", event => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", event => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", async event => {
  event.preventDefault();
  document.body.classList.remove("over");
  const items = [...event.dataTransfer.items].filter(item => item.kind === "file");
  const dropped = items.map(item => ({entry: item.webkitGetAsEntry(), file: item.getAsFile()}));
  const isFolder = ({entry}) => Boolean(entry) && entry.isDirectory;
  add(dropped.filter(item => !isFolder(item)).map(({file}) => ({file, name: file.name})));
  for (const {entry} of dropped.filter(isFolder)) addFolder(await filesIn(entry));
});

// The queue
function next() {
  if (!ready || busy) return;
  busy = entries.find(entry => entry.state === "waiting") || null;
  if (!busy) return;
  busy.state = "scoring";
  updateCard(busy);
  worker.postMessage({type: "score", id: busy.id, file: busy.file, side: model.side});
}

function finish(data) {
  const entry = entries.find(candidate => candidate.id === data.id); // none if it was cleared
  busy = null;
  if (entry) {
    if (data.type === "failed") Object.assign(entry, {state: "failed", error: data.error});
    else Object.assign(entry, data, {state: "scored", thumbnail: URL.createObjectURL(data.thumbnail)});
    const values = entries.filter(e => e.maps).slice(-200).flatMap(e => names(e).flatMap(n => relative(e.maps[n], mean(n))));
    const newLimit = colourLimit(values); // every change draws all maps again
    if (Math.abs(newLimit - limit) > 0.05 * limit || !entries.some(e => e.state === "waiting")) limit = newLimit;
    render();
  }
  next();
}

const names = entry => Object.keys(entry.maps);
const mean = name => model.branch_means[name];
const quality = entry => entry.quality ?? entry.score;
const number = (value, digits = 3) => value.toFixed(digits);
const points = (entry, name) => entry.maps[name].points.reduce((sum, p) => sum + p, 0) / entry.maps[name].points.length;

// Cards
const orders = {
  order: (a, b) => a.id - b.id,
  worst: (a, b) => quality(a) - quality(b) || a.id - b.id,
  best: (a, b) => quality(b) - quality(a) || a.id - b.id,
  name: (a, b) => byName(a, b) || a.id - b.id,
};
const withoutMarks = name => name.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase(); // accents do not matter

function visible() {
  const wanted = withoutMarks(byId("search").value.trim());
  const matching = entries.filter(entry => entry.state !== "failed" && withoutMarks(entry.name).includes(wanted));
  const scored = matching.filter(entry => entry.state === "scored").sort(orders[byId("sort").value]);
  return [...scored, ...matching.filter(entry => entry.state !== "scored")];
}

let planned = false;
function render() { // at most once a frame, however many photographs finish
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    const failed = entries.filter(entry => entry.state === "failed");
    const done = entries.filter(entry => entry.state === "scored").length + failed.length;
    byId("results").hidden = entries.length + ignored === 0;
    byId("queue").hidden = done === entries.length;
    byId("queue").value = done / Math.max(1, entries.length);
    const shownEntries = visible();
    const more = [[failed.length, "failed"], [ignored, "other files ignored"]].filter(([files]) => files);
    byId("count").textContent = [`${done} of ${entries.length} done`, ...more.map(part => part.join(" "))].join(", ");
    byId("none").hidden = shownEntries.length > 0 || done - failed.length === 0;
    byId("failures").hidden = failed.length === 0;
    if (byId("failures").childElementCount !== failed.length) { // else a selection of their text would be lost
      byId("failures").replaceChildren(...failed.map(entry => element("div", `${entry.name}: ${entry.error}`)));
    }
    const focused = shownEntries.find(entry => entry.card && entry.card.contains(document.activeElement));
    shownEntries.forEach(updateCard);
    arrange(byId("cards"), shownEntries.map(entry => entry.card));
    if (focused) focused.card.querySelector("button").focus({preventScroll: true});
  });
}

// Put nodes into a list and take the others out. Those in their place stay: a browser drops the click on an element that
// was out of the document while the button was down.
function arrange(list, nodes) {
  const wanted = new Set(nodes);
  for (const node of [...list.children]) if (!wanted.has(node)) node.remove();
  let at = list.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else list.insertBefore(node, at);
  }
}

function element(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function updateCard(entry) {
  if (!entry.card) entry.card = element("li");
  const look = `${entry.state} ${byId("maps").checked} ${byId("maps").checked ? limit : ""}`;
  if (entry.look === look) return;
  entry.look = look;
  const button = element("button", undefined, "card");
  button.type = "button";
  button.disabled = entry.state !== "scored";
  button.addEventListener("click", () => open(entry));
  const text = element("span", undefined, "text");
  if (entry.state === "scored") {
    const frame = element("span", undefined, `stack${byId("maps").checked ? " maps" : ""}`);
    frame.append(withMap(entry, entry.thumbnail, byId("maps").checked));
    const meter = element("span", undefined, "meter");
    const level = (quality(entry) - model.scale[0]) / (model.scale[1] - model.scale[0]);
    const bar = element("i");
    bar.style.width = `${100 * Math.max(0, Math.min(1, level))}%`;
    meter.append(bar);
    text.append(element("b", number(quality(entry))), element("span", entry.name, "name"), meter);
    button.append(frame, text);
    button.title = entry.name;
    button.setAttribute("aria-label", `${entry.name}, quality ${number(quality(entry))}`);
  } else {
    text.append(element("span", entry.name, "name"));
    button.append(element("span", entry.state === "scoring" ? "scoring\u2026" : "waiting", "waiting"), text);
  }
  entry.card.replaceChildren(button);
}

// A picture with the map of its distortion view, which covers whole cells of the grid of mini-patches
function withMap(entry, source, isShown) {
  const frame = element("span");
  const picture = element("img");
  picture.src = source;
  picture.alt = "";
  picture.draggable = false; // dropped on this page it would be scored
  frame.append(picture);
  if (isShown && entry.maps.distortion) {
    const shortest = Math.min(entry.width, entry.height);
    const enlarged = side => (shortest < model.mosaic ? Math.ceil(side * model.mosaic / shortest) : side);
    const covered = side => Math.floor(enlarged(side) / model.n_fragment) * model.n_fragment / enlarged(side);
    const map = paint(entry.maps.distortion, mean("distortion"), limit);
    map.style.width = `${100 * covered(entry.width)}%`;
    map.style.height = `${100 * covered(entry.height)}%`;
    frame.append(map);
  }
  return frame;
}

for (const id of ["sort", "search", "maps"]) byId(id).addEventListener("input", render);

// One photograph in detail
function open(entry) {
  forget(shown);
  shown = entry;
  byId("detail-name").textContent = entry.name;
  byId("detail-numbers").textContent =
    `quality ${number(quality(entry), 4)}, score ${number(entry.score, 4)} \u00b7 ${entry.width} x ${entry.height} \u00b7 ${Math.round(entry.ms)} ms`;
  drawDetail();
  if (!byId("detail").open) byId("detail").showModal();
  worker.postMessage({type: "detail", id: entry.id, file: entry.file, side: model.side});
}

function forget(entry) { // what only the dialog shows, a megabyte
  if (entry && entry.picture) URL.revokeObjectURL(entry.picture);
  if (entry) entry.picture = entry.views = undefined;
}

function showDetail({id, views, picture}) {
  if (!shown || shown.id !== id) return;
  shown.picture = URL.createObjectURL(picture);
  shown.views = views;
  drawDetail();
}

function showMissing({id, error}) { // the file vanished after it was scored
  if (shown && shown.id === id) byId("detail-numbers").append(` \u00b7 no views: ${error}`);
}

function drawDetail() {
  const isShown = byId("detail-maps").checked;
  byId("detail").classList.toggle("maps", isShown);
  byId("scale-low").textContent = `\u2212${number(limit)}`;
  byId("scale-high").textContent = `+${number(limit)}`;
  byId("detail-picture").replaceChildren(withMap(shown, shown.picture || shown.thumbnail, isShown));
  byId("detail-views").replaceChildren(...Object.entries(shown.views || {}).map(([name, image]) => {
    const figure = element("figure");
    const stack = element("div", undefined, "stack");
    const view = element("canvas", undefined, "view");
    [view.width, view.height] = [image.width, image.height];
    view.getContext("2d").putImageData(image, 0, 0);
    stack.append(view);
    if (isShown) {
      const map = paint(shown.maps[name], mean(name), limit);
      map.style.width = map.style.height = "100%";
      stack.append(map);
    }
    const change = points(shown, name) - mean(name);
    figure.append(stack, element("figcaption", `${name} view ${change < 0 ? "\u2212" : "+"}${number(Math.abs(change))}`));
    return figure;
  }));
}

function step(by) {
  const scored = visible().filter(entry => entry.state === "scored");
  const to = scored[scored.indexOf(shown) + by];
  if (to) open(to);
}

byId("detail-maps").addEventListener("input", drawDetail);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => byId("detail").close());
let pressedOutside = false; // a selection of text may end there
const isOutside = ({clientX: x, clientY: y}) => {
  const box = byId("detail").getBoundingClientRect();
  return x < box.left || x > box.right || y < box.top || y > box.bottom;
};
byId("detail").addEventListener("pointerdown", event => { pressedOutside = isOutside(event); });
byId("detail").addEventListener("click", event => {
  if (event.target === byId("detail") && pressedOutside) byId("detail").close();
});
byId("detail").addEventListener("close", () => {
  const card = shown && shown.card.querySelector("button");
  forget(shown);
  shown = null;
  if (card) card.focus();
});
byId("detail").addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (event.key === "m" || event.key === "M") byId("detail-maps").click();
});

// The table, with the columns of predict.py --csv
byId("csv").addEventListener("click", () => {
  const views = model.view_names;
  const quoted = value => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = [["image", "score", "quality", ...views.map(name => `points_${name}`), "error"]];
  for (const entry of entries) {
    if (entry.state === "scored") {
      const numbers = [entry.score, entry.quality, ...views.map(name => points(entry, name))];
      lines.push([quoted(entry.name), ...numbers.map(value => (value === null ? "" : value.toFixed(6))), ""]);
    } else {
      const error = entry.state === "failed" ? entry.error : "not scored yet";
      lines.push([quoted(entry.name), "", "", ...views.map(() => ""), quoted(error)]);
    }
  }
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([lines.map(line => line.join(",")).join("\n") + "\n"], {type: "text/csv"}));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

byId("clear").addEventListener("click", () => {
  for (const entry of entries) for (const url of [entry.thumbnail, entry.picture]) if (url) URL.revokeObjectURL(url);
  entries.length = ignored = 0; // the photograph being scored is dropped when it is finished
  render();
});
