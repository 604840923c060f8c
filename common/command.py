"""Runs a typer application so that a user's mistake is one line, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys

import typer

from common.errors import FedwardError
from common.printable import printable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_CLOSED = (errno.EACCES, errno.EPERM)


def run_command(app: typer.Typer) -> None:
    """Run `app` on the command line's arguments.

    A FedwardError, and a file that the machine refuses, become one line on stderr and an exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name may hold bytes that are no text, and a terminal may know fewer letters than a name.
            stream.reconfigure(errors="backslashreplace")
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
    # A line break parts sentences; what else a terminal would obey comes from names of files and columns.
    shown = "\n".join(printable(line) for line in sentence.split("\n"))
    sys.stderr.write(f"error: {shown}\n")
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
