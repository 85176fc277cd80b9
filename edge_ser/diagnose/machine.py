"""What the machine is and how it fares, from /proc, /sys and /etc alone: no library and no right beyond a plain user's.

What the system does not tell is None (``not told`` in what people read), never a guess.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_ser.processes import cores

ROOT = Path("/")

_KERNEL_FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "neon": "NEON",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
    "asimdhp": "fp16",
    "sve": "SVE",
}
"""Flags of /proc/cpuinfo that decide which kernels an engine takes; the 8-bit dot products matter most."""

_ARM_PARTS = {
    (0x41, 0xB76): "ARM1176",
    (0x41, 0xC07): "Cortex-A7",
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
}
"""(implementer, part) of /proc/cpuinfo, for boards that have run voice assistants."""

_PI_THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of ``vcgencmd get_throttled``; the same 16 bits higher: has occurred since boot."""


@dataclass(frozen=True)
class Machine:
    """What stays the same while the machine runs."""

    board: str | None
    """Name of the board or product."""
    processor: str | None
    """Name of the processor."""
    architecture: str
    """Such as ``x86_64`` or ``aarch64``."""
    cores: int
    """Cores this process may use."""
    features: tuple[str, ...]
    """Those of the processor's features that decide which kernels an engine takes."""
    virtual: bool
    """Whether the processor says that it is a virtual machine's."""
    ram_mb: int | None
    """Memory, in MB (10^6 bytes)."""
    system: str
    """Kernel and distribution."""
    python: str
    """Implementation and version."""
    packages: dict[str, str | None]
    """Versions of what an answer passes through; None: not installed."""


@dataclass(frozen=True)
class Condition:
    """What changes while the machine runs, at one moment."""

    governor: str | None
    """Frequency governor of the first core."""
    frequency_mhz: int | None
    """Frequency of the first core now, in MHz."""
    max_frequency_mhz: int | None
    """The highest frequency the first core is allowed, in MHz."""
    power_mode: str | None
    """Power mode of a Jetson (nvpmodel)."""
    temperatures_c: dict[str, float]
    """Temperature of every thermal zone, in °C."""
    throttling: tuple[str, ...] | None
    """What slows, or since boot has slowed, the machine down; None: not told, empty: nothing."""
    load: float | None
    """Processes that want a core, averaged over the last minute."""


PACKAGES = ("numpy", "scipy", "soundfile", "soxr", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert", "tflite-runtime")


def read_machine(root: Path = ROOT) -> Machine:
    """Read what the machine below ``root`` is."""
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    flags = set((_entry(cpuinfo, "flags") or _entry(cpuinfo, "Features") or "").split())
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo") or "")
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', _text(root / "etc/os-release") or "", re.MULTILINE))
    kernel = f"{platform.system()} {platform.release()}"
    return Machine(
        board=_text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name"),
        processor=_entry(cpuinfo, "model name") or _arm_name(cpuinfo) or platform.processor() or None,
        architecture=platform.machine(),
        cores=cores(),
        features=tuple(dict.fromkeys(name for flag, name in _KERNEL_FEATURES.items() if flag in flags)),
        virtual="hypervisor" in flags,
        ram_mb=round(int(memory[1]) * 1024 / 1e6) if memory else None,
        system=f"{kernel}, {release['PRETTY_NAME']}" if "PRETTY_NAME" in release else kernel,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: installed_version(name) for name in PACKAGES},
    )


def read_condition(root: Path = ROOT) -> Condition:
    """Read how the machine below ``root`` fares now."""
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    frequency_khz, max_khz = _number(cpufreq / "scaling_cur_freq"), _number(cpufreq / "scaling_max_freq")
    if frequency_khz is None:
        megahertz = _entry(_text(root / "proc/cpuinfo") or "", "cpu MHz")
        frequency_khz = float(megahertz) * 1000 if megahertz else None
    mode = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    temperatures = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees = _number(zone / "temp")
        if millidegrees is not None:
            temperatures[_text(zone / "type") or zone.name] = millidegrees / 1000
    load = (_text(root / "proc/loadavg") or "").split()
    return Condition(
        governor=_text(cpufreq / "scaling_governor"),
        frequency_mhz=None if frequency_khz is None else round(frequency_khz / 1000),
        max_frequency_mhz=None if max_khz is None else round(max_khz / 1000),
        power_mode=f"nvpmodel {int(mode[1])}" if mode else None,
        temperatures_c=temperatures,
        throttling=_throttling(root),
        load=float(load[0]) if load else None,
    )


def _throttling(root: Path) -> tuple[str, ...] | None:
    """Return what slows the machine down, from every source it has; None where it has none."""
    found: list[str] = []
    told = False
    bits = _pi_throttled(root)
    if bits is not None:
        told = True
        found += [name for bit, name in _PI_THROTTLED.items() if bits >> bit & 1]
        found += [f"{name} since boot" for bit, name in _PI_THROTTLED.items() if bits >> bit & 1 << 16]
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind, state = _text(device / "type") or "", _number(device / "cur_state")
        if state is not None and re.search(r"cpu|gpu|devfreq|processor", kind, re.IGNORECASE):
            told = True
            found += [f"{kind} held back ({state:.0f})"] if state > 0 else []
    counters = {
        "sys/devices/system/cpu/cpu0/thermal_throttle/*_throttle_count": "thermal throttling",  # x86
        "sys/class/hwmon/hwmon*/oc*_event_cnt": "over-current throttling",  # Jetson
    }
    for pattern, name in counters.items():
        counts = [n for n in map(_number, sorted(root.glob(pattern))) if n is not None]
        told |= bool(counts)
        found += [f"{name} {sum(counts):.0f} times since boot"] if sum(counts) else []
    return tuple(found) if told else None


def _pi_throttled(root: Path) -> int | None:
    """Return a Raspberry Pi's throttling bits; older kernels have them in a file, others through vcgencmd."""
    text = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if text is None and root == ROOT and shutil.which("vcgencmd"):
        try:
            done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
            text = done.stdout.strip().removeprefix("throttled=0x")
        except (OSError, subprocess.TimeoutExpired):
            return None
    return int(text, 16) if text and re.fullmatch(r"[0-9a-fA-F]+", text) else None


def _arm_name(cpuinfo: str) -> str | None:
    """Return the cores' names where the processor tells numbers only, as Arm's do."""
    pairs = zip(re.findall(r"CPU implementer\s*: (\w+)", cpuinfo), re.findall(r"CPU part\s*: (\w+)", cpuinfo), strict=False)
    names = [
        _ARM_PARTS.get((int(maker, 16), int(part, 16)), f"implementer {maker} part {part}")
        for maker, part in dict.fromkeys(pairs)
    ]
    return " + ".join(names) or None


def memory_mb(pid: int | str = "self", root: Path = ROOT) -> tuple[float, float] | None:
    """Return a process's resident memory now and at its highest, in MB (10^6 bytes); None where the system does not tell."""
    status = _text(root / "proc" / str(pid) / "status") or ""
    found = [re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE) for key in ("VmRSS", "VmHWM")]
    now, peak = (int(match[1]) * 1024 / 1e6 if match else None for match in found)
    return None if now is None or peak is None else (now, peak)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None.

    >>> installed_version("no-such-package") is None
    True
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(file: Path) -> str | None:
    """Return a small system file's text, without the NUL that ends a device tree's strings; None where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0") or None
    except OSError:
        return None


def _number(file: Path) -> float | None:
    text = _text(file)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _entry(cpuinfo: str, key: str) -> str | None:
    """Return the first value of a key of /proc/cpuinfo."""
    found = re.search(rf"^{key}\s*: (.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() or None if found else None
