"use strict";
const nonce = document.currentScript.nonce;
const data = JSON.parse(document.getElementById("data").textContent);
const undrawn = new Set(data.undrawn);
const views = Object.keys(data.grids);
const by = id => document.getElementById(id);
const element = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const sortedBy = by("sort").options[0].value;  // quality, or score
const minus = text => text.replace("-", "\u2212");
const format = (number, digits = 3) => number === null ? "\u2013" : minus(number.toFixed(digits));
const signed = number => (number < 0 ? "" : "+") + format(number);

// Pictures and maps: in the page as inert text, which is decoded when it is shown, or in files beside it
const embedded = number => JSON.parse(by(`card-${number}`).textContent);
const dataUri = content => `data:image/jpeg;base64,${content}`;

function pictures(row) {
  const number = data.number[row];
  if (undrawn.has(number)) return {};
  const kinds = ["photograph", ...views];
  if (data.folder) return Object.fromEntries(kinds.map(kind => [kind, `${data.folder}/${kind}/${number}.jpg`]));
  const content = embedded(number).pictures;
  return Object.fromEntries(kinds.map(kind => [kind, dataUri(content[kind])]));
}

function thumbnail(row) {
  const number = data.number[row];
  if (undrawn.has(number)) return null;
  return data.folder ? `${data.folder}/thumbnail/${number}.jpg` : dataUri(data.thumbnail[row]);
}

const files = new Map();  // by index: the promise of its maps, and what fulfils it
function receiveMaps(index, content) {
  files.get(index).fulfil(content);
}
async function mapsOf(row) {
  const number = data.number[row];
  if (!data.folder) return embedded(number).maps;
  const index = Math.floor(number / data.per_file);
  if (!files.has(index)) {
    const file = {};
    file.content = new Promise(fulfil => { file.fulfil = fulfil; });
    files.set(index, file);
    const script = element("script");
    script.nonce = nonce;
    script.src = `${data.folder}/maps_${index}.js`;
    script.addEventListener("error", missFolder);
    document.head.append(script);
  }
  return (await files.get(index).content)[number];
}

// The page was moved without the folder of its pictures and maps
function missFolder() {
  by("missing").querySelector("code").textContent = decodeURIComponent(data.folder);
  by("missing").hidden = false;
}

const colours = Uint8Array.from(data.scale.colours.match(/../g), byte => parseInt(byte, 16));
function paint(canvas, points, [height, width]) {
  Object.assign(canvas, {width, height});
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  points.forEach((value, index) => {
    const scaled = Math.min(1, Math.max(-1, value / data.scale.limit));
    const colour = Math.min(255, Math.floor((scaled + 1) / 2 * 256));
    image.data.set(colours.subarray(3 * colour, 3 * colour + 3), 4 * index);
    image.data[4 * index + 3] = Math.round(255 * data.scale.opacity * Math.sqrt(Math.abs(scaled)));
  });
  context.putImageData(image, 0, 0);
}

// The grid: only the rows of cells near the window are in the document
const GAP = 12, TEXT = 56;  // between cells, and of a cell below its picture, pixels
const grid = by("grid"), tools = by("tools");
const withoutMarks = name => name.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();  // accents do not matter
const searched = data.name.map(withoutMarks);
let visible = data.name.map((_, row) => row);
let columns = 1, width = 0, height = 0;  // of the grid in cells; of a cell with its gap, pixels
const shown = new Map();  // cells by position

function measure() {
  columns = Math.max(2, Math.floor((grid.clientWidth + GAP) / (grid.clientWidth < 560 ? 160 : 222)));
  width = (grid.clientWidth + GAP) / columns;
  height = Math.round((width - GAP) * 0.68) + TEXT + GAP;
}

function refill() {
  for (const cell of shown.values()) cell.remove();
  shown.clear();
  grid.style.height = `${Math.ceil(visible.length / columns) * height}px`;
  render();
}

function render() {
  const top = -grid.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / height) - 2) * columns;
  const last = Math.min(visible.length, (Math.ceil((top + innerHeight) / height) + 2) * columns);
  for (const [position, cell] of shown) {
    if ((position < first || position >= last) && !cell.contains(document.activeElement)) {
      cell.remove();
      shown.delete(position);
    }
  }
  let next = grid.firstElementChild;  // so that Tab follows the order on the screen
  for (let position = first; position < last; position++) {
    const cell = shown.get(position);
    if (cell) {
      next = cell.nextElementSibling;
    } else {
      shown.set(position, grid.insertBefore(makeCell(position), next));
    }
  }
}

function makeCell(position) {
  const row = visible[position], name = data.name[row], source = thumbnail(row);
  const cell = element("div", undefined, "panel cell");
  cell.setAttribute("role", "listitem");
  cell.setAttribute("aria-setsize", visible.length);
  cell.setAttribute("aria-posinset", position + 1);
  cell.style.width = `${width - GAP}px`;
  cell.style.height = `${height - GAP}px`;
  cell.style.transform = `translate(${position % columns * width}px, ${Math.floor(position / columns) * height}px)`;
  const open = element("button", undefined, "open");
  open.type = "button";
  open.title = data.folder_name + name;
  const picture = element(source ? "img" : "div", undefined, source ? "thumbnail" : "blank");
  picture.style.height = `${height - GAP - TEXT}px`;
  if (source) Object.assign(picture, {src: source, alt: "", decoding: "async", onerror: missFolder});
  open.append(picture, element("span", name, "name"), element("span", format(data.values[sortedBy][row]), "value"));
  open.addEventListener("click", () => show(position));
  const label = element("label"), box = element("input");
  box.type = "checkbox";
  box.checked = chosen.includes(row);
  box.setAttribute("aria-label", `compare ${name}`);
  box.addEventListener("change", () => choose(row, box.checked));
  label.append(box, " compare");
  cell.classList.toggle("chosen", box.checked);
  cell.append(open, label);
  return cell;
}

let waiting = false;
function renderSoon() {
  if (!waiting) requestAnimationFrame(() => { waiting = false; render(); });
  waiting = true;
}
addEventListener("scroll", renderSoon, {passive: true});
addEventListener("resize", renderSoon);  // of the height; the observer below sees the width
let measured = 0;  // width of the grid, pixels
new ResizeObserver(() => {
  if (grid.clientWidth === measured) return;
  measured = grid.clientWidth;
  measure();
  refill();
}).observe(grid);

// Search and sort, on arrays in memory
const search = by("search"), sort = by("sort"), reverse = by("reverse");
function arrange() {
  const wanted = withoutMarks(search.value.trim());
  const keys = {name: data.rank, order: data.order}[sort.value] || data.values[sort.value];
  const sign = (keys === data.values[sortedBy] ? -1 : 1) * (reverse.getAttribute("aria-pressed") === "true" ? -1 : 1);
  visible = data.name.map((_, row) => row).filter(row => searched[row].includes(wanted));
  visible.sort((one, other) => sign * (keys[one] - keys[other]) || data.order[one] - data.order[other]);
  by("count").textContent = `${visible.length} of ${data.name.length}`;
  const above = grid.getBoundingClientRect().top - tools.offsetHeight;
  if (above < 0) scrollBy(0, above);
  refill();
}
search.addEventListener("input", arrange);
sort.addEventListener("change", arrange);
reverse.addEventListener("click", () => {
  reverse.setAttribute("aria-pressed", reverse.getAttribute("aria-pressed") !== "true");
  arrange();
});

// Two photographs side by side
let chosen = [];
function choose(row, isChosen) {
  chosen = chosen.filter(other => other !== row);
  if (isChosen) chosen = [...chosen, row].slice(-2);
  showChosen();
}
function showChosen() {
  for (const [position, cell] of shown) {
    const isChosen = chosen.includes(visible[position]);
    cell.classList.toggle("chosen", isChosen);
    cell.querySelector("input").checked = isChosen;
  }
  by("chosen").hidden = chosen.length === 0;
  by("names").textContent = chosen.map(row => data.name[row]).join("  |  ") + (chosen.length === 1 ? "  |  choose another" : "");
  by("compare").disabled = chosen.length < 2;
}
by("compare").addEventListener("click", () => fill(chosen, null));
by("clear").addEventListener("click", () => { chosen = []; showChosen(); });

// The dialog: a card, or two
const dialog = by("dialog"), content = by("content"), toggle = by("maps");
let current = null;  // position of the card; null for a comparison

function show(position) {
  fill([visible[position]], position);
}

function fill(rows, position) {
  current = position;
  content.replaceChildren(...rows.map(makeCard));
  dialog.classList.toggle("two", rows.length === 2);
  by("title").textContent = position === null ? "comparison" : `${position + 1} of ${visible.length}`;
  for (const [id, end] of [["previous", 0], ["next", visible.length - 1]]) {
    by(id).hidden = position === null;
    by(id).disabled = position === end;
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  paintMaps();
}

function makeCard(row) {
  const sources = pictures(row), name = data.name[row];
  const card = element("article", undefined, "shot");
  const head = element("div"), numbers = element("div", undefined, "numbers");
  for (const [column, values] of Object.entries(data.values)) {
    if (!views.includes(column.replace("points_", ""))) {
      numbers.append(element("span", `${column.replace("points_", "points: ").replace("_", " ")} ${format(values[row], 4)}`));
    }
  }
  numbers.append(element("span", `${data.size[row][0]} \u00d7 ${data.size[row][1]} pixels`));
  const title = element("h2", name);
  title.title = data.folder_name + name;
  head.append(title, numbers);
  const caption = views.includes("distortion") ? "photograph, local distortion" : "photograph";
  const whole = makeLayer(row, "photograph", sources.photograph, "distortion", `photograph ${name}`, caption);
  whole.className = "whole";
  const layers = element("div", undefined, "layers");
  for (const view of views) {
    layers.append(makeLayer(row, view, sources[view], view, `${view} view of ${name}`, `${view} view ${signed(data.values[`points_${view}`][row])}`));
  }
  card.append(head, whole, layers);
  return card;
}

function makeLayer(row, kind, source, view, description, caption) {
  const figure = element("figure"), layer = element("div", undefined, "layer");
  if (source) {
    const picture = element("img", undefined, "picture");
    Object.assign(picture, {src: source, alt: description, decoding: "async"});
    layer.append(picture);
    if (data.grids[view]) {
      const canvas = element("canvas", undefined, "map");
      canvas.setAttribute("aria-hidden", "true");
      canvas.dataset.row = row;
      canvas.dataset.view = view;
      const [x, y] = kind === "photograph" ? data.covered[row] : [1, 1];
      canvas.style.width = `${100 * x}%`;
      canvas.style.height = `${100 * y}%`;
      layer.append(canvas);
    }
  }
  figure.append(layer, element("figcaption", source ? caption : `${caption} (its picture could not be written)`));
  return figure;
}

async function paintMaps() {
  if (!toggle || !toggle.checked) return;
  for (const canvas of content.querySelectorAll("canvas:not([data-painted])")) {
    canvas.dataset.painted = "";
    const maps = await mapsOf(Number(canvas.dataset.row));
    paint(canvas, maps[canvas.dataset.view], data.grids[canvas.dataset.view]);
  }
}
if (toggle) {
  toggle.addEventListener("change", () => {
    document.body.classList.toggle("maps", toggle.checked);
    paintMaps();
  });
} else {
  document.body.classList.remove("maps");
}

function step(cards) {
  if (current !== null && visible[current + cards] !== undefined) show(current + cards);
}
by("previous").addEventListener("click", () => step(-1));
by("next").addEventListener("click", () => step(1));
dialog.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
by("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  content.replaceChildren();
  if (current === null) return;
  // Back to the card that was shown last, which may be far from the one that was opened.
  const top = grid.getBoundingClientRect().top + Math.floor(current / columns) * height;
  if (top < tools.offsetHeight || top + height > innerHeight) scrollBy(0, top - (innerHeight - height) / 2);
  render();
  shown.get(current).querySelector("button").focus({preventScroll: true});
});

measured = grid.clientWidth;
measure();
arrange();
