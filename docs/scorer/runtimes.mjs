// Scores decoded photographs with any JavaScript build of onnxruntime, in Node or in a browser, and times it.

/** @returns {name, score, quality, seconds} of each photograph; `read` returns the bytes of a file beside this one. */
export async function scoreAll(ort, photographs, read) {
  const session = await ort.InferenceSession.create(await read("model.onnx"));
  const results = [];
  for (const {name, height, width} of photographs) {
    const photograph = new ort.Tensor("uint8", await read(name), [height, width, 3]);
    const run = () => session.run({photograph}, ["score", "quality"]);
    await run(); // which reserves the memory
    const began = performance.now();
    const {score, quality} = await run();
    const seconds = (performance.now() - began) / 1000;
    results.push({name, score: score.data[0], quality: quality.data[0], seconds});
  }
  return results;
}
