"""What the doctor looks at on the machine: versions, clock, memory, disk."""

from __future__ import annotations

import ctypes
import datetime as dt
import errno
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil
from cryptography import x509

from client.doctor_finding import Verdict, failed, noted, passed
from common.errors import ConfigError

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^;\s]+)\s*(?:;\s*extra == \"(\w+)\")?")
_TIME_ERROR = 5
_TIMEX_BYTES = 512  # more than the kernel's struct timex has on any machine

Kernel = Literal["synchronised", "free-running", "unknown"]


def versions(*, site: bool) -> Verdict:
    """Compare Python and the installed packages with the versions that this fedward was made for.

    Nothing is imported: a package that cannot be imported would hide the answer.

    Args:
        site: Also what only the site service needs.
    """
    metadata = importlib.metadata.metadata("fedward")
    pins = exact_pins(importlib.metadata.requires("fedward") or [], site=site)
    installed = {name: _installed(name) for name in pins}
    wrong = [
        f"{name} {installed[name] or 'is missing'}, not {pin}" for name, pin in pins.items() if installed[name] != pin
    ]
    if not python_allowed(sys.version_info[:2], str(metadata["Requires-Python"])):
        wrong.insert(0, f"Python {platform.python_version()}, not {metadata['Requires-Python']}")
    if wrong:
        return failed(
            ", ".join(wrong), "install fedward again, with its constraints.txt, into an environment of its own"
        )
    packages = ", ".join(f"{name} {version}" for name, version in installed.items())
    return passed(f"fedward {metadata['Version']}, Python {platform.python_version()}, {packages}")


def exact_pins(requirements: list[str], *, site: bool) -> dict[str, str]:
    """The `==` requirements of a package by name, in the form of its metadata; `site` adds those of that extra."""
    found = [match for text in requirements if (match := _PIN.fullmatch(text))]
    return {
        name: pin for name, pin, extra in (m.groups() for m in found) if extra is None or (site and extra == "site")
    }


def python_allowed(version: tuple[int, ...], allowed: str) -> bool:
    """Whether a version lies in a range such as `<3.12,>=3.11`."""
    for bound in allowed.split(","):
        sign, number = bound[:2].rstrip("0123456789"), tuple(int(part) for part in bound.lstrip("<>=").split("."))
        if (sign == ">=" and version < number) or (sign == "<" and version >= number):
            return False
    return True


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def kernel_clock() -> Kernel:
    """What the kernel says of its clock; reading it needs no right."""
    libc = ctypes.CDLL(None, use_errno=True)
    # All zero: mode 0 asks and changes nothing.
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):  # a container's system call filter
            return "unknown"
        raise OSError(ctypes.get_errno(), "adjtimex failed")
    return "free-running" if state == _TIME_ERROR else "synchronised"


def clock(kernel: Kernel, now: dt.datetime, validity: tuple[dt.datetime, dt.datetime] | None) -> Verdict:
    """Judge this machine's clock.

    Args:
        kernel: See `kernel_clock`.
        now: This machine's time, with a zone.
        validity: From when until when the coordinator's authority is valid; None where this user cannot read it.
    """
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if validity is not None and not validity[0] <= now <= validity[1]:
        span = f"{validity[0]:%Y-%m-%d %H:%M} to {validity[1]:%Y-%m-%d %H:%M} UTC"
        return failed(
            f"it is {shown} here, the coordinator's authority is valid from {span}",
            "set the clock right; if it is right, ask the coordinator for new certificates",
        )
    advice = "switch on chrony or systemd-timesyncd, unless the host of this virtual machine keeps the time"
    if kernel == "free-running":
        return noted(f"{shown}; the kernel says that nothing keeps the clock right", advice)
    if kernel == "unknown":
        return noted(f"{shown}; the kernel does not tell here whether anything keeps the clock right", "ask the host")
    return passed(f"{shown}, kept right by a time service")


def validity_of(certificates: Path) -> tuple[dt.datetime, dt.datetime]:
    """From when until when all certificates of a PEM file are valid.

    Raises:
        ConfigError: If the file cannot be read or holds no certificate.
    """
    try:
        found = x509.load_pem_x509_certificates(certificates.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"gateway.root_certificates: {certificates}: cannot be read ({error.strerror}); "
            "ask the coordinator for its ca.crt"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"gateway.root_certificates: {certificates}: holds no certificate; ask the coordinator for its ca.crt"
        ) from error
    return max(c.not_valid_before_utc for c in found), min(c.not_valid_after_utc for c in found)


def memory(need_bytes: int, *, cgroup: Path = CGROUP) -> Verdict:
    """Compare the memory that processes could still get with what is needed.

    Args:
        need_bytes: What the part of the site takes that is not running yet.
        cgroup: Where a container finds its own limit (control groups, version 2).
    """
    free, of = psutil.virtual_memory().available, "this machine"
    limit = _cgroup_free(cgroup)
    if limit is not None and limit < free:
        free, of = limit, "this container"
    seen = f"{free / GIB:.1f} GiB of {of}'s memory is available"
    if free < need_bytes:
        return failed(f"{seen}, {need_bytes / GIB:.1f} GiB is needed", "stop other programs, or raise the limit")
    return passed(seen)


def _cgroup_free(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # no container, or an older kernel
        return None
    # Cached files give way when memory runs short.
    return None if limit == "max" else int(limit) - used + int(counters["inactive_file"])


def disk(needs: Mapping[Path, int]) -> Verdict:
    """Compare what is free for folders, made already or not, with what is needed there.

    Args:
        needs: Bytes per folder.
    """
    seen, short = [], []
    for folder, need_bytes in needs.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        seen.append(f"{free / GIB:.1f} GiB free for {folder}")
        if free < need_bytes:
            short.append(f"{free / GIB:.1f} GiB free for {folder}, {need_bytes / GIB:.1f} GiB is needed")
        elif not os.access(place, os.W_OK | os.X_OK):
            short.append(f"{place} cannot be written by this user")
    if short:
        return failed(", ".join(short), "make room, give this user the right, or name another folder in the site file")
    return passed(", ".join(seen))
