import { capture, Recognizer, Segmenter } from "edge-ser";
import { Lesson } from "./lesson.js";
import { Picture } from "./picture.js";
import { addRow, clearRows, makeBars, showAnswer, told } from "./show.js";
import { $ } from "./words.js";

const RATE_HZ = 16000;
const PRE_ROLL_S = 0.4;
const PIECE = 4096;
const LONGEST_FILE_S = 3600;

let recognizer;
let picture;
let microphone = null;
let lesson = null;
let player = null;
let estimate = null;
let turn = 0; // of what is listened to: a recording that is being read gives way

/** Finds the utterances of one source, a microphone or a recording, and answers for each. */
class Listener {
  constructor(onUtterance) {
    this.segmenter = new Segmenter(RATE_HZ);
    this.stream = recognizer.stream(RATE_HZ);
    this.onUtterance = onUtterance;
  }

  feed(samples) {
    this.#take(this.segmenter.feed(samples));
  }

  finish() {
    this.#take(this.segmenter.finish());
    this.stream.close();
  }

  get estimate() {
    return this.segmenter.speaking ? this.stream.estimate : null;
  }

  #take(events) {
    for (const event of events) {
      if (event.type === "start") {
        this.stream.reset();
        [this.start, this.parts] = [event.start, []];
      } else if (event.type === "audio") {
        this.stream.feed(event.samples);
        this.parts.push(event.samples);
      } else {
        const samples = new Float32Array(event.stop - this.start);
        this.parts.reduce((at, part) => (samples.set(part, at), at + part.length), 0);
        const speechS = (event.speechStop - this.start) / RATE_HZ - PRE_ROLL_S;
        this.onUtterance({ start: this.start / RATE_HZ, samples, speechS, answer: this.stream.finish() });
      }
    }
  }
}

function say(text) {
  $("said").textContent = text;
}

function fail(error) {
  $("fault").textContent = error.message;
}

const quality = ({ answer }) => (answer.label === "no_speech" ? "There probably is no speech in it." : "");

function add(utterance, state) {
  showAnswer(utterance.answer, state, quality(utterance));
  addRow(utterance, () => {
    showAnswer(utterance.answer, "This utterance", quality(utterance));
    play(utterance.samples);
  });
  say(told(utterance.answer));
}

function play(samples) {
  player ??= new AudioContext();
  player.playing?.stop();
  const buffer = player.createBuffer(1, samples.length, RATE_HZ);
  buffer.copyToChannel(samples, 0);
  player.playing = new AudioBufferSourceNode(player, { buffer });
  player.playing.connect(player.destination);
  player.playing.start();
}

async function listen() {
  $("fault").textContent = "";
  if (microphone !== null) return stop();
  turn++;
  clear();
  const listener = new Listener((utterance) => {
    if (lesson === null) add(utterance, "The last sentence");
    else hearTask(utterance);
    picture.colour(utterance.samples.length / RATE_HZ + 0.1, utterance.answer.label);
  });
  let n = 0;
  estimate = null;
  for (const id of ["listen", "teach"]) $(id).disabled = true; // until the person has allowed it
  try {
    microphone = await capture((samples, rateHz) => {
      listener.feed(samples);
      if (listener.segmenter.speaking && ++n % 5 === 0) {
        estimate = listener.estimate;
        if (estimate !== null) showAnswer(estimate, "So far");
      } else if (!listener.segmenter.speaking) estimate = null;
      picture.push(samples, estimate?.label ?? null);
      $("picture").dataset.levelDb = listener.segmenter.levelDb.toFixed(1);
    });
  } catch (error) {
    listener.finish();
    return fail(error);
  } finally {
    for (const id of ["listen", "teach"]) $(id).disabled = false;
  }
  microphone.listener = listener;
  $("listen").setAttribute("aria-pressed", "true");
  $("listen-text").textContent = "Stop";
  showAnswer(null, "Listening");
}

async function stop() {
  if (microphone === null) return;
  const stopped = microphone;
  microphone = null;
  await stopped.stop();
  stopped.listener.finish();
  $("listen").setAttribute("aria-pressed", "false");
  $("listen-text").textContent = "Listen";
  if ($("timeline").children.length === 0) showAnswer(null, "Ready");
  endLesson();
}

async function open(file) {
  $("fault").textContent = "";
  if (microphone !== null) await stop();
  clear();
  showAnswer(null, "Reading", file.name);
  try {
    const decoder = new OfflineAudioContext(1, 1, RATE_HZ);
    const audio = await decoder.decodeAudioData(await file.arrayBuffer()).catch(() => {
      throw new Error(`${file.name} is no recording that this browser reads; expected WAV, MP3, FLAC, OGG or M4A`);
    });
    if (audio.duration > LONGEST_FILE_S) throw new Error(`${file.name} has ${Math.round(audio.duration / 60)} minutes; expected an hour at most`);
    await judge(mono(audio), file.name);
  } catch (error) {
    showAnswer(null, "Ready");
    fail(error);
  }
}

function mono(audio) {
  const found = new Float32Array(audio.length);
  for (let c = 0; c < audio.numberOfChannels; c++) audio.getChannelData(c).forEach((v, i) => (found[i] += v / audio.numberOfChannels));
  return found;
}

async function judge(samples, name) {
  const mine = ++turn;
  const utterances = [];
  const labelAt = (s) => utterances.find((u) => s >= u.start && s < u.start + u.samples.length / RATE_HZ)?.answer.label ?? null;
  picture.show(samples, labelAt);
  const listener = new Listener((utterance) => {
    utterances.push(utterance);
    add(utterance, name);
  });
  for (let at = 0; at < samples.length; at += PIECE) {
    listener.feed(samples.subarray(at, at + PIECE));
    if (at % (64 * PIECE) === 0) await new Promise((done) => setTimeout(done)); // the page stays awake
    if (turn !== mine) return listener.stream.close();
  }
  listener.finish();
  picture.show(samples, labelAt);
  if (utterances.length === 0) showAnswer(null, "Nobody speaks", `in ${name}, as far as its level tells.`);
}

function clear() {
  clearRows();
  picture.reset();
  showAnswer(null, "Ready");
}

function hearTask(utterance) {
  const { label } = lesson.task;
  const heard = lesson.hear(recognizer, utterance);
  $("lesson-status").textContent = heard;
  keep();
  showAnswer(utterance.answer, `Meant ${label}`, heard);
  if (lesson.task !== null) return showTask();
  endLesson();
  stop();
}

function showTask() {
  const { task } = lesson;
  $("lesson-idle").hidden = true;
  $("task").hidden = false;
  $("task-tone").innerHTML = "Say it <strong></strong>:";
  $("task-tone").firstElementChild.textContent = task.manner;
  $("task-text").textContent = task.text;
  $("steps").replaceChildren(...lesson.tasks.map(({ label }, i) => {
    const step = document.createElement("li");
    if (i < lesson.next) step.style.background = `var(--${label})`;
    step.classList.toggle("next", i === lesson.next);
    return step;
  }));
  say(`Say it ${task.manner}: ${task.text}`);
}

async function teach() {
  if (lesson !== null) return stop();
  if (microphone === null) await listen();
  if (microphone === null) return;
  lesson = new Lesson(recognizer.manifest.labels);
  $("lesson-status").textContent = "";
  $("teach").textContent = "Stop";
  showTask();
}

function endLesson() {
  lesson = null;
  $("lesson-idle").hidden = false;
  $("task").hidden = true;
  $("steps").replaceChildren();
  $("teach").textContent = "Start the eight sentences";
}

/** Keep what was learnt, and show what there is. */
function keep() {
  try {
    recognizer.save();
  } catch {
    $("lesson-status").textContent = "This browser keeps nothing; save the profile to a file.";
  }
  const n = Object.values(recognizer.learnt).reduce((a, b) => a + b, 0);
  $("kept").textContent = n === 0 ? "" : `${n} sentence${n === 1 ? "" : "s"} of yours`;
  for (const id of ["export", "forget"]) $(id).hidden = n === 0;
  makeBars(recognizer.labels);
}

function saveToFile() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([recognizer.exportProfile()], { type: "application/json" }));
  link.download = "edge-ser-profile.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function takeOver(file) {
  try {
    recognizer.importProfile(await file.text());
    keep();
    $("lesson-status").textContent = "The answers are fitted to that voice now.";
  } catch (error) {
    $("lesson-status").textContent = error.message;
  }
}

async function prove() {
  const refused = new Promise((done) => document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true }));
  const sent = fetch("https://example.org/", { method: "POST", body: "a voice" }).then(() => null, () => refused);
  const directive = await sent;
  $("proof").textContent = directive === null ? "It was sent. This copy of the page has lost its policy; do not trust it." : `Refused by the browser: ${directive} allows no address.`;
}

function wire() {
  const press = (id, action) => $(id).addEventListener("click", () => Promise.resolve(action()).catch(fail));
  press("listen", listen);
  press("teach", teach);
  press("clear", clear);
  press("export", saveToFile);
  press("prove", prove);
  press("forget", () => {
    recognizer.forget();
    keep();
    $("lesson-status").textContent = "Forgotten.";
  });
  for (const [id, action] of [["open", open], ["import", takeOver]])
    $(id).addEventListener("change", ({ target }) => {
      if (target.files.length > 0) action(target.files[0]);
      target.value = "";
    });
  let within = 0;
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => files(event) && ($("drop").hidden = ++within === 0));
  addEventListener("dragleave", (event) => files(event) && ($("drop").hidden = --within === 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    within = 0;
    $("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) (file.name.endsWith(".json") ? takeOver : open)(file);
  });
}

try {
  recognizer = await Recognizer.create();
  picture = new Picture($("picture"), (samples) => recognizer.features(samples));
  try {
    recognizer.restore();
  } catch (error) {
    $("lesson-status").textContent = error.message;
  }
  keep();
  wire();
  showAnswer(null, "Ready");
  for (const id of ["listen", "open", "teach"]) $(id).disabled = false;
} catch (error) {
  showAnswer(null, "It cannot run here");
  fail(error);
}
