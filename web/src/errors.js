/** What a caller can mend: the message says what was given, what was expected, what to do. */
export class EdgeSerError extends Error {
  constructor(message) {
    super(message);
    this.name = "EdgeSerError";
  }
}
