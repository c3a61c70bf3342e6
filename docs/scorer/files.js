// Checks that browsers lack: files that were cut short, and the orientation of WebP photographs.

const text = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 4));
const littleEndian = true;

// Some browsers show a file that was cut short, with grey in place of the rest. Bytes behind a picture's end are common:
// phones put a film there.
export function isCutShort(bytes) {
  const view = new DataView(bytes.buffer);
  try {
    if (bytes[0] === 0xff && bytes[1] === 0xd8) return !hasJpegEnd(bytes, view);
    if (text(bytes, 1) === "PNG\r") return !hasPngEnd(bytes, view);
    if (isWebp(bytes)) return view.getUint32(4, littleEndian) + 8 > bytes.length;
  } catch (error) {
    if (error instanceof RangeError) return true; // a length points behind the end
    throw error;
  }
  return false;
}

// Segments have a length up to the first scan; in a scan every FF is followed by 0 unless it begins a marker.
function hasJpegEnd(bytes, view) {
  let at = 2;
  while (view.getUint8(at) !== 0xff || view.getUint8(at + 1) !== 0xda) { // start of scan
    const isSegment = bytes[at] === 0xff && bytes[at + 1] !== 0xff;
    at += isSegment ? 2 + view.getUint16(at + 2) : 1;
  }
  for (; at >= 0; at = bytes.indexOf(0xff, at + 1)) if (bytes[at + 1] === 0xd9) return true;
  return false;
}

function hasPngEnd(bytes, view) {
  let at = 8;
  while (text(bytes, at + 4) !== "IEND") at += 12 + view.getUint32(at);
  return true;
}

export const isWebp = bytes => text(bytes, 0) === "RIFF" && text(bytes, 8) === "WEBP";

// Return the EXIF orientation of a WebP photograph, 1 to 8, and hide it from the browser: some apply it, Chromium does not.
export function takeWebpOrientation(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; at += 8 + Math.ceil(view.getUint32(at + 4, littleEndian) / 2) * 2) {
    if (text(bytes, at) !== "EXIF") continue;
    bytes.fill("x".charCodeAt(), at, at + 4); // decoders skip chunks of an unknown kind
    const start = at + 8 + (text(bytes, at + 8) === "Exif" ? 6 : 0);
    try {
      return exifOrientation(new DataView(bytes.buffer, start));
    } catch {
      return 1; // damaged: Python ignores it, too
    }
  }
  return 1;
}

function exifOrientation(view) {
  const isLittle = view.getUint16(0) === 0x4949;
  const table = view.getUint32(4, isLittle);
  for (let entry = 0; entry < view.getUint16(table, isLittle); entry++) {
    const at = table + 2 + 12 * entry;
    const value = view.getUint16(at + 8, isLittle);
    if (view.getUint16(at, isLittle) === 0x0112) return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

// What turns a picture of width x height upright, for CanvasRenderingContext2D.setTransform
export const upright = (orientation, width, height) => ({
  1: [1, 0, 0, 1, 0, 0], 2: [-1, 0, 0, 1, width, 0], 3: [-1, 0, 0, -1, width, height], 4: [1, 0, 0, -1, 0, height],
  5: [0, 1, 1, 0, 0, 0], 6: [0, 1, -1, 0, height, 0], 7: [0, -1, -1, 0, height, width], 8: [0, -1, 1, 0, 0, width],
}[orientation]);
