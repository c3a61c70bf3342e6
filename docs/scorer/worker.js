// Decodes photographs and scores them, away from the page's own thread.
import * as ort from "./ort.wasm.min.js";
import {isCutShort, isWebp, takeWebpOrientation, upright} from "./files.js";

const LARGEST = 150e6; // pixels: the decoded photograph and its copies have to fit into the browser's memory
const STRIP = 4e6; // pixels read at a time: browsers limit the area of a canvas, some to 16.8 megapixels
const THUMBNAIL = 400; // longer side, pixels
const PICTURE = 1600;
let session;

ort.env.wasm.wasmPaths = {
  mjs: new URL("ort-wasm-simd-threaded.js", import.meta.url).href,
  wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

async function fetchWithProgress(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be loaded: ${response.status}`);
  const total = Number(response.headers.get("content-length"));
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    if (total) postMessage({type: "loading", fraction: Math.min(1, loaded / total)});
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function load() {
  const model = await fetchWithProgress(new URL("model.onnx", import.meta.url));
  session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  await session.run({photograph: new ort.Tensor("uint8", new Uint8Array(64 * 64 * 3), [64, 64, 3])}); // starts everything
  postMessage({type: "ready", threads: ort.env.wasm.numThreads});
}

async function decode(file) {
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error("the file has changed since it was chosen, or is gone");
  }
  if (bytes.length === 0) throw new Error("the file is empty");
  if (isCutShort(bytes)) throw new Error("the file is cut short");
  // As in Python: the EXIF orientation is applied, a colour profile is not.
  const options = {imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none"};
  try {
    if (!isWebp(bytes)) return await createImageBitmap(file, options);
    const orientation = takeWebpOrientation(bytes);
    return turned(await createImageBitmap(new Blob([bytes]), options), orientation);
  } catch {
    throw new Error("it is damaged, or not a picture that this browser reads");
  }
}

function turned(bitmap, orientation) {
  if (orientation === 1) return bitmap;
  const {width, height} = bitmap;
  const canvas = orientation < 5 ? new OffscreenCanvas(width, height) : new OffscreenCanvas(height, width);
  const context = canvas.getContext("2d");
  context.setTransform(...upright(orientation, width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.transferToImageBitmap();
}

// The model enlarges a photograph until its shorter side has `side` pixels.
function pixelsOf(bitmap, side) {
  const {width, height} = bitmap;
  if (width * height > LARGEST) throw new Error(`${width} x ${height} pixels are too many for the browser's memory`);
  if (Math.max(width, height) * side / Math.min(width, height) * side > LARGEST) {
    throw new Error(`${width} x ${height} pixels: too narrow to be enlarged in the browser's memory`);
  }
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", {willReadFrequently: true});
  context.fillRect(0, 0, 1, 1);
  if (context.getImageData(0, 0, 1, 1).data[3] !== 255) { // a canvas beyond the browser's limits stays empty
    throw new Error(`${width} x ${height} pixels: a side is too long for this browser`);
  }
  const rgb = new Uint8Array(width * height * 3);
  let to = 0, opacity = 255;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const rgba = context.getImageData(0, 0, width, count).data;
    for (let from = 0; from < rgba.length; from += 4, to += 3) {
      rgb[to] = rgba[from];
      rgb[to + 1] = rgba[from + 1];
      rgb[to + 2] = rgba[from + 2];
      opacity &= rgba[from + 3];
    }
  }
  // A canvas multiplies colours by their opacity: the picture's own cannot be read back.
  if (opacity !== 255) throw new Error("it has transparent parts, whose colours a browser does not keep: save it without transparency");
  return new ort.Tensor("uint8", rgb, [height, width, 3]);
}

async function reduced(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({type: "image/jpeg", quality: 0.85});
}

async function score(id, bitmap, side) {
  const began = performance.now();
  const names = session.outputNames.filter(name => !name.startsWith("view_"));
  const outputs = await session.run({photograph: pixelsOf(bitmap, side)}, names);
  const value = outputs.score.data[0];
  if (!Number.isFinite(value)) throw new Error("the score is not a number");
  const maps = {};
  for (const name of names.filter(name => name.startsWith("map_"))) {
    const [, height, width] = outputs[name].dims;
    maps[name.slice(4)] = {height, width, points: Array.from(outputs[name].data)};
  }
  postMessage({
    type: "scored", id, score: value, quality: outputs.quality ? outputs.quality.data[0] : null, maps,
    width: bitmap.width, height: bitmap.height, ms: performance.now() - began, thumbnail: await reduced(bitmap, THUMBNAIL),
  });
}

async function detail(id, bitmap, side) {
  const names = session.outputNames.filter(name => name.startsWith("view_"));
  const outputs = await session.run({photograph: pixelsOf(bitmap, side)}, names);
  const views = {};
  for (const name of names) {
    const [, , height, width] = outputs[name].dims;
    const planes = outputs[name].data;
    const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
    for (let channel = 0; channel < 3; channel++) {
      for (let i = 0; i < width * height; i++) rgba[4 * i + channel] = planes[channel * width * height + i];
    }
    views[name.slice(5)] = new ImageData(rgba, width, height);
  }
  postMessage({type: "detail", id, views, picture: await reduced(bitmap, PICTURE)});
}

// One photograph at a time: a session runs once at a time, and memory holds one decoded photograph.
let last = load().catch(error => postMessage({type: "unusable", error: error.message}));
let wanted; // the newest request for details: older ones are not answered
self.onmessage = ({data: {type, id, file, side}}) => {
  if (type === "detail") wanted = id;
  last = last.then(async () => {
    if (type === "detail" && id !== wanted) return;
    let bitmap;
    try {
      bitmap = await decode(file);
      await (type === "detail" ? detail : score)(id, bitmap, side);
    } catch (error) {
      postMessage({type: type === "detail" ? "no detail" : "failed", id, error: error.message});
    } finally {
      if (bitmap) bitmap.close();
    }
  });
};
