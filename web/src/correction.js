import { cholesky, dot, eigen, rows, solve, solveFactored } from "./matrices.js";
import { HANDICAP, Within } from "./within.js";

/**
 * What a person's utterances change about the network's answer, as edge_ser/personal/correction.py learns it:
 *
 *     x = (statistics - mean of the person's) / spread / sqrt(960)
 *     scores = logits / T + e(z) + A x + b          e: evidence of the moved class centres, or none
 *
 * Several convex fits, some of x seen through what a label's utterances differ by, one the network as it is, are mixed by how well each tells an utterance that it did not hear.
 */

export const Q16 = 65536;
export const LIMIT = 2 ** 29;
const LAMBDAS = [0.01, 0.05, 0.2];
const BIAS = 0.5;
const SPREAD = 0.66;
const MISTAKEN = 0.1;
const RIGHT = 0.8;
const SHARED = 4; // utterances that weigh as much as the assumption that all emotions lie where the model has them
const OWN = 8; // the same, that an emotion moves as the person's others do
const EVIDENCE = 1.5;
const TEMPERATURES = Array.from({ length: 37 }, (_, i) => Math.exp(-0.7 + (1.8 * i) / 36));

const sum = (values) => values.reduce((total, value) => total + value, 0);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** To the nearest whole number, of two equally near ones the even one. */
export function rint(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low & 1 ? 1 : 0) : Math.round(x);
}

function softmax(scores) {
  const highest = Math.max(...scores);
  const powers = scores.map((s) => Math.exp(s - highest));
  const total = sum(powers);
  return powers.map((p) => p / total);
}

/** How often every label was heard, in the order they came. */
export function counts(utterances) {
  const found = new Map();
  for (const { label } of utterances) found.set(label, (found.get(label) ?? 0) + 1);
  return found;
}

/** The labels of a person's answers: the model's, and words of their own. */
export function labelsOf(person, known) {
  const given = [...counts(person.utterances).keys()];
  if (given.length < 2) return known;
  return [...known.filter((l) => !person.only || given.includes(l)), ...given.filter((l) => !known.includes(l))];
}

function movedCentres(labels, centres, of) {
  const size = centres[0].length;
  const n = labels.map((label) => of.get(label)?.n ?? 0);
  const displacement = labels.map((label, i) => centres[i].map((c, d) => (of.has(label) ? of.get(label).mean[d] - c : 0)));
  const weight = n.map((k) => (k * OWN) / (k + OWN));
  const total = sum(weight) + SHARED;
  const shared = Array.from({ length: size }, (_, d) => sum(weight.map((w, i) => w * displacement[i][d])) / total);
  return centres.map((row, i) => row.map((c, d) => c + shared[d] + (n[i] / (n[i] + OWN)) * (displacement[i][d] - shared[d])));
}

/** Mean squared distance of the centres from their middle. */
function scatter(centres) {
  const middle = centres[0].map((_, d) => sum(centres.map((row) => row[d])) / centres.length);
  return sum(centres.map((row) => sum(row.map((c, d) => (c - middle[d]) ** 2)))) / centres.length;
}

/** Slope and constant of the evidence by label, linear in z, without utterance `leftOut`. */
function evidence(model, z, words, source, leftOut) {
  const of = new Map();
  words.forEach((word, i) => {
    if (i === leftOut || !model.labels.includes(word)) return;
    if (!of.has(word)) of.set(word, { n: 0, mean: new Array(z[0].length).fill(0) });
    const found = of.get(word);
    found.n++;
    z[i].forEach((value, d) => (found.mean[d] += value));
  });
  for (const found of of.values()) found.mean = found.mean.map((value) => value / found.n);
  const strength = EVIDENCE / scatter(model.centres);
  const moved = movedCentres(model.labels, model.centres, of);
  const none = new Array(z[0].length).fill(0);
  const slope = source.map((s) => (s < 0 ? none : moved[s].map((c, d) => 2 * strength * (c - model.centres[s][d]))));
  const constant = source.map((s) => (s < 0 ? 0 : strength * (dot(model.centres[s], model.centres[s]) - dot(moved[s], moved[s]))));
  return { slope, constant };
}

function objective(problem, solution) {
  const { design, offset, target, weights, ridge } = problem;
  let total = 0;
  for (let i = 0; i < design.length; i++) {
    const scores = offset[i].map((o, c) => o + dot(design[i], solution[c]));
    const highest = Math.max(...scores);
    const log = highest + Math.log(sum(scores.map((s) => Math.exp(s - highest))));
    total += weights[i] * (log - sum(scores.map((s, c) => s * target[i][c])));
  }
  for (const column of solution) for (let p = 0; p < ridge.length; p++) total += 0.5 * ridge[p] * column[p] ** 2;
  return total;
}

const curvature = (p) => p.map((a, i) => p.map((b, j) => (i === j ? a : 0) - a * b));

/** Its lower triangle, which is all that cholesky looks at. */
function hessian({ design, weights, ridge }, probabilities) {
  const p = ridge.length;
  const n = probabilities[0].length;
  const found = rows(n * p, n * p);
  for (let i = 0; i < design.length; i++) {
    const curved = curvature(probabilities[i]);
    for (let a = 0; a < n; a++)
      for (let b = 0; b <= a; b++) {
        const factor = weights[i] * curved[a][b];
        for (let q = 0; q < p; q++) {
          const row = found[a * p + q];
          const left = factor * design[i][q];
          for (let r = 0; r < p; r++) row[b * p + r] += left * design[i][r];
        }
      }
  }
  for (let k = 0; k < n * p; k++) found[k][k] += ridge[k % p];
  return found;
}

/** The solution by label, by Newton's method, and every utterance's scores by the others. */
function fit(problem, start) {
  const { design, offset, target, weights, ridge } = problem;
  const p = ridge.length;
  const n = offset[0].length;
  let solution = start ?? rows(n, p);
  let loss = objective(problem, solution);
  const scoresOf = () => design.map((row, i) => offset[i].map((o, c) => o + dot(row, solution[c])));
  for (let round = 0; round < 20; round++) {
    const probabilities = scoresOf().map(softmax);
    const gradient = new Float64Array(n * p);
    for (let c = 0; c < n; c++)
      for (let q = 0; q < p; q++) {
        let total = ridge[q] * solution[c][q];
        for (let i = 0; i < design.length; i++) total += design[i][q] * weights[i] * (probabilities[i][c] - target[i][c]);
        gradient[c * p + q] = total;
      }
    const step = solveFactored(cholesky(hessian(problem, probabilities)), gradient);
    const moved = (length) => solution.map((column, c) => column.map((value, q) => value - length * step[c * p + q]));
    let length = 1;
    let found = objective(problem, moved(1));
    while (found > loss && length > 1e-4) found = objective(problem, moved((length /= 2)));
    if (found > loss) break;
    solution = moved(length);
    if (loss - found < 1e-5) break;
    loss = found;
  }
  const scores = scoresOf();
  const probabilities = scores.map(softmax);
  const factor = cholesky(hessian(problem, probabilities));
  const leftOut = scores.map((row, i) => {
    // How far an utterance's scores follow its own gradient; leaving it out takes that back.
    const reach = rows(n, n);
    for (let b = 0; b < n; b++) {
      const side = new Float64Array(n * p);
      side.set(design[i], b * p);
      const answer = solveFactored(factor, side);
      for (let a = 0; a < n; a++) reach[a][b] = dot(design[i], answer.subarray(a * p, (a + 1) * p));
    }
    const curved = curvature(probabilities[i]);
    const matrix = curved.map((line, a) => line.map((_, b) => (a === b ? 1 : 0) - weights[i] * sum(line.map((v, k) => v * reach[k][b]))));
    const taken = solve(matrix, probabilities[i].map((value, c) => weights[i] * (value - target[i][c])));
    return row.map((score, c) => score + dot(reach[c], taken));
  });
  return { solution, leftOut };
}

function lossOf(scores, target, weights) {
  return -sum(scores.map((row, i) => {
    const right = sum(softmax(row).map((p, c) => p * target[i][c]));
    return weights[i] * Math.log((1 - MISTAKEN) * right + MISTAKEN / row.length);
  }));
}

/** What makes the confidence of answers to utterances left out mean frequency. */
function temperatureOf(leftOut, y) {
  const losses = TEMPERATURES.map((t) => 2 * Math.log(t) ** 2 - sum(leftOut.map((row, i) =>
    Math.log(0.98 * softmax(row.map((s) => s / t))[y[i]] + 0.02 / row.length))));
  return TEMPERATURES[losses.indexOf(Math.min(...losses))];
}

/** Integers of [n][size] weights, and the shift that gives their products in 1/65536. */
function quantised(weight) {
  const largest = Math.max(...weight.map((row) => row.reduce((most, value) => Math.max(most, Math.abs(value)), 0)));
  const shift = largest === 0 ? 0 : clamp(14 - Math.ceil(Math.log2(largest)), 0, 40);
  return { integers: weight.map((row) => Int16Array.from(row, (v) => clamp(rint(v * 2 ** shift), -32767, 32767))), shift };
}

/** A fit of every lambda: { loss, weight [n][size] of x, bias, leftOut }. */
function fits(x, offset, target, weights, isDoubting) {
  // The utterances in coordinates of their own, of which A is a combination.
  const { values, vectors } = eigen(x.map((row) => Float64Array.from(x, (other) => dot(row, other))));
  const least = 1e-9 * Math.max(Math.max(...values), 1e-9);
  const kept = values.map((_, k) => k).filter((k) => values[k] > least);
  const design = vectors.map((row) => Float64Array.from([...kept.map((k) => row[k] * Math.sqrt(values[k])), 1]));
  const problem = (strength, believed) => ({ design, offset, target, weights: believed, ridge: [...kept.map(() => strength), BIAS] });
  let believed = weights;
  let found = { solution: undefined };
  if (isDoubting) {
    found = fit(problem(LAMBDAS[0], weights));
    believed = found.leftOut.map((row, i) => {
      const right = sum(softmax(row).map((p, c) => p * target[i][c]));
      return weights[i] * Math.min(1, right * row.length * RIGHT);
    });
  }
  return LAMBDAS.map((strength) => {
    found = fit(problem(strength, believed), found.solution);
    const weight = found.solution.map((column) => {
      const of = new Float64Array(x[0].length);
      vectors.forEach((row, i) => {
        const part = sum(kept.map((e, q) => (row[e] / Math.sqrt(values[e])) * column[q]));
        x[i].forEach((value, d) => (of[d] += part * value));
      });
      return of;
    });
    return { loss: lossOf(found.leftOut, target, weights), weight, bias: found.solution.map((column) => column[kept.length]), leftOut: found.leftOut };
  });
}

/**
 * The correction of a person, null while fewer than two labels were heard.
 *
 * `model`: labels, temperature, centres, step (unit of the statistics), speechMean (of an encoder vector).
 */
export function learn(person, model) {
  const heard = person.utterances;
  if (counts(heard).size < 2) return null;
  const labels = labelsOf(person, model.labels);
  const source = labels.map((label) => model.labels.indexOf(label));
  const y = heard.map((h) => labels.indexOf(h.label));
  const given = [...new Set(y)].sort((a, b) => a - b);
  const pick = (row) => given.map((c) => row[c]);
  const z = heard.map((h) => Array.from(h.embedding, (v) => v / Q16));
  const start = heard.map((h) => source.map((s) => (s < 0 ? 0 : h.logits[s] / Q16 / model.temperature)));
  const size = heard[0].statistics.length;
  const nOf = given.map((c) => y.filter((k) => k === c).length);
  const means = new Float64Array(size);
  heard.forEach((h, i) => h.statistics.forEach((v, d) => (means[d] += v / nOf[given.indexOf(y[i])] / given.length)));
  const unit = model.step / (SPREAD * Math.max(model.speechMean, 1e-3)) / Math.sqrt(size);
  const x = heard.map((h) => Float64Array.from(h.statistics, (v, d) => (v - means[d]) * unit));
  const weights = y.map((c) => Math.min(y.length / (given.length * nOf[given.indexOf(c)]), 1.5));
  const own = source.includes(-1);
  const words = heard.map((h) => h.label);
  const move = evidence(model, z, words, source, -1);
  const without = z.map((row, i) => {
    const { slope, constant } = evidence(model, z, words, source, i);
    return slope.map((line, c) => dot(line, row) + constant[c]);
  });
  const target = y.map((c) => given.map((k) => (k === c ? 1 : 0)));
  const within = new Within(x, y);
  const mixed = [];
  for (const prior of [0, 1]) {
    const offset = start.map((row, i) => pick(row.map((s, c) => s + prior * without[i][c])));
    if (!own && !person.only) mixed.push({ loss: lossOf(offset, target, weights), prior, weight: null, leftOut: offset });
    for (const found of fits(x, offset, target, weights, !own)) mixed.push({ ...found, prior });
    if (!within.isThere) continue;
    for (const found of fits(within.of(x), offset, target, weights, !own)) mixed.push({ ...found, loss: found.loss + HANDICAP, prior, weight: within.of(found.weight) });
  }
  const best = Math.min(...mixed.map((f) => f.loss));
  const raw = mixed.map((f) => Math.exp(best - f.loss));
  // Less is known of those who gave some labels only.
  const certain = own || person.only ? 1 : (given.length - 1) / (labels.length - 1);
  const share = raw.map((r) => (r / sum(raw)) * certain);
  const a = rows(labels.length, size);
  const b = new Array(labels.length).fill(0);
  let c = 0;
  const leftOut = start.map((row) => row.map((s) => s * (1 - sum(share))));
  mixed.forEach((f, k) => {
    c += share[k] * f.prior;
    start.forEach((row, i) => row.forEach((s, label) => {
      const at = given.indexOf(label);
      leftOut[i][label] += share[k] * (at < 0 ? s + f.prior * without[i][label] : f.leftOut[i][at]);
    }));
    if (f.weight === null) return;
    given.forEach((label, at) => {
      b[label] += share[k] * f.bias[at];
      f.weight[at].forEach((value, d) => (a[label][d] += share[k] * value));
    });
  });
  const t = model.temperature;
  const weightX = a.map((row) => row.map((value) => value * unit));
  const bias = labels.map((_, label) => t * (b[label] - dot(weightX[label], means) + c * move.constant[label]));
  const statistics = quantised(weightX.map((row) => row.map((value) => value * t * Q16)));
  const embedding = quantised(move.slope.map((row) => row.map((value) => value * t * c)));
  return {
    labels, source,
    statistics: statistics.integers, embedding: embedding.integers, shifts: [statistics.shift, embedding.shift],
    bias: Int32Array.from(bias, (value) => clamp(rint(value * Q16), -LIMIT, LIMIT)),
    temperature: t * temperatureOf(leftOut, y),
  };
}
