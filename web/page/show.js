import { $, clock, colourOf, named, percent, textColourOf } from "./words.js";
import { drawWave } from "./picture.js";

const MOST_ROWS = 300;
const PLAY = '<svg viewBox="0 0 12 12" aria-hidden="true"><path d="M2 1l9 5-9 5z"/></svg>';

/** The answer in large, and the bars; without an answer, what the page is doing. */
export function showAnswer(answer, state, note = "") {
  $("state").textContent = answer === null ? "" : state;
  $("word").textContent = answer === null ? state : named(answer.label);
  $("word").classList.toggle("waiting", answer === null);
  $("word").style.color = answer === null ? "" : textColourOf(answer.label);
  $("note").textContent = note;
  const spoken = answer !== null && answer.label !== "no_speech";
  for (const bar of $("bars").children) {
    const p = spoken ? (answer.probabilities[bar.dataset.label] ?? 0) : 0;
    bar.querySelector(".fill").style.width = `${100 * p}%`;
    bar.querySelector(".percent").textContent = spoken ? percent(p) : "";
    bar.querySelector(".track").setAttribute("aria-valuenow", String(Math.round(100 * p)));
    bar.classList.toggle("best", spoken && answer.label === bar.dataset.label);
  }
}

/** A bar for every label. */
export function makeBars(labels) {
  $("bars").replaceChildren(...labels.map((label) => {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.dataset.label = label;
    const [name, track, fill, value] = ["span", "div", "div", "span"].map((tag) => document.createElement(tag));
    [name.className, track.className, fill.className, value.className] = ["name", "track", "fill", "percent"];
    name.textContent = label;
    name.setAttribute("aria-hidden", "true");
    value.setAttribute("aria-hidden", "true");
    for (const [key, content] of Object.entries({ role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 0 }))
      track.setAttribute(key, String(content));
    fill.style.background = colourOf(label);
    track.append(fill);
    bar.append(name, track, value);
    return bar;
  }));
}

/** What a person's ears get of an answer. */
export const told = (answer) => (answer.label === "no_speech" ? "no speech" : `${answer.label}, ${percent(answer.confidence)}`);

/** A row of the timeline: pressed, it is shown and heard again. */
export function addRow({ start, samples, answer }, onPress) {
  const item = document.createElement("li");
  const row = document.createElement("button");
  row.type = "button";
  row.className = "row";
  row.innerHTML = `${PLAY}<span class="time"></span><canvas aria-hidden="true"></canvas><span class="label"></span><span class="percent"></span>`;
  row.querySelector(".time").textContent = clock(start);
  row.querySelector(".label").textContent = named(answer.label);
  row.querySelector(".label").style.color = textColourOf(answer.label);
  row.querySelector(".percent").textContent = answer.label === "no_speech" ? "" : percent(answer.confidence);
  row.setAttribute("aria-label", `Play ${clock(start)}, ${told(answer)}, ${(samples.length / 16000).toFixed(1)} seconds`);
  row.addEventListener("click", () => {
    for (const other of $("timeline").querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
    onPress();
  });
  item.append(row);
  $("timeline").append(item);
  if ($("timeline").children.length > MOST_ROWS) $("timeline").firstChild.remove();
  drawWave(row.querySelector("canvas"), samples, answer.label);
  $("timeline").scrollTop = $("timeline").scrollHeight;
  $("empty").hidden = true;
  $("clear").hidden = false;
}

export function clearRows() {
  $("timeline").replaceChildren();
  $("empty").hidden = false;
  $("clear").hidden = true;
}
