import { EdgeSerError } from "./errors.js";
import { WASM } from "./wasm.js";

/** The C library in WebAssembly: addresses, and views of what lies there. One instance holds all streams of a recogniser. */

/** Words of an eser_result, see eser.h. */
const WORD = { probabilities: 3, logits: 19, embedding: 35, speech: 99, isSpeech: 100, judgedS: 101, logitsQ16: 102, embeddingQ16: 118 };
const PERSON_FORMAT = 2;
const OK = 0;
/** Statuses that are no faults: there is no answer. */
export const TOO_SHORT = 1;
export const SILENT = 2;
export const EMBEDDING_SIZE = 64;
export const ENCODER_SIZE = 480;
export const N_BINS = 128;
const CHANNELS = 96;

let compiled = null;

export class Engine {
  static async create() {
    const bytes = Uint8Array.from(atob(WASM), (c) => c.charCodeAt(0));
    if (!WebAssembly.validate(bytes))
      throw new EdgeSerError("this browser has no WebAssembly SIMD; expected Chrome 91, Firefox 89, Safari 16.4, Node 16 or later");
    compiled ??= WebAssembly.compile(bytes);
    return new Engine(await WebAssembly.instantiate(await compiled, {}));
  }

  constructor(instance) {
    this.c = instance.exports;
    this.c._initialize();
    this.manifest = JSON.parse(this.text(this.c.manifest()));
    this.chunk = this.bytes(4 * Engine.CHUNK); // for what is handed over
    this.count = this.bytes(4);
  }

  bytes(n) {
    const at = this.c.allocate(n);
    if (at === 0) throw new EdgeSerError("there is no memory left for another stream; close those that are not needed");
    return at;
  }

  view(Kind, at, n) {
    return new Kind(this.c.memory.buffer, at, n); // anew each time: memory that has grown lies elsewhere
  }

  text(at) {
    const bytes = new Uint8Array(this.c.memory.buffer, at);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  require(status) {
    if (status !== OK) throw new EdgeSerError(this.text(this.c.explain(status)));
  }

  open() {
    const stream = this.c.open();
    if (stream === 0) throw new EdgeSerError("there is no memory left for another stream; close those that are not needed");
    return stream;
  }

  feed(stream, samples) {
    for (let at = 0; at < samples.length; at += Engine.CHUNK) {
      const part = samples.subarray(at, at + Engine.CHUNK);
      this.view(Float32Array, this.chunk, part.length).set(part);
      this.require(this.c.feed(stream, this.chunk, part.length));
    }
  }

  /** The answer of a stream, or the status where there is none. */
  answer(stream, finish, person) {
    const status = this.c.answer(stream, finish ? 1 : 0, person?.at ?? 0);
    if (status === TOO_SHORT || status === SILENT) return status;
    this.require(status);
    const labels = person?.labels ?? this.manifest.labels;
    const network = this.c.results(1);
    const ours = this.c.results(0);
    const floats = (at, word, n) => this.view(Float32Array, at + 4 * word, n).slice();
    const word = (name) => this.view(Float32Array, ours + 4 * WORD[name], 1)[0];
    const flag = (name) => this.view(Int32Array, ours + 4 * WORD[name], 1)[0] !== 0;
    return {
      labels,
      probabilities: floats(ours, WORD.probabilities, labels.length),
      embedding: floats(ours, WORD.embedding, EMBEDDING_SIZE),
      logits: floats(network, WORD.logits, this.manifest.labels.length),
      speech: word("speech"), isSpeech: flag("isSpeech"), judgedS: word("judgedS"),
      heard: {
        statistics: this.statistics(stream),
        embedding: this.view(Int32Array, network + 4 * WORD.embeddingQ16, EMBEDDING_SIZE).slice(),
        logits: this.view(Int32Array, network + 4 * WORD.logitsQ16, this.manifest.labels.length).slice(),
      },
    };
  }

  /** Mean and deviation over time of the vectors, in 1/256 of a level, channel-major as the profile has them. */
  statistics(stream) {
    const at = this.c.vectors(stream, this.count);
    const n = this.view(Uint32Array, this.count, 1)[0];
    const levels = this.view(Uint8Array, at, n * ENCODER_SIZE);
    const found = new Uint16Array(2 * ENCODER_SIZE);
    for (let i = 0; i < ENCODER_SIZE; i++) {
      let sum = 0;
      let squares = 0;
      for (let t = i; t < levels.length; t += ENCODER_SIZE) {
        sum += levels[t];
        squares += levels[t] ** 2;
      }
      const to = channelMajor(i);
      found[to] = Math.floor((256 * sum + Math.floor(n / 2)) / n);
      found[ENCODER_SIZE + to] = Math.floor(Math.floor(Math.sqrt((n * squares - sum * sum) * 65536)) / n);
    }
    return found;
  }

  /** A correction where C reads it; to be released. */
  person(correction) {
    const { labels, source, statistics, embedding, bias, shifts, temperature } = correction;
    const halves = statistics.map((row) => {
      const found = new Int16Array(2 * ENCODER_SIZE);
      for (let i = 0; i < ENCODER_SIZE; i++) for (const half of [0, ENCODER_SIZE]) found[half + i] = row[half + channelMajor(i)];
      return found;
    });
    const parts = [
      new Uint32Array(11),
      new Uint32Array(labels.length), // names, which stay in JavaScript
      Int32Array.from(source),
      bias,
      Int16Array.from(halves.flatMap((row) => [...row])),
      Int16Array.from(embedding.flatMap((row) => [...row])),
    ];
    const at = this.bytes(parts.reduce((n, part) => n + part.byteLength, 0));
    const places = [];
    let next = at;
    for (const part of parts) {
      places.push(next);
      next += part.byteLength;
    }
    const [, names, sources, biases, ofStatistics, ofEmbedding] = places;
    parts[0].set([PERSON_FORMAT, labels.length, this.manifest.labels.length, names, sources, ofStatistics, ofEmbedding, biases, ...shifts]);
    new Float32Array(parts[0].buffer)[10] = temperature;
    parts.forEach((part, i) => this.view(part.constructor, places[i], part.length).set(part));
    return { at, labels };
  }

  /** Features of every frame that fits into `samples`, 16 kHz, in dB: [n][128]. */
  features(samples) {
    const stream = this.open();
    const n = Math.max(0, Math.floor((samples.length - 640) / 160) + 1);
    const from = this.bytes(4 * samples.length);
    const to = this.bytes(4 * N_BINS * n + 4);
    this.view(Float32Array, from, samples.length).set(samples);
    this.c.features(stream, from, n, to);
    const found = this.view(Float32Array, to, n * N_BINS).slice();
    this.c.release(from);
    this.c.release(to);
    this.c.release(stream);
    return found;
  }
}
Engine.CHUNK = 16384;

/** Where number i of a vector in which frequencies change slowest lies in one in which channels do. */
const channelMajor = (i) => (i % CHANNELS) * (ENCODER_SIZE / CHANNELS) + Math.floor(i / CHANNELS);
