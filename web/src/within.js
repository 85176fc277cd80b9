import { dot, eigen } from "./matrices.js";

/** How utterances look where what a label's own differ by counts less, as edge_ser/personal/within.py has it. */

const WITHIN = 300;
export const HANDICAP = 1;
const norm = (matrix) => Math.sqrt(matrix.reduce((total, row) => total + dot(row, row), 0));

export class Within {
  /** Of utterances x [m][size] and their labels y [m]. */
  constructor(x, y) {
    const size = x[0].length;
    const residuals = x.map((row, i) => {
      const same = x.filter((_, k) => y[k] === y[i]);
      return row.map((value, d) => value - same.reduce((total, other) => total + other[d], 0) / same.length);
    });
    const { values, vectors } = eigen(residuals.map((row) => Float64Array.from(residuals, (other) => dot(row, other))));
    const least = (1e-6 * norm(x)) ** 2;
    const kept = values.map((_, k) => k).filter((k) => values[k] > least);
    const floor = (WITHIN * kept.reduce((total, k) => total + values[k], 0)) / size;
    this.directions = kept.map((k) => {
      const found = new Float64Array(size);
      residuals.forEach((row, i) => row.forEach((value, d) => (found[d] += (vectors[i][k] * value) / Math.sqrt(values[k]))));
      return found;
    });
    this.shrink = kept.map((k) => Math.sqrt(floor / (values[k] + floor)) - 1);
    this.isThere = kept.length > 0; // else no label has two utterances that differ
    this.scale = 1;
    this.scale = norm(x) / Math.max(norm(this.of(x)), 1e-300);
  }

  /** Rows as they look; weights of what is seen become weights of x, too. */
  of(rows) {
    return rows.map((row) => {
      const along = this.directions.map((direction, k) => this.shrink[k] * dot(direction, row));
      return row.map((value, d) => this.scale * this.directions.reduce((total, direction, k) => total + along[k] * direction[d], value));
    });
  }
}
