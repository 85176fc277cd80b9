"""What the C core is built for and how a program for it runs here: compilers, emulators, and what they are called in Debian."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "firmware_examples"
CLIP_S = 1.5  # of the recording; long enough for an answer, short enough for an emulator
EMULATOR_S = 240
"""No emulator runs longer than this, in seconds."""


@dataclass(frozen=True)
class Board:
    """A Cortex-M that QEMU has, by its name in firmware_examples/cortex_m/Makefile."""

    name: str
    board: str
    clock_ns: float
    """Of its SysTick in QEMU; an instruction takes 32 ns of the emulated time."""

    @property
    def tools(self) -> tuple[str, ...]:
        return ("make", "arm-none-eabi-gcc", "qemu-system-arm")

    def instructions(self, clocks: int) -> int:
        """Return how many instructions ``clocks`` of the emulated board are."""
        return round(clocks * self.clock_ns / 32)

    def build(self, model: Path, folder: Path, *settings: str) -> Path:
        """Build the example, or MAIN=... among the settings, with the model's sources and return the program."""
        make("cortex_m", f"BOARD={self.board}", f"MODEL={model}", f"BUILD={folder}", *settings)
        return folder / "firmware.elf"

    def run(self, model: Path, folder: Path, *settings: str) -> str:
        """Build and run; return what the program wrote."""
        self.build(model, folder, *settings)
        return make("cortex_m", "run", f"BOARD={self.board}", f"MODEL={model}", f"BUILD={folder}", *settings)


@dataclass(frozen=True)
class Linux:
    """A Linux, this machine's or in QEMU's user mode; programs are static where they are emulated."""

    name: str
    compiler: str
    cflags: str = "-O2"
    emulator: tuple[str, ...] = ()

    @property
    def tools(self) -> tuple[str, ...]:
        return ("make", self.compiler, *self.emulator[:1])

    def build(self, model: Path, folder: Path, *settings: str) -> Path:
        """Build the example, or MAIN=... among the settings, with the model's sources and return the program."""
        static = ["LDFLAGS=-static"] if self.emulator else []
        options = [f"CC={self.compiler}", f"CFLAGS={self.cflags}", *static]
        make("linux_c", *options, f"MODEL={model}", f"BUILD={folder}", *settings)
        return folder / "linux_c"

    def run(self, model: Path, folder: Path, *settings: str) -> str:
        """Build and run; return what the program wrote."""
        return execute([*self.emulator, self.build(model, folder, *settings)])


@dataclass(frozen=True)
class RiscV:
    """A bare RISC-V in QEMU: picolibc, and semihosting for what the program writes."""

    name: str
    march: str
    abi: str

    @property
    def emulator(self) -> str:
        return f"qemu-system-riscv{self.march[2:4]}"

    @property
    def tools(self) -> tuple[str, ...]:
        return ("riscv64-unknown-elf-gcc", self.emulator)

    def run(self, model: Path, folder: Path, *settings: str) -> str:
        """Build MAIN with CLIP, both named in the settings, and the model's sources, and run; return what it wrote."""
        given = dict(setting.split("=", 1) for setting in settings)
        csrc, program = ROOT / "edge_ser" / "csrc", folder / "program.elf"
        machine = [f"-march={self.march}", f"-mabi={self.abi}", "-mcmodel=medany", "-Wl,--defsym=__flash=0x80000000"]
        machine += ["-Wl,--defsym=__flash_size=0x200000", "-Wl,--defsym=__ram=0x80200000", "-Wl,--defsym=__ram_size=0x100000"]
        libc = ["--specs=picolibc.specs", "--crt0=semihost", "--oslib=semihost"]
        # No -ffp-contract=off: the pragma in the sources has to do.
        flags = ["-std=gnu99", "-O2", *machine, *libc, f"-I{csrc}", f"-I{model}"]
        sources: list[str | Path] = [given["MAIN"], given["CLIP"], model / "eser_model.c", *sorted(csrc.glob("*.c"))]
        execute(["riscv64-unknown-elf-gcc", *flags, *sources, "-lm", "-o", program])
        quiet = ["-display", "none", "-monitor", "none", "-serial", "null", "-bios", "none"]
        host = ["-chardev", "stdio,id=host", "-semihosting-config", "enable=on,target=native,chardev=host"]
        return execute([self.emulator, "-M", "virt", *quiet, *host, "-kernel", program])


A53 = ("qemu-aarch64-static", "-cpu", "cortex-a53")
A76 = ("qemu-aarch64-static", "-cpu", "cortex-a76")
ARM7 = ("qemu-arm-static", "-cpu", "cortex-a7")

BOARDS = (
    Board("Cortex-M3", "m3", 40.0),
    Board("Cortex-M4F", "m4f", 40.0),
    Board("Cortex-M7", "m7", 40.0),
    Board("Cortex-M55", "m55", 31.25),
)
LINUXES = (
    Linux("x86-64", "gcc"),
    Linux("aarch64 (Cortex-A53)", "aarch64-linux-gnu-gcc", emulator=A53),
    Linux("aarch64 (Cortex-A76)", "aarch64-linux-gnu-gcc", emulator=A76),
    Linux("armv7 (Cortex-A7)", "arm-linux-gnueabihf-gcc", emulator=ARM7),
)
RISCVS = (
    RiscV("RISC-V rv32imc", "rv32imc", "ilp32"),
    RiscV("RISC-V rv32imac", "rv32imac", "ilp32"),
    RiscV("RISC-V rv32imafc", "rv32imafc", "ilp32f"),
    RiscV("RISC-V rv64imafdc", "rv64imafdc", "lp64d"),
)
TARGETS = (
    Linux("x86-64, gcc -O0", "gcc", "-O0"),
    Linux("x86-64, gcc -O3", "gcc", "-O3"),
    Linux("x86-64, clang -O2", "clang", "-O2"),
    *LINUXES[1:],
    *BOARDS,
    *RISCVS,
)


def make(example: str, *settings: str) -> str:
    """Run an example's Makefile; return what it wrote, RuntimeError with the end of it when it fails."""
    return execute(["make", "--silent", "-C", EXAMPLES / example, *settings])


def execute(command: Sequence[str | Path], stdin: bytes = b"") -> str:
    """Run a command within EMULATOR_S; return what it wrote, RuntimeError with its end when it fails."""
    words = ["timeout", str(EMULATOR_S), *(str(word) for word in command)]
    done = subprocess.run(words, input=stdin, capture_output=True, check=False)
    output = done.stdout.decode()
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: status {done.returncode}\n{output[-2000:]}\n{done.stderr.decode()[-2000:]}")
    return output
