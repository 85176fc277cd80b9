import { RATE_HZ, Resampler } from "./resampler.js";
import { checked } from "./samples.js";

/**
 * Finds utterances by their level: a window of 32 ms is speech where it is so much louder than the room. The rules behind that
 * are those of edge_ser/live/segmenter.py, whose detector is a network; a level takes other sounds for speech, too, and the
 * recogniser's answer no_speech sorts most of them out.
 */

const WINDOW = 512;
const BEGIN_DB = 12; // above the room
const GO_ON_DB = 7;
const LEAST_DB = -58; // below full scale: nobody speaks so softly
const ROOM_WINDOWS = 190; // 6 s, of which the quietest sixth is the room
const ROOM_AT_FIRST_DB = -62;
const samples = (ms) => Math.round((ms * RATE_HZ) / 1000);
const [MIN_SPEECH, HANGOVER, PRE_ROLL, POST_ROLL, LONGEST] = [250, 500, 400, 400, 14000].map(samples);

export class Segmenter {
  constructor(rateHz = RATE_HZ) {
    this.resampler = new Resampler(rateHz);
    this.levelDb = -120;
    this.roomDb = ROOM_AT_FIRST_DB;
    this.speaking = false;
    this.levels = new Array(16).fill(ROOM_AT_FIRST_DB);
    this.position = 0;
    this.tape = new Float32Array(0); // what may be handed out yet, from sample `tapeStart` on
    this.tapeStart = 0;
    this.start = null;
    this.speech = 0;
    this.speechStop = 0;
    this.sent = 0;
    this.free = 0;
  }

  /** Take the next samples; return what has happened: start, audio ..., end. */
  feed(chunk) {
    return this.#take(this.resampler.push(checked(chunk)));
  }

  /** End the audio, and with it the utterance that is under way. */
  finish() {
    const events = this.#take(this.resampler.flush());
    const rest = this.tapeStart + this.tape.length - this.position;
    if (rest > 0) this.#look(rest, events);
    if (this.speaking) this.#end(Math.min(this.speechStop + POST_ROLL, this.position), events);
    return events;
  }

  #take(chunk) {
    const events = [];
    const joined = new Float32Array(this.tape.length + chunk.length);
    joined.set(this.tape);
    joined.set(chunk, this.tape.length);
    this.tape = joined;
    while (this.position + WINDOW <= this.tapeStart + this.tape.length) this.#look(WINDOW, events);
    const needed = this.speaking ? this.sent : (this.start ?? this.position - PRE_ROLL);
    if (needed > this.tapeStart) {
      this.tape = this.#part(needed, this.tapeStart + this.tape.length);
      this.tapeStart = needed;
    }
    return events;
  }

  #look(n, events) {
    const begin = this.position;
    this.position += n;
    const above = this.#measure(this.#part(begin, this.position));
    const goesOn = this.start !== null && this.speechStop === begin;
    if (above >= (goesOn ? GO_ON_DB : BEGIN_DB) && this.levelDb >= LEAST_DB) {
      if (this.start === null) [this.start, this.speech] = [Math.max(begin - PRE_ROLL, this.free), 0];
      this.speech += n;
      this.speechStop = this.position;
    }
    if (this.start === null) return;
    if (!this.speaking && this.speech >= MIN_SPEECH) this.#begin(this.start, events);
    if (this.speaking) this.#send(Math.min(this.speechStop + POST_ROLL, this.position), events);
    if (this.start !== null && this.position - this.speechStop >= HANGOVER) {
      if (this.speaking) this.#end(this.speechStop + POST_ROLL, events);
      this.start = null;
    }
  }

  /** The window's level, less a constant offset; return how far above the room it is, in dB. */
  #measure(window) {
    let sum = 0;
    let squares = 0;
    for (const value of window) {
      sum += value;
      squares += value * value;
    }
    const mean = sum / window.length;
    this.levelDb = 10 * Math.log10(Math.max(squares / window.length - mean * mean, 1e-12));
    this.levels.push(this.levelDb);
    if (this.levels.length > ROOM_WINDOWS) this.levels.shift();
    this.roomDb = [...this.levels].sort((a, b) => a - b)[Math.floor(this.levels.length / 6)];
    return this.levelDb - this.roomDb;
  }

  #begin(start, events) {
    this.speaking = true;
    this.sent = start;
    events.push({ type: "start", start });
  }

  /** Hand out the samples up to `stop`, and cut where the utterance is at its longest. */
  #send(stop, events) {
    while (this.speaking && stop > this.start + LONGEST) {
      const cut = this.start + LONGEST;
      this.#end(cut, events);
      if (this.speechStop > cut) {
        [this.start, this.speech] = [cut, this.speechStop - cut];
        if (this.speech >= MIN_SPEECH) this.#begin(cut, events);
      }
    }
    if (this.speaking && stop > this.sent) this.#give(stop, events);
  }

  #end(stop, events) {
    if (stop > this.sent) this.#give(stop, events);
    events.push({ type: "end", stop, speechStop: Math.min(this.speechStop, stop) });
    [this.speaking, this.start, this.free] = [false, null, stop];
  }

  #give(stop, events) {
    events.push({ type: "audio", samples: this.#part(this.sent, stop) });
    this.sent = stop;
  }

  #part(start, stop) {
    return this.tape.slice(start - this.tapeStart, stop - this.tapeStart);
  }
}
