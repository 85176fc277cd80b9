/** How an utterance sounds. */
export interface Prediction {
  /** The most probable emotion, or `no_speech`; the probabilities then say nothing. */
  readonly label: string;
  /** The highest probability, calibrated: of many answers given with 0.8, about 80 % are right, on speech like the training's. */
  readonly confidence: number;
  /** Every label's probability; they sum to 1. */
  readonly probabilities: Readonly<Record<string, number>>;
  /** The feature z, 64 numbers; close in Euclidean distance means alike in emotion. */
  readonly embedding: Float32Array;
  /** The network's outputs before temperature, softmax and a person's correction. */
  readonly logits: Float32Array;
  /** Probability that there is any speech. */
  readonly speech: number;
  /** Length of the audio, in seconds. */
  readonly durationS: number;
}

/** Tells how speech sounds: four emotions, offline. */
export declare class Recognizer {
  private constructor();
  /** Compile the library and load the model, both of which this module holds. */
  static create(): Promise<Recognizer>;
  /** What the model says about itself: corpora, licences, scores, intended use. */
  readonly manifest: Readonly<Record<string, unknown>>;
  /** The labels of answers, a person's own words behind the model's. */
  readonly labels: readonly string[];
  /**
   * Answer for a recording: mono samples, full scale 1.0, at any whole rate from 1000 to 768000 Hz. Of more than 14 s the middle
   * 14.03 s are judged, begun at the last whole 0.16 s before; less than 0.52 s is padded with silence.
   * @throws EdgeSerError for NaN, samples beyond 8, or nothing but digital silence in what is judged
   */
  predict(samples: Float32Array, rateHz?: number): Prediction;
  /** A stream for one utterance that arrives in chunks. */
  stream(rateHz?: number): Stream;
  /**
   * What the network sees of samples at 16 kHz: 128 Mel bands in dB every 10 ms, frame after frame.
   * @throws EdgeSerError for NaN and samples beyond 8
   */
  features(samples: Float32Array): Float32Array;
  /**
   * Learn that this person sounds so when they are `label`, one of the model's or a word of their own. Two to four utterances of
   * every emotion serve best; one emotion alone changes nothing.
   * @throws EdgeSerError for `no_speech`, or a profile that is full
   */
  adapt(utterance: Prediction | Float32Array, label: string, rateHz?: number): void;
  /** Take back what was learnt: utterance `number`, counted from 1, or everything. */
  forget(number?: number): void;
  /** How many utterances of every label were learnt. */
  readonly learnt: Readonly<Record<string, number>>;
  /** What was learnt, as the JSON that `edge-ser predict --profile` reads; it holds no audio. */
  exportProfile(): string;
  /**
   * Take over a profile that this or `edge-ser adapt` wrote.
   * @throws EdgeSerError for one of more than 60 utterances, one that knows a microphone, or one of another model
   */
  importProfile(json: string): void;
  /** Keep what was learnt in this browser. */
  save(key?: string, storage?: Pick<Storage, "setItem" | "removeItem">): void;
  /** Take over what `save` kept; whether there was anything. */
  restore(key?: string, storage?: Pick<Storage, "getItem">): boolean;
}

/** One utterance that arrives in chunks; made by `Recognizer.stream`. */
export declare class Stream {
  private constructor();
  /** Length of what was fed so far, in seconds. */
  readonly durationS: number;
  /**
   * Take the next samples, any number.
   * @throws EdgeSerError for NaN and samples beyond 8; the stream is then as it was before
   */
  feed(samples: Float32Array): void;
  /** The answer for what was fed so far; null below 0.52 s, and in digital silence. */
  readonly estimate: Prediction | null;
  /** End the utterance and answer for the whole, as `predict` does; of more than 14 s the last 14 s are judged. */
  finish(): Prediction;
  /** Forget everything; the next chunk begins another utterance. */
  reset(): void;
  /** Give its memory back; a stream that is forgotten does so by itself, later. */
  close(): void;
}

export type SegmenterEvent =
  | { readonly type: "start"; /** First sample at 16 kHz, a moment before the speech. */ readonly start: number }
  | { readonly type: "audio"; /** The next samples of the utterance, at 16 kHz. */ readonly samples: Float32Array }
  | { readonly type: "end"; /** One past its last sample. */ readonly stop: number; readonly speechStop: number };

/** Finds utterances by their level, of 14 s at most. */
export declare class Segmenter {
  constructor(rateHz?: number);
  /** Of the newest 32 ms, in dB below full scale. */
  readonly levelDb: number;
  /** Of the room. */
  readonly roomDb: number;
  readonly speaking: boolean;
  /**
   * Take the next samples and return what has happened.
   * @throws EdgeSerError for NaN and samples beyond 8; the segmenter is then as it was before
   */
  feed(samples: Float32Array): SegmenterEvent[];
  /** End the audio. */
  finish(): SegmenterEvent[];
}

/** Listen to the microphone; `onSamples` gets 32 ms at a time. The browser asks the person first. */
export declare function capture(
  onSamples: (samples: Float32Array, rateHz: number) => void,
): Promise<{ readonly rateHz: number; stop(): Promise<void> }>;

/** What a caller can mend; the message is one line for a person. */
export declare class EdgeSerError extends Error {}

export declare const NO_SPEECH: "no_speech";
