// A quality map as colours, the same as those of predict.py --map: ColorBrewer's RdBu, the further from 0 the more opaque.
const RDBU = ["67001f", "b2182b", "d6604d", "f4a582", "fddbc7", "f7f7f7", "d1e5f0", "92c5de", "4393c3", "2166ac", "053061"]
  .map(hex => [0, 2, 4].map(at => parseInt(hex.slice(at, at + 2), 16)));
const MAX_OPACITY = 0.65;

export function relative(map, mean) {
  return map.points.map(points => points - mean);
}

// The end of a colour scale: 2 % of the values lie beyond it.
export function colourLimit(values) {
  const sizes = values.map(Math.abs).sort((a, b) => a - b);
  return Math.max(sizes[Math.min(sizes.length - 1, Math.floor(0.98 * sizes.length))] ?? 0, 1e-9);
}

export function paint(map, mean, limit) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [map.width, map.height];
  const image = new ImageData(map.width, map.height);
  relative(map, mean).forEach((points, i) => {
    const scaled = Math.max(-1, Math.min(1, points / limit));
    const at = (scaled + 1) / 2 * (RDBU.length - 1);
    const low = Math.min(RDBU.length - 2, Math.floor(at));
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * i + channel] = RDBU[low][channel] + (at - low) * (RDBU[low + 1][channel] - RDBU[low][channel]);
    }
    image.data[4 * i + 3] = 255 * MAX_OPACITY * Math.sqrt(Math.abs(scaled));
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}
