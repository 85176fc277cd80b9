"""The kernels for x86-64 on processors that Bochs emulates, under Linux: python -m tests.firmware.bochs BOCHS

BOCHS is built as bochs.patch says. Linux, Bochs' firmware and what writes a disc are fetched from Debian, once. A machine takes
two to eight minutes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ser.engines.clib import SOURCES
from edge_ser.model.c_source import source_of
from tests.firmware.debian import Debian, call
from tests.firmware.targets import EXAMPLES, ROOT, execute

HERE = Path(__file__).parent
VARIABLE = "EDGE_SER_BOCHS"
"""Names the emulator to the tests."""
BOOT_S = 1800
"""No machine runs longer than this, in seconds."""
_SPEECH = ROOT / "tests" / "golden" / "synthetic_speech.flac"
_PACKAGES = ("bochsbios", "vgabios", "linux-image-cloud-amd64", "isolinux", "syslinux-common", "xorriso")
_DEBIAN = Debian("amd64", "x86_64-linux-gnu", ("trixie",), "3.13", _PACKAGES)
_REPORT = re.compile(r"^\$ /(.*)\n((?:.*\n)*?)status (\d+) clocks (\d+)$", re.MULTILINE)
# ACPI would enter Bochs' system management mode, whose end refuses Linux' CR4; a triple fault ends Bochs.
_PARAMETERS = "initrd=initrd console=ttyS0 quiet acpi=off mitigations=off nokaslr panic=-1 reboot=t"
_BOCHSRC = """\
config_interface: textconfig
display_library: nogui
romimage: file={root}/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file={root}/usr/share/vgabios/vgabios.bin
memory: guest=512, host=512
cpu: model={processor}, ips=50000000, reset_on_triple_fault=0
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={folder}/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/serial
log: {folder}/log
panic: action=fatal
error: action=ignore
"""


@dataclass(frozen=True)
class Machine:
    """A processor by Bochs' name, what Linux is told, and the kernels that must answer there."""

    processor: str
    kernels: str
    parameters: str = ""

    @property
    def name(self) -> str:
        return f"{self.processor} {self.parameters}".strip()


MACHINES = (
    Machine("sapphire_rapids", "scalar avx2 avxvnni avx512vnni amx"),
    # CPUID still tells of tiles, and Linux neither enables nor allows them.
    Machine("sapphire_rapids", "scalar avx2 avxvnni avx512vnni", "clearcpuid=amx_tile"),
    Machine("tigerlake", "scalar avx2 avx512vnni"),
    Machine("arrow_lake", "scalar avx2 avxvnni"),
    Machine("corei7_haswell_4770", "scalar avx2"),
)


@dataclass(frozen=True)
class Report:
    """What a command of a machine wrote, its exit status, and the instructions that passed meanwhile."""

    output: str
    status: int
    instructions: int


def build(folder: Path) -> dict[str, Path]:
    """Compile what runs on the machines into ``folder``; return the programs by their names there."""
    source_of().write(folder)
    clip = folder / "clip.c"
    clip.write_text(execute([sys.executable, EXAMPLES / "clip.py", _SPEECH, "10"]))
    flags = ["-std=gnu99", "-O3", "-ffp-contract=off", "-static", "-pthread", f"-I{SOURCES}", f"-I{folder}"]
    sources = [folder / "eser_model.c", clip, *sorted(SOURCES.glob("*.c"))]
    programs = {}
    for name in ("init", "kernels", "kernels-clang", "exactness", "tiles", "tiles-clang", "work"):
        source, _, compiler = name.partition("-")
        programs[name] = folder / name
        call(compiler or "gcc", *flags, HERE / f"{source}.c", *sources, "-lm", "-o", programs[name])
    return programs


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return files as Linux unpacks them at its start: cpio's format "newc"."""
    packed = b""
    for i, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        words = (i, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % word for word in words) + name.encode() + b"\0"
        packed += header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)
    return packed


def run(bochs: str, machine: Machine, programs: Mapping[str, Path], commands: Sequence[str], folder: Path) -> dict[str, Report]:
    """Start a machine that runs the commands; return what each did. RuntimeError with its last words where one is missing."""
    root, disc = _DEBIAN.root(), folder / "disc"
    disc.mkdir()
    files = {name: path.read_bytes() for name, path in programs.items()}
    (disc / "initrd").write_bytes(archive({**files, "commands": "".join(f"/{c}\n" for c in commands).encode()}))
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, disc / "linux")
    for loader in ("lib/ISOLINUX/isolinux.bin", "lib/syslinux/modules/bios/ldlinux.c32"):
        shutil.copy(root / "usr" / loader, disc)
    (disc / "isolinux.cfg").write_text(f"default linux\nlabel linux\nkernel linux\nappend {_PARAMETERS} {machine.parameters}\n")
    loader_of_debian = (root / "usr/lib64/ld-linux-x86-64.so.2", "--library-path", root / "usr/lib/x86_64-linux-gnu")
    boot = ("-b", "isolinux.bin", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-c", "boot.cat")
    call(*loader_of_debian, root / "usr/bin/xorriso", "-as", "mkisofs", "-quiet", "-o", folder / "boot.iso", *boot, disc)
    (folder / "bochsrc").write_text(_BOCHSRC.format(root=root, processor=machine.processor, folder=folder))
    words = ["timeout", str(BOOT_S), "nice", "-n", "19", bochs, "-q", "-f", str(folder / "bochsrc")]
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    said = (folder / "serial").read_text(errors="replace").replace("\r", "") if (folder / "serial").exists() else ""
    found = {m[1]: Report(m[2], int(m[3]), int(m[4])) for m in _REPORT.finditer(said)}
    if list(found) != list(commands):
        end = (folder / "log").read_text(errors="replace")[-500:] if (folder / "log").exists() else f"{bochs} did not start"
        raise RuntimeError(f"{machine.name} ran {list(found)}; expected {list(commands)}\n{said[-1500:]}\n{end}")
    return found


def differences(bochs: str, machine: Machine, programs: Mapping[str, Path], folder: Path) -> list[str]:
    """Run every program on a machine, print what each did, and return what is not as it must be."""
    names = machine.kernels.split()
    counted = {f"work {name} {what}": name for name in names[1:] for what in ("nothing", "predict")}
    by_clang = ["kernels-clang", "tiles-clang"] if "amx" in names else []
    found = run(bochs, machine, programs, ["kernels", "exactness", "tiles", *by_clang, *counted], folder)
    here = execute([programs["exactness"]]).split("\n")[0].split()[1:]
    best, refused = names[-1], [name for name in names if name != "amx"][-1]
    expected = {
        "kernels": f"{machine.kernels}\n",
        "exactness": "".join(f"{' '.join([name, *here])}\n" for name in names),
        "tiles": f"refused {refused}\ndefault {best}\n",
    }
    wrong = []
    for command, report in found.items():
        print(f"{machine.name:40}{command:28}{report.status} {report.output!r}", flush=True)
        if report.status or not report.output.startswith(expected.get(command.removesuffix("-clang"), "")):
            wrong.append(f"{machine.name}: {command}: status {report.status}, {report.output}")
    for name in names[1:]:
        n = found[f"work {name} predict"].instructions - found[f"work {name} nothing"].instructions
        print(f"{machine.name:40}{n / 1e6:.1f} million instructions for three seconds with {name}")
    return wrong


def main(bochs: str) -> int:
    """Run all machines; return 1 where something differs."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        (programs_folder := Path(name) / "programs").mkdir()
        programs = build(programs_folder)
        for i, machine in enumerate(MACHINES):
            (folder := Path(name) / str(i)).mkdir()
            wrong += differences(bochs, machine, programs, folder)
    print("\n".join(wrong) or "all as expected")
    return int(bool(wrong))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
