"""What an answer costs in instructions, against what it cost: a guard that needs no clock and no quiet machine."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from edge_ser.engines.clib import SOURCES
from tests.needs import refuse, tool

HERE = Path(__file__).parent
COMPILER = "12"
"""Major version of the gcc that the counts are of; another one makes other instructions."""
TOLERANCE = 0.03

MILLIONS = {
    ("x86_64", "max", "avx2"): {"predict": 32.5, "feed": 37.1},
    ("aarch64", "cortex-a76", "neon"): {"predict": 60.7, "feed": 61.4},
    ("aarch64", "cortex-a76", "dotprod"): {"predict": 52.6, "feed": 53.3},
}
"""Millions of instructions for three seconds, by architecture, emulated processor and kernels. A change that moves one of them by
more than the tolerance, up or down, states the new count."""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("plugin") / "instructions.so"
    run(tool("gcc"), "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", HERE / "instructions.c", "-o", built)
    return built


@pytest.mark.parametrize("target", MILLIONS, ids=lambda target: f"{target[0]}-{target[2]}")
def test_an_answer_costs_what_it_cost(target: tuple[str, str, str], plugin: Path, tmp_path: Path) -> None:
    architecture, processor, kernels = target
    emulator = tool(f"qemu-{architecture}")
    here = sysconfig.get_platform() == f"linux-{architecture}"
    compiler = tool("gcc" if here else f"{architecture}-linux-gnu-gcc")
    if "plugin" not in run(emulator, "--help").stdout:
        refuse(f"{emulator} takes no plugins")
    version = run(compiler, "-dumpversion").stdout.strip().partition(".")[0]
    if version != COMPILER:
        pytest.skip(f"the counts are of gcc {COMPILER}; {compiler} is {version}")
    program = tmp_path / "work"
    flags = ("-std=c99", "-O3", "-ffp-contract=off", "-static", f"-I{SOURCES}")
    run(compiler, *flags, *sorted(SOURCES.glob("*.c")), HERE / "work.c", "-lm", "-o", program)

    def count(what: str) -> int:
        done = run(emulator, "-cpu", processor, "-plugin", plugin, program, kernels, what)
        (line,) = [line for line in done.stderr.splitlines() if re.fullmatch(r"\d+", line)]
        return int(line)

    before = count("nothing")
    found = {what: (count(what) - before) / 1e6 for what in ("predict", "feed")}
    assert found == pytest.approx(MILLIONS[target], rel=TOLERANCE)
