"""Measure the microcontroller example and write the table of firmware_examples/README.md: python -m tests.firmware.table."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_ser.model.c_source import source_of
from tests.firmware.targets import BOARDS, CLIP_S, EXAMPLES, Board, execute

BUDGET_HZ = 480_000_000
"""Clock of the part that counts are set against, in Hz, at one instruction a clock."""
README = EXAMPLES / "README.md"

_BEGIN, _END = "<!-- written by python -m tests.firmware.table -->\n", "<!-- end -->"
_HEAD = """| target | flash | RAM | of which state | instructions a second of audio | at its end | of 480 MHz |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Firmware:
    """What the example needs on a board."""

    flash_bytes: int
    """Code, tables, weights, and what the C library takes for printing."""
    ram_bytes: int
    """State, the rest of the variables, heap and stack."""
    state_bytes: int
    """What ``eser_size`` returns."""
    per_second: float
    """Instructions for a second of audio."""
    busiest: int
    """Instructions for the busiest 10 ms of audio."""
    finish: int
    """Instructions from the last sample to the answer."""
    output: str
    """What the program wrote."""


def measure(board: Board, model: Path, folder: Path) -> Firmware:
    """Build the example in ``folder``, run it and count."""
    settings = (f"PYTHON={sys.executable}", f"CLIP_S={CLIP_S}")
    output = board.run(model, folder, *settings)
    sizes = execute(["arm-none-eabi-size", "-A", folder / "firmware.elf"])
    section = {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", sizes, re.M)}
    feed, busiest, finish = (
        board.instructions(int(clocks)) for clocks in re.findall(r"(?:feed|chunk|finish) (\d+)", output.splitlines()[-1])
    )
    return Firmware(
        flash_bytes=sum(section.get(name, 0) for name in (".vectors", ".text", ".ARM.exidx", ".data")),
        ram_bytes=sum(section[name] for name in (".data", ".bss", ".heap", ".stack")),
        state_bytes=int(re.findall(r"(\d+) bytes of state", output)[0]),
        per_second=feed / CLIP_S,
        busiest=busiest,
        finish=finish,
        output=output,
    )


def row(name: str, firmware: Firmware) -> str:
    """Return the row of the table."""
    sizes = " | ".join(f"{n / 1000:.1f} KB" for n in (firmware.ram_bytes, firmware.state_bytes))
    counts = f"{firmware.per_second / 1e6:.0f} M | {firmware.finish / 1e6:.1f} M | {100 * firmware.per_second / BUDGET_HZ:.0f} %"
    return f"| {name} | {firmware.flash_bytes / 1000:.0f} KB | {sizes} | {counts} |\n"


def stated(text: str) -> dict[str, tuple[float, ...]]:
    """Return flash, RAM and state in KB, instructions a second and at the end in millions, of every row."""
    part = text.partition(_BEGIN)[2].partition(_END)[0]
    rows = re.findall(r"^\| (Cortex-\S+) \| (\S+) KB \| (\S+) KB \| (\S+) KB \| (\S+) M \| (\S+) M \|", part, re.M)
    return {name: tuple(float(number) for number in numbers) for name, *numbers in rows}


def main() -> None:
    """Measure with the model that ships, and write."""
    rows = ""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        source_of().write(model)
        for board in BOARDS:
            rows += row(board.name, measure(board, model, Path(scratch) / board.board))
    text = README.read_text()
    before, begin, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    if not begin:
        sys.exit(f"{README} has no line {_BEGIN.strip()}")
    README.write_text(f"{before}{begin}{_HEAD}{rows}{_END}{after}")
    print(_HEAD + rows, end="")


if __name__ == "__main__":
    main()
