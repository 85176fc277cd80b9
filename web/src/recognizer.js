import { counts, labelsOf, learn } from "./correction.js";
import { Engine, SILENT, TOO_SHORT } from "./engine.js";
import { EdgeSerError } from "./errors.js";
import { nobody, read, requireRoom, wordMeant, write } from "./profile.js";
import { lengthAt16k, RATE_HZ, resampled, Resampler } from "./resampler.js";
import { checked } from "./samples.js";

export const NO_SPEECH = "no_speech";
const FRAME = 640;
const HOP = 160;
const MAX_FRAMES = 1400; // 14 s
const STRIDE = 16;
const KEY = "edge-ser-profile";

const streams = new FinalizationRegistry(({ engine, at }) => engine.c.release(at));
const utterances = new WeakMap(); // of a prediction: what adapt learns from it

/** Tells how speech sounds. */
export class Recognizer {
  #engine;
  #person;
  #correction = null;

  static async create() {
    return new Recognizer(await Engine.create());
  }

  constructor(engine) {
    if (!(engine instanceof Engine)) throw new EdgeSerError("a Recognizer is made by: await Recognizer.create()");
    this.#engine = engine;
    this.#person = nobody(engine.manifest.training.weights_sha256);
  }

  get manifest() {
    return this.#engine.manifest;
  }

  get labels() {
    return labelsOf(this.#person, this.manifest.labels);
  }

  predict(samples, rateHz = RATE_HZ) {
    const at16k = middle(checked(samples), rateHz);
    const stream = this.stream();
    try {
      stream.feed(at16k);
      const answer = stream.finish();
      return remembered({ ...answer, durationS: samples.length / rateHz }, utterances.get(answer));
    } finally {
      stream.close();
    }
  }

  stream(rateHz = RATE_HZ) {
    return new Stream(this.#engine, rateHz, () => this.#correction);
  }

  features(samples) {
    return this.#engine.features(checked(samples));
  }

  /** Learn that the person sounds so when they are `label`, from a prediction of this recogniser or from samples. */
  adapt(utterance, label, rateHz = RATE_HZ) {
    const meant = wordMeant(label, [...this.manifest.labels, ...counts(this.#person.utterances).keys()]);
    const answer = utterance instanceof Float32Array ? this.predict(utterance, rateHz) : utterance;
    const heard = utterances.get(answer);
    if (heard === undefined) throw new EdgeSerError("adapt takes a prediction of a Recognizer, or samples and their rate");
    if (answer.label === NO_SPEECH) throw new EdgeSerError("there probably is no speech in it; nothing was learnt");
    this.#become({ ...this.#person, utterances: [...this.#person.utterances, { label: meant, ...heard }] });
  }

  /** Take back utterance `number`, counted from 1; all of them without a number. */
  forget(number) {
    const { utterances: all } = this.#person;
    if (number !== undefined && !(Number.isInteger(number) && number >= 1 && number <= all.length))
      throw new EdgeSerError(`there is no utterance ${number}; expected 1 to ${all.length}`);
    this.#become({ ...this.#person, utterances: number === undefined ? [] : all.filter((_, i) => i !== number - 1) });
  }

  get learnt() {
    return Object.fromEntries(counts(this.#person.utterances));
  }

  exportProfile() {
    return write(this.#person);
  }

  importProfile(json) {
    this.#become(read(json, this.#person.weights_sha256, this.manifest.labels));
  }

  save(key = KEY, storage = globalThis.localStorage) {
    requireStorage(storage);
    if (this.#person.utterances.length === 0) storage.removeItem(key);
    else storage.setItem(key, this.exportProfile());
  }

  restore(key = KEY, storage = globalThis.localStorage) {
    requireStorage(storage);
    const kept = storage.getItem(key);
    if (kept !== null) this.importProfile(kept);
    return kept !== null;
  }

  #become(person) {
    const { manifest } = this.#engine;
    requireRoom(person, manifest.labels);
    const correction = learn(person, {
      labels: manifest.labels,
      temperature: manifest.temperature,
      centres: manifest.centres,
      step: manifest.quantization.vector_scale / 256,
      speechMean: manifest.speech_vector.reduce((a, b) => a + b, 0) / manifest.speech_vector.length,
    });
    if (this.#correction !== null) this.#engine.forget(this.#correction);
    this.#correction = correction === null ? null : this.#engine.person(correction);
    this.#person = person;
  }
}

/** One utterance that arrives in chunks. */
export class Stream {
  #engine;
  #at;
  #resampler;
  #person;
  #n = 0;
  #final = null;

  constructor(engine, rateHz, person) {
    this.#engine = engine;
    this.#resampler = new Resampler(rateHz);
    this.#person = person;
    this.#at = engine.open();
    streams.register(this, { engine, at: this.#at }, this);
  }

  get durationS() {
    return this.#n / this.#resampler.rateHz;
  }

  feed(samples) {
    const at = this.#open();
    if (this.#final !== null) throw new EdgeSerError("the stream has finished; reset() begins the next utterance");
    checked(samples);
    this.#engine.feed(at, this.#resampler.push(samples));
    this.#n += samples.length;
  }

  get estimate() {
    if (this.#final !== null) return this.#final;
    const answer = this.#engine.answer(this.#open(), false, this.#person());
    return answer === TOO_SHORT || answer === SILENT ? null : this.#prediction(answer);
  }

  finish() {
    if (this.#final !== null) return this.#final;
    const at = this.#open();
    if (this.#n === 0) throw new EdgeSerError("the stream has ended without a sample; expected some speech");
    this.#engine.feed(at, this.#resampler.flush());
    const answer = this.#engine.answer(at, true, this.#person());
    if (answer === SILENT) throw new EdgeSerError("the audio is silent: what would be judged is digital silence; expected some speech");
    this.#final = this.#prediction(answer);
    return this.#final;
  }

  reset() {
    this.#engine.require(this.#engine.c.reset(this.#open()));
    this.#resampler = new Resampler(this.#resampler.rateHz);
    this.#n = 0;
    this.#final = null;
  }

  close() {
    if (this.#at === 0) return;
    streams.unregister(this);
    this.#engine.c.release(this.#at);
    this.#at = 0;
  }

  #open() {
    if (this.#at === 0) throw new EdgeSerError("the stream is closed; open another one");
    return this.#at;
  }

  #prediction(answer) {
    const { labels, probabilities, heard, isSpeech, ...rest } = answer;
    const confidence = Math.max(...probabilities);
    const label = isSpeech ? labels[probabilities.indexOf(confidence)] : NO_SPEECH;
    const named = Object.fromEntries(labels.map((name, i) => [name, probabilities[i]]));
    return remembered({ label, confidence, probabilities: named, ...rest, durationS: this.durationS }, heard);
  }
}

function remembered(prediction, heard) {
  utterances.set(prediction, heard);
  return prediction;
}

function requireStorage(storage) {
  if (!storage) throw new EdgeSerError("there is no localStorage here; keep what exportProfile() returns");
}

/** Everything up to 14 s, at 16 kHz; of more, the middle, from a whole stride on. Nothing else is resampled. */
function middle(samples, rateHz) {
  const n = lengthAt16k(samples.length, rateHz);
  const nFrames = Math.floor((n - FRAME) / HOP) + 1;
  if (nFrames <= MAX_FRAMES) return resampled(samples, rateHz, 0, n);
  let start = Math.floor((nFrames - MAX_FRAMES) / 2);
  start -= start % STRIDE;
  return resampled(samples, rateHz, start * HOP, (start + MAX_FRAMES - 1) * HOP + FRAME);
}
