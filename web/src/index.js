export { capture } from "./capture.js";
export { EdgeSerError } from "./errors.js";
export { NO_SPEECH, Recognizer, Stream } from "./recognizer.js";
export { Segmenter } from "./segmenter.js";
