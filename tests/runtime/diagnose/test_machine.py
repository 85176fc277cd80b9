"""What the machine says of itself, from system files as boards have them, and from none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_ser.diagnose.machine import Condition, memory_mb, read_condition, read_machine

PI_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_raspberry_pi(tmp_path: Path) -> None:
    cpufreq, thermal = "sys/devices/system/cpu/cpu0/cpufreq", "sys/class/thermal/thermal_zone0"
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": PI_CPUINFO + PI_CPUINFO,
            "proc/meminfo": "MemTotal:        3885396 kB\nMemFree: 1 kB\n",
            "proc/loadavg": "0.42 0.5 0.6 1/200 1234\n",
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
            f"{cpufreq}/scaling_governor": "ondemand\n",
            f"{cpufreq}/scaling_cur_freq": "600000\n",
            f"{cpufreq}/scaling_max_freq": "1500000\n",
            f"{thermal}/type": "cpu-thermal\n",
            f"{thermal}/temp": "61835\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    machine = read_machine(root)
    assert machine.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.processor == "Cortex-A72"
    assert machine.features == ("NEON",)
    assert (machine.ram_mb, machine.virtual) == (3979, False)
    assert "bookworm" in machine.system
    assert read_condition(root) == Condition(
        governor="ondemand",
        frequency_mhz=600,
        max_frequency_mhz=1500,
        power_mode=None,
        temperatures_c={"cpu-thermal": 61.835},
        throttling=("under-voltage", "throttled", "under-voltage since boot", "throttled since boot"),
        load=0.42,
    )


def test_a_jetson(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": PI_CPUINFO.replace("0xd08", "0xd42").replace("crc32", "asimddp"),
            "var/lib/nvpmodel/status": "pmode:0002 fmode:fanmode\n",
            "sys/class/thermal/thermal_zone1/temp": "not a number\n",
            "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device0/cur_state": "3\n",
            "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
            "sys/class/thermal/cooling_device1/cur_state": "2\n",
            "sys/class/hwmon/hwmon3/oc1_event_cnt": "4\n",
        },
    )
    assert read_machine(root).processor == "Cortex-A78AE"
    assert "dot product" in read_machine(root).features
    condition = read_condition(root)
    assert condition.power_mode == "nvpmodel 2"
    assert condition.temperatures_c == {}
    # A fan that turns slows nothing down.
    assert condition.throttling == ("cpufreq-cpu0 held back (2)", "over-current throttling 4 times since boot")


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.board, machine.ram_mb, machine.features, machine.virtual) == (None, None, (), False)
    assert machine.cores >= 1
    assert read_condition(tmp_path) == Condition(None, None, None, None, {}, None, None)
    assert memory_mb(root=tmp_path) is None


def test_nothing_slowed_down_is_not_the_same_as_not_told(tmp_path: Path) -> None:
    root = tree(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0\n"})
    assert read_condition(root).throttling == ()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_this_process() -> None:
    memory = memory_mb(os.getpid())
    assert memory is not None
    now, peak = memory
    assert 10 < now <= peak < 20_000
