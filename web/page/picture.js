import { rgbOf } from "./words.js";

const N_BINS = 128;
const FRAME = 640;
const HOP = 160;
const FRAMES_A_COLUMN = 2; // of 10 ms
const QUIET_DB = -32; // of a soft voice at its loudest: what is softer stays faint
const MOST_COLUMNS = 4096; // wider than any picture
const RANGE_DB = 58; // from the faintest ink to the full

/** What the network sees of the voice, 128 Mel bands, in the colour of the emotion. */
export class Picture {
  constructor(canvas, features) {
    this.canvas = canvas;
    this.colours = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours.clear();
      this.#draw();
    });
    this.features = features; // samples at 16 kHz -> [n][128] in dB
    this.reset();
    new ResizeObserver(() => canvas.clientWidth !== canvas.width && this.#resize()).observe(canvas);
  }

  reset() {
    this.rest = new Float32Array(0);
    this.columns = []; // { levels, label }
    this.frames = 0;
    this.topDb = QUIET_DB;
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
    let fresh = 0;
    for (let i = 0; i < n; i++) {
      if (this.frames++ % FRAMES_A_COLUMN !== 0) continue;
      this.columns.push({ levels: this.#levels(db.subarray(i * N_BINS, (i + 1) * N_BINS)), label });
      fresh++;
    }
    if (this.columns.length > 2 * MOST_COLUMNS) this.columns = this.columns.slice(-MOST_COLUMNS);
    this.pixels.copyWithin(0, fresh); // what runs over from the next row is painted anew
    this.#paint(this.canvas.width - fresh);
  }

  /** A recording from beginning to end, as wide as the picture; `labelAt(seconds)` says what colour. */
  show(samples, labelAt) {
    this.whole = true;
    const width = Math.max(1, Math.min(this.canvas.width, Math.floor((samples.length - FRAME) / HOP)));
    const starts = Array.from({ length: width }, (_, x) => Math.round((x * (samples.length - FRAME)) / width));
    const frames = starts.map((from) => this.features(samples.subarray(from, from + FRAME)));
    this.topDb = Math.max(QUIET_DB, ...frames.flatMap((db) => [...db]));
    this.columns = frames.map((db, x) => ({ levels: this.#levels(db), label: labelAt((starts[x] + FRAME / 2) / 16000) }));
    this.#draw();
  }

  /** Colour the last `seconds` of a microphone anew: now it is known how they sounded. */
  colour(seconds, label) {
    this.columns.slice(-Math.round((seconds * 100) / FRAMES_A_COLUMN)).forEach((column) => (column.label = label));
    this.#draw();
  }

  #levels(db) {
    this.topDb = Math.max(this.topDb - 0.02, QUIET_DB, ...db);
    const floor = this.topDb - RANGE_DB; // the loudest of the last seconds is full ink
    return Uint8Array.from(db, (v) => 255 * Math.min(1, Math.max(0, (v - floor) / RANGE_DB)) ** 1.15);
  }

  #resize() {
    const width = Math.max(1, Math.round(this.canvas.clientWidth));
    [this.canvas.width, this.canvas.height] = [width, N_BINS];
    this.image = new ImageData(width, N_BINS);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.#draw();
  }

  #draw() {
    this.pixels.fill(0);
    this.#paint(0);
  }

  /** Paint from column `first` on, and show all. */
  #paint(first) {
    const { width } = this.canvas;
    const n = this.columns.length;
    for (let x = Math.max(0, first); x < width; x++) {
      const column = this.whole ? this.columns[Math.floor((x * n) / width)] : this.columns[n - width + x];
      if (column === undefined) continue;
      const [red, green, blue] = this.#rgb(column.label);
      const colour = (blue << 16) | (green << 8) | red;
      for (let bin = 0; bin < N_BINS; bin++) this.pixels[(N_BINS - 1 - bin) * width + x] = (column.levels[bin] << 24) | colour;
    }
    this.canvas.getContext("2d").putImageData(this.image, 0, 0);
  }

  #rgb(label) {
    if (!this.colours.has(label)) this.colours.set(label, rgbOf(label));
    return this.colours.get(label);
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
