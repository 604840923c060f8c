"""Starts a program behind a guard (`common.launch`): it and all that it starts end with the process that wanted it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import launch


async def spawn(  # noqa: PLR0913 -- what a process is made of
    name: str,
    argv: Sequence[str],
    *,
    output: int,
    errors: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    inherited: tuple[int, ...] = (),
) -> asyncio.subprocess.Process:
    """Start a program in a session of its own, with nothing on its standard input.

    Call it from the main thread: the kernel ties the guard to the thread that starts it.

    Args:
        name: Shown in lists of processes beside the guard.
        argv: Program and arguments; nothing secret, every user of the machine can read them.
        output: File descriptor for its standard output, or one of asyncio.subprocess's constants.
        errors: The same for its standard error; None: where its output goes.
        env: The whole environment; None: this process's.
        cwd: Working folder; None: this process's.
        inherited: File descriptors that it gets.

    Returns:
        The guard. It takes SIGTERM for the program, and `launch.END_NOW`, and ends as the program does, after the rest.
    """
    process = await asyncio.create_subprocess_exec(
        # Blank arguments in front of the guard's own: isolated, no site-packages, so that it starts in milliseconds.
        *(sys.executable, "-IS", launch.__file__, str(os.getpid()), "-", name),
        stdin=asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT if errors is None else errors,
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
        pass_fds=inherited,
    )
    if process.stdin is not None:
        try:
            # If it is gone already, its status says so.
            with contextlib.suppress(ConnectionError):
                process.stdin.write(b"".join(os.fsencode(word) + b"\0" for word in argv))
                await process.stdin.drain()
        except asyncio.CancelledError:
            # Nobody will have it to stop it.
            process.kill()
            raise
        finally:
            process.stdin.close()
    return process
