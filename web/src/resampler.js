import { EdgeSerError } from "./errors.js";

/** Rate of everything behind the resampler, in Hz. */
export const RATE_HZ = 16000;
const ZERO_CROSSINGS = 32;
const STEPS = 512; // of the table between two zero crossings
const BETA = 9; // Kaiser's window: stop band 90 dB down
const ROLL_OFF = 0.945; // where the pass band ends, of the lower of the two Nyquist frequencies

let table = null;

/** Half of a windowed sinc, [ZERO_CROSSINGS * STEPS + 2]. */
function kernel() {
  const bessel = (x) => {
    let sum = 1;
    for (let term = 1, k = 1; term > sum * 1e-12; k++) sum += term *= (x / (2 * k)) ** 2;
    return sum;
  };
  table ??= Float64Array.from({ length: ZERO_CROSSINGS * STEPS + 2 }, (_, i) => {
    const x = i / STEPS;
    const within = Math.max(0, 1 - (x / ZERO_CROSSINGS) ** 2);
    const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
    return i >= ZERO_CROSSINGS * STEPS ? 0 : (sinc * bessel(BETA * Math.sqrt(within))) / bessel(BETA);
  });
  return table;
}

/** How many samples `n` samples become. */
export const lengthAt16k = (n, rateHz) => Math.floor((2 * n * RATE_HZ + rateHz) / (2 * rateHz));

/** Samples `start` to `stop` of what all of `samples` become, with the same bits; only what these depend on is read. */
export function resampled(samples, rateHz, start, stop) {
  const resampler = new Resampler(rateHz, start);
  if (rateHz === RATE_HZ) return samples.subarray(start, stop);
  const end = Math.floor(((stop - 1) * rateHz) / RATE_HZ + resampler.reach) + 1;
  const parts = [resampler.push(samples.subarray(resampler.first, end)), resampler.flush()];
  const found = new Float32Array(resampler.nOut - start);
  found.set(parts[0]);
  found.set(parts[1], parts[0].length);
  return found.subarray(0, stop - start);
}

/**
 * Turns chunks of any rate into 16 kHz; how the signal is cut into chunks changes nothing. It begins with sample `start` of the
 * output, and takes the input from sample `first` on.
 */
export class Resampler {
  constructor(rateHz, start = 0) {
    if (!Number.isInteger(rateHz) || rateHz < 1000 || rateHz > 768000)
      throw new EdgeSerError(`the rate is ${rateHz}; expected a whole number of Hz from 1000 to 768000`);
    this.rateHz = rateHz;
    this.nOut = start;
    this.scale = Math.min(1, RATE_HZ / rateHz) * ROLL_OFF; // of the kernel, in zero crossings an input sample
    this.reach = Math.ceil(ZERO_CROSSINGS / this.scale); // input samples on either side
    this.first = Math.max(0, Math.ceil((start * rateHz) / RATE_HZ - this.reach));
    this.nIn = this.first;
    this.held = new Float32Array(0); // from input sample `first` on
  }

  /** Return what `samples` complete. */
  push(samples) {
    this.nIn += samples.length;
    if (this.rateHz === RATE_HZ) return samples;
    const joined = new Float32Array(this.held.length + samples.length);
    joined.set(this.held);
    joined.set(samples, this.held.length);
    this.held = joined;
    return this.#produce(Math.floor(((this.nIn - this.reach) * RATE_HZ) / this.rateHz));
  }

  /** Return the rest, as if silence followed. */
  flush() {
    if (this.rateHz === RATE_HZ) return new Float32Array(0);
    return this.#produce(lengthAt16k(this.nIn, this.rateHz));
  }

  #produce(stop) {
    const half = kernel();
    const out = new Float32Array(Math.max(0, stop - this.nOut));
    for (let k = 0; k < out.length; k++) {
      const at = ((this.nOut + k) * this.rateHz) / RATE_HZ;
      const from = Math.max(0, Math.ceil(at - this.reach));
      const to = Math.min(this.nIn - 1, Math.floor(at + this.reach));
      let sum = 0;
      for (let i = from; i <= to; i++) {
        const x = Math.abs(i - at) * this.scale * STEPS;
        const j = Math.floor(x);
        if (j < ZERO_CROSSINGS * STEPS) sum += this.held[i - this.first] * (half[j] + (x - j) * (half[j + 1] - half[j]));
      }
      out[k] = sum * this.scale;
    }
    this.nOut += out.length;
    const needed = Math.max(0, Math.ceil((this.nOut * this.rateHz) / RATE_HZ - this.reach) - this.first);
    this.held = this.held.slice(needed);
    this.first += needed;
    return out;
  }
}
