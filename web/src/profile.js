import { EdgeSerError } from "./errors.js";
import { counts, LIMIT } from "./correction.js";

/** The profile that edge_ser/personal/profile.py reads and writes: one person, to one model. */

const FORMAT = "edge-ser-profile";
const FORMAT_VERSION = 4;
/** Utterances of a person: fewer than in Python, since learning takes the time of the page. */
export const MAX_UTTERANCES = 60;
const MAX_LABELS = 16;
const MAX_LABEL = 40;
const ARRAYS = { statistics: [Uint16Array, 960], embedding: [Int32Array, 64], logits: [Int32Array, null] };

export const nobody = (sha256) => ({ weights_sha256: sha256, utterances: [], only: false });

/** Throw unless `label` is a word that answers can be named by. */
export function requireWord(label) {
  if (typeof label !== "string" || label === "" || label !== label.trim() || /[\p{C}\p{Zl}\p{Zp}]/u.test(label))
    throw new EdgeSerError(`the label is ${JSON.stringify(label)}; expected a word, such as happy or tired`);
  if ([...label].length > MAX_LABEL || ["uncertain", "no_speech"].includes(folded(label)))
    throw new EdgeSerError(`the label is ${label}; expected at most ${MAX_LABEL} characters, not the answer uncertain or no_speech`);
}

/** The one of `known` that `label` differs from by case and surrounding blanks alone, or the word itself. */
export function wordMeant(label, known) {
  const word = typeof label === "string" ? label.trim() : label;
  requireWord(word);
  return known.find((other) => folded(other) === folded(word)) ?? word;
}

const folded = (word) => word.normalize("NFKC").toUpperCase().toLowerCase();

/** Throw unless the person's utterances and words are as many as there is room for. */
export function requireRoom(person, known) {
  if (person.utterances.length > MAX_UTTERANCES)
    throw new EdgeSerError(`the profile would hold ${person.utterances.length} utterances; expected at most ${MAX_UTTERANCES}`);
  const words = new Set([...known, ...counts(person.utterances).keys()]);
  if (words.size > MAX_LABELS) throw new EdgeSerError(`the profile would hold ${words.size} labels; expected at most ${MAX_LABELS}`);
}

/** The profile as JSON, the same that `edge-ser adapt` writes. */
export function write(person) {
  const utterances = person.utterances.map((heard) => ({
    label: heard.label,
    ...Object.fromEntries(Object.keys(ARRAYS).map((name) => [name, base64(heard[name])])),
  }));
  const table = { format: FORMAT, format_version: FORMAT_VERSION, microphone: null, person: { ...person, utterances } };
  return `${JSON.stringify(table)}\n`;
}

/** The person in a profile, checked. */
export function read(text, sha256, known) {
  let table;
  try {
    table = JSON.parse(text);
  } catch {
    throw new EdgeSerError("the profile is no JSON; expected one that edge-ser wrote");
  }
  if (table?.format !== FORMAT || table.format_version !== FORMAT_VERSION)
    throw new EdgeSerError(`expected format ${FORMAT}, version ${FORMAT_VERSION}; got ${table?.format}, version ${table?.format_version}`);
  if (table.microphone) throw new EdgeSerError("the profile knows a microphone, which the C library does not; adapt one without");
  const person = table.person ?? nobody(sha256);
  if (person.weights_sha256 !== sha256)
    throw new EdgeSerError("the profile learnt a person with another model; adapt this model to the person anew");
  if (!Array.isArray(person.utterances) || typeof person.only !== "boolean")
    throw new EdgeSerError("the profile's person has no utterances; the file was edited");
  const utterances = person.utterances.map((heard) => {
    requireWord(heard?.label);
    return { label: heard.label, ...Object.fromEntries(Object.keys(ARRAYS).map((name) => [name, array(name, heard[name], known.length)])) };
  });
  const found = { weights_sha256: sha256, utterances, only: person.only };
  requireRoom(found, known);
  return found;
}

/** A typed array's bytes, low byte first as on every machine that runs WebAssembly. */
function base64(values) {
  let text = "";
  for (const byte of new Uint8Array(values.buffer, values.byteOffset, values.byteLength)) text += String.fromCharCode(byte);
  return btoa(text);
}

function array(name, text, nLabels) {
  const [Kind, size] = ARRAYS[name];
  let bytes;
  try {
    bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  } catch {
    bytes = new Uint8Array(0);
  }
  if (bytes.length !== (size ?? nLabels) * Kind.BYTES_PER_ELEMENT)
    throw new EdgeSerError(`the profile's ${name} of an utterance are no ${size ?? nLabels} whole numbers; the file was edited`);
  const values = new Kind(bytes.buffer);
  if (Kind === Int32Array && values.some((v) => Math.abs(v) > LIMIT))
    throw new EdgeSerError("the profile has numbers beyond any model's; the file was edited");
  return values;
}
