"""Programs for node: a script with the package at hand, and C compiled for WASI."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from edge_ser.arrays import AnyArray
from tests.needs import need

TIMEOUT_S = 240

_WASI = """
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";
const wasi = new WASI({ version: "preview1" });
const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[1]), wasi.getImportObject());
process.exitCode = wasi.start(instance);
"""

_SCRIPT = """
import { readFileSync } from "node:fs";
import * as edgeSer from %s;
const samples = (name) => new Float32Array(Uint8Array.from(readFileSync(name)).buffer);
const plain = (p) => ({ ...p, logits: [...p.logits], embedding: [...p.embedding] });
const why = (action) => {
  try {
    action();
    return null;
  } catch (error) {
    return error instanceof edgeSer.EdgeSerError ? error.message : `not ours: ${error.stack}`;
  }
};
const { Recognizer, Segmenter } = edgeSer;
const recognizer = await Recognizer.create();
const answer = await (async () => { %s })();
process.stdout.write(JSON.stringify(answer));
"""


def run_wasi(program: Path) -> str:
    """Run a WASI program in node and return what it wrote."""
    need("node")
    return _node("--no-warnings", "--input-type=module", "-e", _WASI, str(program))


def run_script(module: Path, body: str) -> Any:
    """Return what a script with ``recognizer``, ``samples(file)``, ``plain(prediction)`` and ``why(action)`` returns."""
    need("node")
    return json.loads(_node("--input-type=module", "-e", _SCRIPT % (json.dumps(module.as_uri()), body)))


def _node(*arguments: str) -> str:
    done = subprocess.run(["node", *arguments], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def floats(path: Path, values: AnyArray) -> str:
    """Write samples where a script reads them, and return the name as JavaScript has it."""
    values.astype("<f4").tofile(path)
    return json.dumps(str(path))
