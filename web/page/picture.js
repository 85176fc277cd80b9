import { rgbOf } from "./words.js";

const N_BINS = 128;
const FRAME = 640;
const HOP = 160;
const RANGE_DB = 62; // from the faintest ink to the full

/** What the network sees of the voice, 128 Mel bands, in the colour of the emotion. */
export class Picture {
  constructor(canvas, features) {
    this.canvas = canvas;
    this.features = features; // samples at 16 kHz -> [n][128] in dB
    this.reset();
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  reset() {
    this.rest = new Float32Array(0);
    this.columns = []; // { levels, label }
    this.topDb = -45;
    this.whole = false;
    this.#resize();
  }

  /** The next samples of a microphone: the picture moves to the left. */
  push(samples, label) {
    const joined = new Float32Array(this.rest.length + samples.length);
    joined.set(this.rest);
    joined.set(samples, this.rest.length);
    const db = this.features(joined);
    const n = db.length / N_BINS;
    this.rest = joined.slice(n * HOP);
    for (let i = 0; i < n; i += 2) this.columns.push({ levels: this.#levels(db.subarray(i * N_BINS, (i + 1) * N_BINS)), label });
    this.columns = this.columns.slice(-this.canvas.width);
    this.#draw();
  }

  /** A recording from beginning to end, as wide as the picture; `labelAt(seconds)` says what colour. */
  show(samples, labelAt) {
    this.whole = true;
    const width = Math.max(1, Math.min(this.canvas.width, Math.floor((samples.length - FRAME) / HOP)));
    this.columns = Array.from({ length: width }, (_, x) => {
      const from = Math.round((x * (samples.length - FRAME)) / width);
      const levels = this.#levels(this.features(samples.subarray(from, from + FRAME)));
      return { levels, label: labelAt((from + FRAME / 2) / 16000) };
    });
    this.#draw();
  }

  /** Colour the last `seconds` of a microphone anew: now it is known how they sounded. */
  colour(seconds, label) {
    this.columns.slice(-Math.round(seconds * 50)).forEach((column) => (column.label = label));
    this.#draw();
  }

  #levels(db) {
    this.topDb = Math.max(this.topDb - 0.02, ...db);
    const floor = this.topDb - RANGE_DB;
    return Uint8Array.from(db, (v) => 255 * Math.min(1, Math.max(0, (v - floor) / RANGE_DB)) ** 1.6);
  }

  #resize() {
    const width = Math.max(1, Math.round(this.canvas.clientWidth));
    if (this.canvas.width !== width || this.canvas.height !== N_BINS) [this.canvas.width, this.canvas.height] = [width, N_BINS];
    this.#draw();
  }

  #draw() {
    const { width } = this.canvas;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, N_BINS);
    const colours = new Map();
    const n = this.columns.length;
    for (let x = 0; x < width && n > 0; x++) {
      const column = this.whole ? this.columns[Math.floor((x * n) / width)] : this.columns[n - width + x];
      if (column === undefined) continue;
      if (!colours.has(column.label)) colours.set(column.label, rgbOf(column.label));
      const [red, green, blue] = colours.get(column.label);
      for (let bin = 0; bin < N_BINS; bin++) {
        const at = 4 * ((N_BINS - 1 - bin) * width + x);
        image.data.set([red, green, blue, column.levels[bin]], at);
      }
    }
    context.putImageData(image, 0, 0);
  }
}

/** The course of an utterance's level, in one colour. */
export function drawWave(canvas, samples, label) {
  const width = (canvas.width = 240);
  const height = (canvas.height = 60);
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${rgbOf(label).join()})`;
  const n = 60;
  const levels = Array.from({ length: n }, (_, i) => {
    const part = samples.subarray(Math.floor((i * samples.length) / n), Math.floor(((i + 1) * samples.length) / n));
    return Math.sqrt(part.reduce((sum, v) => sum + v * v, 0) / Math.max(1, part.length));
  });
  const highest = Math.max(1e-4, ...levels);
  levels.forEach((level, i) => {
    const tall = Math.max(2, (height - 8) * (level / highest) ** 0.8);
    context.fillRect((i * width) / n, (height - tall) / 2, width / n - 1.4, tall);
  });
}
