/** An element of the page by its name. */
export const $ = (id) => document.getElementById(id);

/** The colour of every emotion, from the style sheet; words of a person's own share one. */
export function colourOf(label) {
  const style = getComputedStyle(document.documentElement);
  const named = ["neutral", "angry", "happy", "sad"].includes(label) ? label : label === null || label === "no_speech" ? "muted" : "own";
  return style.getPropertyValue(`--${named}`).trim();
}

/** The same, dark or light enough to be read. */
export const textColourOf = (label) => `color-mix(in srgb, ${colourOf(label)} 68%, var(--ink))`;

export function rgbOf(label) {
  const hex = colourOf(label).slice(1);
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

export const percent = (p) => `${Math.round(100 * p)} %`;

export const named = (label) => label.replace("_", " ");

export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
