"""File locks that the kernel drops when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import DeploymentError

COORDINATOR_LOCK = "coordinator.lock"
POLL_S = 0.1


@contextlib.contextmanager
def hold(path: Path, *, wait_s: float, busy: str) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock's file; made if it is not there, never removed.
        wait_s: How long to wait for another process that holds it, seconds.
        busy: What to tell the operator if it does not let go.

    Raises:
        DeploymentError: If another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise DeploymentError(busy)
            time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
