import { EdgeSerError } from "./errors.js";
import { RATE_HZ } from "./resampler.js";

/** What runs beside the audio: 32 ms a message. */
const WORKLET = `registerProcessor("edge-ser-capture", class extends AudioWorkletProcessor {
  constructor() { super(); this.block = new Float32Array(512); this.n = 0; }
  process([input]) {
    const channels = input.length;
    for (let i = 0; channels && i < input[0].length; i++) {
      let sum = 0;
      for (const channel of input) sum += channel[i];
      this.block[this.n++] = sum / channels;
      if (this.n === 512) {
        this.port.postMessage(this.block, [this.block.buffer]);
        this.block = new Float32Array(512);
        this.n = 0;
      }
    }
    return true;
  }
});`;

/**
 * Listen to the microphone: `onSamples(samples, rateHz)` gets 512 samples at a time. The browser asks the person first.
 *
 * Nothing is to be served beside this module: the worklet is a data: URL, which a Content-Security-Policy must allow in script-src.
 */
export async function capture(onSamples) {
  if (!globalThis.navigator?.mediaDevices?.getUserMedia)
    throw new EdgeSerError("there is no microphone here; expected a page from https, localhost or a file");
  let media;
  try {
    // As it is: what cleans speech up for calls changes how it sounds.
    media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  } catch (error) {
    const reason = { NotAllowedError: "the microphone is not allowed; allow it in the browser's address bar", NotFoundError: "no microphone was found; connect one" };
    throw new EdgeSerError(reason[error.name] ?? `the microphone cannot be opened: ${error.message}`);
  }
  let context;
  let source;
  try {
    context = new AudioContext({ sampleRate: RATE_HZ });
    source = context.createMediaStreamSource(media);
  } catch {
    await context?.close(); // some browsers take a microphone at its own rate alone
    context = new AudioContext();
    source = context.createMediaStreamSource(media);
  }
  const stop = async () => {
    media.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") await context.close();
  };
  try {
    await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(WORKLET)}`);
    const node = new AudioWorkletNode(context, "edge-ser-capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onSamples(data, context.sampleRate);
    source.connect(node);
    await context.resume();
  } catch (error) {
    await stop();
    throw error;
  }
  return { rateHz: context.sampleRate, stop };
}
