/** Eight sentences: every emotion twice, the same words for all, so that the voice is learnt and not the text. */

const TAKES = 2;
const SENTENCES = ["The train leaves at half past seven.", "There is a letter for you on the table."];
const MANNER = { neutral: "in your everyday tone", angry: "angrily", happy: "happily", sad: "sadly" };
const [LEAST_S, SOFTEST_DB, CLIPPED] = [0.8, -50, 0.002];

/** Why an utterance is no good take, or an empty string. */
export function faultOf(samples, speechS) {
  const power = samples.reduce((sum, v) => sum + v * v, 0) / Math.max(1, samples.length);
  const clipped = samples.reduce((n, v) => n + (Math.abs(v) >= 0.99), 0) / Math.max(1, samples.length);
  if (speechS < LEAST_S) return "say the whole sentence";
  if (clipped > CLIPPED) return "it is too loud for the microphone, speak softer";
  if (10 * Math.log10(Math.max(power, 1e-12)) < SOFTEST_DB) return "it is too soft, come nearer";
  return "";
}

export class Lesson {
  constructor(labels) {
    this.tasks = [];
    for (let take = 0; take < TAKES; take++)
      labels.forEach((label, i) => this.tasks.push({ label, text: SENTENCES[(take + i) % TAKES], manner: MANNER[label] }));
    this.next = 0;
  }

  get task() {
    return this.tasks[this.next] ?? null;
  }

  /** Take an utterance for the task; return what to tell the person. */
  hear(recognizer, { samples, speechS, answer }) {
    const fault = faultOf(samples, speechS) || (answer.label === "no_speech" ? "it does not sound like speech" : "");
    if (fault !== "") return `Once more: ${fault}.`;
    recognizer.adapt(answer, this.task.label);
    this.next++;
    return this.task === null ? "Done. The answers are fitted to your voice now." : "Good.";
  }
}
