"""The microcontroller example on QEMU's boards, and the same bits on every target."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.firmware import table
from tests.firmware.exactness import COLUMNS, hashes
from tests.firmware.targets import BOARDS, EXAMPLES, TARGETS, Board, Linux, RiscV, execute, make
from tests.needs import need

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(c_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, table.Firmware]:
    """What every board needs, by its name."""
    for board in BOARDS:
        need(*board.tools)
    return {board.name: table.measure(board, c_model, tmp_path_factory.mktemp(board.board)) for board in BOARDS}


def test_every_board_answers_alike(measured: dict[str, table.Firmware]) -> None:
    said = {re.sub(r"\d+ bytes|clocks: .*", "", firmware.output) for firmware in measured.values()}
    assert len(said) == 1
    (text,) = said
    assert re.search(r"^edge-ser \S+:  of state, 1500 ms of audio\nafter 1 s: \w+ \d+ %\nemotion: \w+ \d+ %", text)


def test_real_time_at_480_mhz_with_room_to_spare(measured: dict[str, table.Firmware]) -> None:
    for name in ("Cortex-M4F", "Cortex-M7", "Cortex-M55"):
        assert measured[name].per_second <= 0.25 * table.BUDGET_HZ, measured[name]
        assert measured[name].busiest <= 0.16 * table.BUDGET_HZ, "a vector's worth of work within a vector's time"


def test_counts_repeat(measured: dict[str, table.Firmware], c_model: Path, tmp_path: Path) -> None:
    board = BOARDS[1]
    assert table.measure(board, c_model, tmp_path).output == measured[board.name].output


def test_the_table_is_true(measured: dict[str, table.Firmware]) -> None:
    stated = table.stated((EXAMPLES / "README.md").read_text())
    for name, firmware in measured.items():
        flash, ram, state, per_second, finish = stated[name]
        assert flash == pytest.approx(firmware.flash_bytes / 1000, rel=0.01)
        assert ram == pytest.approx(firmware.ram_bytes / 1000, abs=0.1)
        assert state == pytest.approx(firmware.state_bytes / 1000, abs=0.1)
        assert per_second == pytest.approx(firmware.per_second / 1e6, rel=0.02)
        assert finish == pytest.approx(firmware.finish / 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("FLASH_KB=600", "region `FLASH' overflowed"),
        ("RAM_KB=80", "region `RAM' overflowed"),
        ("STATE_KB=64", "a stream's state takes more of the RAM than STATE_KB"),
    ],
)
def test_what_does_not_fit_fails_the_link(c_model: Path, tmp_path: Path, limit: str, complaint: str) -> None:
    board = BOARDS[1]
    need(*board.tools)
    with pytest.raises(RuntimeError, match=re.escape(complaint)):
        board.build(c_model, tmp_path, f"PYTHON={sys.executable}", limit)
    assert not (tmp_path / "firmware.elf").exists()


def test_a_fault_ends_the_program(c_model: Path, tmp_path: Path) -> None:
    board = BOARDS[0]
    need(*board.tools)
    (tmp_path / "faulty.c").write_text("int main(void) { return *(volatile int *)0xfffffff0u; }\n")
    with pytest.raises(RuntimeError, match=r"Error 1"):
        board.run(c_model, tmp_path, f"PYTHON={sys.executable}", f"MAIN={tmp_path / 'faulty.c'}")


@pytest.fixture(scope="module")
def reference(c_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The hashes of this machine's plain C."""
    need(*TARGETS[0].tools)
    return hashes(TARGETS[0], c_model, tmp_path_factory.mktemp("reference"))[0][1:]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_same_bits_everywhere(
    target: Board | Linux | RiscV, reference: tuple[str, ...], c_model: Path, tmp_path: Path
) -> None:
    need(*target.tools)
    for row in hashes(target, c_model, tmp_path):
        assert row[1:] == reference, f"{target.name}, {row[0]} kernels: {COLUMNS[1:]} {row[1:]}; expected {reference}"


def test_the_hashes_tell_models_and_recordings_apart(reference: tuple[str, ...], c_model: Path, tmp_path: Path) -> None:
    for name in ("eser_model.c", "eser_model.h"):
        text = (c_model / name).read_text()
        (tmp_path / name).write_text(
            re.sub(r"(conv3_weight\[\d+\] = \{\n\s+)(-?\d+)", lambda m: m[1] + str(-int(m[2]) - 1), text)
        )
    features, network, answer = hashes(TARGETS[1], tmp_path, tmp_path)[0][1:]
    assert features == reference[0]
    assert network != reference[1]
    assert answer != reference[2]


def test_clips_of_another_rate_are_refused(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "x.wav", [[0.0, 0.0]] * 100, 8000)
    with pytest.raises(RuntimeError, match="8000 Hz and 2 channels; expected 16000 Hz, mono"):
        execute([sys.executable, EXAMPLES / "clip.py", tmp_path / "x.wav"])


def test_an_unknown_board_is_named() -> None:
    need("make")
    with pytest.raises(RuntimeError, match="BOARD is m0; expected m3, m4f, m7 or m55"):
        make("cortex_m", "BOARD=m0")
