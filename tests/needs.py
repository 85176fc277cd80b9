"""What tests need beside this package: where it is missing they are skipped, visibly; in CI they fail."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import NoReturn

import pytest

_PACKAGES = {
    "cc": "gcc",
    "node": "nodejs",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-aarch64": "qemu-user",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-x86_64": "qemu-user",
    "qemu-arm-static": "qemu-user-static",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-system-riscv64": "qemu-system-misc",
}
"""Packages of Debian, where they have other names than their programs."""


def missing(*tools: str) -> str:
    """Return what must be installed for ``tools``, or nothing."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    packages = sorted({_PACKAGES.get(tool, tool) for tool in absent})
    return f"{', '.join(absent)} not installed (apt install {' '.join(packages)})" if absent else ""


def need(*tools: str) -> None:
    """Refuse the test where a tool is missing."""
    if reason := missing(*tools):
        refuse(reason)


def tool(name: str) -> str:
    """Return the name of a tool that is there; refuse the test where it is not."""
    need(name)
    return name


def need_module(name: str) -> None:
    """Refuse the test where a Python package is missing."""
    if find_spec(name) is None:
        refuse(f"{name} not installed (pip install {name})")


def refuse(reason: str) -> NoReturn:
    """Skip the test, visibly; fail where REQUIRE_ARM or CI says that what it needs must be there."""
    (pytest.fail if os.environ.get("REQUIRE_ARM") or os.environ.get("CI") else pytest.skip)(reason)
