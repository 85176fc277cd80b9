import { EdgeSerError } from "./errors.js";
import { WASM } from "./wasm.js";

/** The C library in WebAssembly: addresses, and views of what lies there. One instance holds all streams of a recogniser. */

/** Fields of an eser_result in the order of layout() in eser_web.c. */
const FIELDS = ["probabilities", "logits", "embedding", "speech", "isSpeech", "logitsQ16", "embeddingQ16"];
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
    const words = this.view(Uint32Array, this.c.layout(), FIELDS.length);
    this.offset = Object.fromEntries(FIELDS.map((name, i) => [name, 4 * words[i]]));
  }

  bytes(n) {
    return there(this.c.allocate(n));
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
    return there(this.c.open());
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
    const nKnown = this.manifest.labels.length;
    const network = this.c.results(1);
    const ours = this.c.results(0);
    const field = (Kind, result, name, n) => this.view(Kind, result + this.offset[name], n).slice();
    return {
      labels,
      probabilities: field(Float32Array, ours, "probabilities", labels.length),
      embedding: field(Float32Array, ours, "embedding", EMBEDDING_SIZE),
      logits: field(Float32Array, network, "logits", nKnown),
      speech: field(Float32Array, ours, "speech", 1)[0],
      isSpeech: field(Int32Array, ours, "isSpeech", 1)[0] !== 0,
      heard: {
        statistics: this.statistics(stream),
        embedding: field(Int32Array, network, "embeddingQ16", EMBEDDING_SIZE),
        logits: field(Int32Array, network, "logitsQ16", nKnown),
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

  /** A correction where C reads it; forget gives the memory back. */
  person({ labels, source, statistics, embedding, bias, shifts, temperature }) {
    const frequencyMajor = statistics.map((row) => {
      const found = new Int16Array(2 * ENCODER_SIZE);
      for (let i = 0; i < ENCODER_SIZE; i++) for (const half of [0, ENCODER_SIZE]) found[half + i] = row[half + channelMajor(i)];
      return found;
    });
    const flat = (matrix) => Int16Array.from(matrix.flatMap((row) => [...row]));
    const arrays = [Int32Array.from(source), flat(frequencyMajor), flat(embedding), bias].map((values) => {
      const at = this.bytes(values.byteLength);
      this.view(values.constructor, at, values.length).set(values);
      return at;
    });
    const at = there(this.c.person(labels.length, ...arrays, ...shifts, temperature));
    return { at, labels, memory: [...arrays, at] };
  }

  forget({ memory }) {
    memory.forEach((at) => this.c.release(at));
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

function there(at) {
  if (at === 0) throw new EdgeSerError("there is no memory left; close the streams that are not needed");
  return at;
}

/** Where number i of a vector in which frequencies change slowest lies in one in which channels do. */
const channelMajor = (i) => (i % CHANNELS) * (ENCODER_SIZE / CHANNELS) + Math.floor(i / CHANNELS);
