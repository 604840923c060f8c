"""Gives a thin virtual environment the start scripts of a shared one; scripts/setup.sh runs it.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

# What the kernel reads of a script's first line.
MAX_SHEBANG_BYTES = 127


def head(interpreter: Path) -> bytes:
    """First lines of a Python script that `interpreter` runs, as pip writes them.

    The kernel cuts `#!` lines at blanks, and long ones. There the shell starts the interpreter, by a line that Python
    reads as text.
    """
    plain = f"#!{interpreter}\n".encode()
    if len(plain) <= MAX_SHEBANG_BYTES and not set(plain[:-1]) & set(b" \t"):
        return plain
    return f"#!/bin/sh\n'''exec' \"{interpreter}\" \"$0\" \"$@\"\n' '''\n".encode()


def body(script: bytes, folder: Path) -> bytes | None:
    """A Python script of the environment `folder` without its head; None for any other file."""
    interpreter = f"{folder}/bin/python".encode()
    if script.startswith(b"#!" + interpreter):
        return script.split(b"\n", 1)[1]
    shell = b"#!/bin/sh\n'''exec' "
    if script.startswith((shell + interpreter, shell + b'"' + interpreter)):
        return script.split(b"\n", 3)[3]
    return None


def write_start_scripts(shared: Path, thin: Path) -> None:
    """Write the Python scripts of `shared` for `thin`'s interpreter, and link to its other programs.

    Args:
        shared: A virtual environment with programs in `bin`.
        thin: Another; what its `bin` holds is not touched.
    """
    for source in sorted((shared / "bin").iterdir()):
        target = thin / "bin" / source.name
        if target.exists() or source.is_dir():
            continue
        content = body(source.read_bytes(), shared)
        if content is None:
            target.symlink_to(source)
        else:
            # Scripts name their interpreter: ours must see this checkout.
            target.write_bytes(head(thin.absolute() / "bin" / "python") + content)
            target.chmod(0o755)


if __name__ == "__main__":
    write_start_scripts(Path(sys.argv[1]), Path(sys.argv[2]))
