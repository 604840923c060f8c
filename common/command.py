"""Runs a typer application so that a user's mistake is one line, never a traceback."""

from __future__ import annotations

import errno
import os
import sys

import typer

from common.errors import FedwardError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_CLOSED = (errno.EACCES, errno.EPERM)


def run_command(app: typer.Typer) -> None:
    """Run `app` on the command line's arguments.

    A FedwardError, and a file that the machine refuses, become one line on stderr and an exit code.
    """
    try:
        app()
    except FedwardError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        if not _is_the_machines(error):
            raise
        _end(_sentence(error), 2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _end(sentence: str, status: int) -> None:
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(status)


def _is_the_machines(error: OSError) -> bool:
    """Whether a file or a disk is the cause; what names none, such as a lost connection, is a fault of the program."""
    return isinstance(error.filename, str | bytes | os.PathLike) or error.errno in _FULL


def _sentence(error: OSError) -> str:
    seen = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else f"{error.strerror}"
    if error.errno in _FULL:
        return f"{seen}; free space on that disk or mend it, then try again"
    if error.errno in _CLOSED:
        return f"{seen}; give this user the right to it, or name another path"
    return f"{seen}; check this path, or name another in the configuration file"
