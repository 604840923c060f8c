"""Starts one program and stays as its guard: when the program or the supervisor is gone, so is all that it started.

Run as a script: `python launch.py PARENT_PID PROGRAM ARGUMENTS...`; or, as `common.spawn` does so that a list of
processes shows them once, `python launch.py PARENT_PID - NAME`, with program and arguments on standard input, each
ended by a NUL. The guard adopts every process that the program leaves behind, those in sessions of their own included,
and none of them outlives it:

* SIGTERM is passed on to the program's process group; the guard ends once all have ended.
* END_NOW, which the kernel sends too when the supervisor has died, however it died: SIGKILL to all of them.
* The program ends by itself: SIGKILL to what it left behind.

It ends as its program did, with the same status or by the same signal. A process of its own, since doing this between
fork and exec inside the supervisor may deadlock where that has threads. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time

END_NOW = signal.SIGUSR1
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_FOUND = 127
# What cannot be killed within this hangs in the kernel.
KILL_TIMEOUT_S = 10.0
_KILL_PAUSE_S = 0.01
_WATCHED = (signal.SIGCHLD, signal.SIGTERM, END_NOW)
_MOST_DESCRIPTORS = 1 << 16


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies, however the parent dies.

    SIGKILL, unless this process can be trusted to end by itself: nobody is left who could insist after a SIGTERM.

    Args:
        parent: Process id of the expected parent.
        number: The signal.
    """
    _control(PR_SET_PDEATHSIG, number, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        # It died before the request was in force.
        sys.exit(1)


def main() -> None:
    """Arguments: see the module."""
    parent, *words = sys.argv[1:]
    # Waited for one at a time, so that no signal finds this process between two steps.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    die_with_parent(int(parent), END_NOW)
    _control(PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")
    if words[0] == "-":
        words = os.fsdecode(sys.stdin.buffer.read()).split("\0")[:-1]
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    guard = os.getpid()
    program = os.fork()
    if program == 0:
        _become(words, guard)
    # Secrets that the program inherits are none of the guard's business.
    os.closerange(3, _MOST_DESCRIPTORS)
    _end_like(_watch(program))


def _become(words: list[str], guard: int) -> None:
    os.setsid()
    die_with_parent(guard)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    os.umask(0o077)
    status = NOT_FOUND
    try:
        os.execvp(words[0], words)  # noqa: S606 -- no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{words[0]}: cannot be started ({error.strerror}); check the installation\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def _watch(program: int) -> int:
    """Wait until all is over; the program's status as `os.waitpid` tells it."""
    status, stopping, left = None, False, True
    while left:
        number = signal.sigwait(_WATCHED)
        ended, left = _reap()
        status = ended.get(program, status)
        if number == signal.SIGTERM:
            stopping = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program, signal.SIGTERM)
        if number == END_NOW or (status is not None and not stopping):
            status = _kill_all().get(program, status)
            break
    return signal.SIGKILL if status is None else status


def _reap() -> tuple[dict[int, int], bool]:
    """The statuses of processes that have ended, and whether any is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        ended[pid] = status


def _kill_all() -> dict[int, int]:
    """Kill all that descends from this process; the statuses of those that became its children."""
    ended, left = _reap()
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while left and time.monotonic() < deadline:
        for pid in _descendants():
            # Gone already, or of another user: there is nothing more to do about it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_KILL_PAUSE_S)
        more, left = _reap()
        ended |= more
    return ended


def _descendants() -> list[int]:
    parents: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        processes = [entry.name for entry in entries if entry.name.isdecimal()]
    for pid in processes:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 -- pathlib costs 1 MB
            # The name in brackets may hold blanks and brackets; the state and the parent come behind it.
            parents.setdefault(int(stat.read().rpartition(b")")[2].split()[1]), []).append(int(pid))
    found, waiting = [], [os.getpid()]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _end_like(status: int) -> None:
    """End as the program did, so that the supervisor sees no difference."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # The program has dumped its core if it was to be dumped; this process's is of no use.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (-code,))
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 1)


def _control(option: int, value: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name}) failed")


if __name__ == "__main__":
    main()
