"""The kernels for x86-64 on processors that Bochs emulates, of which most machines have none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.firmware.bochs import BOOT_S, MACHINES, VARIABLE, Machine, build, differences
from tests.needs import need


@pytest.fixture(scope="module")
def bochs() -> str:
    """The emulator; few have built it, so without it these tests are skipped in CI too."""
    found = os.environ.get(VARIABLE)
    if found is None:
        pytest.skip(f"{VARIABLE} names no emulator (build Bochs as tests/firmware/bochs.patch says)")
    need("gcc", "clang", "apt-get", "dpkg-deb")
    return found


@pytest.fixture(scope="module")
def programs(bochs: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("programs"))


@pytest.mark.slow
@pytest.mark.timeout(BOOT_S + 60)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_kernels_under_linux_on_an_emulated_processor(
    machine: Machine, bochs: str, programs: dict[str, Path], tmp_path: Path
) -> None:
    assert differences(bochs, machine, programs, tmp_path) == []
