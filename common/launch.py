"""Becomes another program that dies with the process that started it, and whose files nobody else can read.

Run as a script by `common.supervise`: `python launch.py PARENT_PID PROGRAM ARGUMENTS...`. Doing this between fork and
exec inside the supervisor (preexec_fn) may deadlock where it has threads. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NOT_FOUND = 127


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies.

    SIGKILL, since nobody is left who could insist after a SIGTERM.

    Args:
        parent: Process id of the expected parent.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        # It died before the request was in force.
        sys.exit(1)


def main() -> None:
    """Arguments: the parent's process id, the program, its arguments."""
    parent, program, *arguments = sys.argv[1:]
    die_with_parent(int(parent))
    os.umask(0o077)
    try:
        os.execvp(program, [program, *arguments])  # noqa: S606 -- no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{program}: cannot be started ({error.strerror}); check the installation\n")
        sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
