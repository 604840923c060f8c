"""The log of one child: whole lines in files that are rotated by size, and what the supervisor must know of them.

The child writes to a pipe, which a thread of its own empties: neither a busy event loop nor a line that never ends can
hold up the child or fill memory. Only the log's own disk can make it wait, as if it wrote there itself; a disk that
refuses costs the lines that it refused, counted in the log, and not the child.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 1 << 16
# Longer lines are broken, so that one that never ends fills neither memory nor, past rotation, the disk.
MAX_LINE_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 16
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Encode = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Rotation:
    """How much of a log is kept: `files` files of at most `max_bytes` each, the one that is written to included."""

    max_bytes: int = 10 << 20
    files: int = 5


class RotatedFile:
    """Appends lines; `path` is the newest file, `path.1` the one before it, and so on.

    Args:
        path: The newest file; made with mode 0600.
        rotation: How much is kept.
        encode: Makes what is written from a line, both without the newline; None: they are the same.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, rotation: Rotation, encode: Encode | None = None) -> None:
        self._path, self._rotation, self._encode = path, rotation, encode
        self._lost_bytes, self._lost_why, self._torn = 0, "", False
        self._descriptor: int | None = None
        self._size = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, lines: list[bytes]) -> None:
        """Append lines; what the disk refuses is counted, and told in the log once it takes lines again."""
        batch: list[bytes] = []
        size = self._size
        for line in map(self._line, lines):
            if size > 0 and size + len(line) > self._rotation.max_bytes:
                self._append(b"".join(batch))
                self._rotate()
                batch, size = [], self._size
            batch.append(line)
            size += len(line)
        self._append(b"".join(batch))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _line(self, line: bytes) -> bytes:
        return (line if self._encode is None else self._encode(line)) + b"\n"

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _append(self, data: bytes) -> None:
        if not data:
            return
        try:
            if self._descriptor is None:
                self._open()
            if self._lost_bytes:
                note = self._line(f"[{self._lost_bytes} bytes of this log were lost: {self._lost_why}]".encode())
                self._put(b"\n" + note if self._torn else note)
                self._lost_bytes = 0
            self._put(data)
        except OSError as error:
            # Too many where some of it was written: better than too few.
            self._lost_bytes += len(data)
            self._lost_why = error.strerror or type(error).__name__
            self.close()

    def _put(self, data: bytes) -> None:
        if self._descriptor is None:
            return
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self._size += written
            self._torn = bytes(view[written - 1 : written]) != b"\n"
            view = view[written:]

    def _rotate(self) -> None:
        """Shift the older files; if the folder refuses, the newest simply grows until it does not."""
        older = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._rotation.files)]
        with contextlib.suppress(OSError):
            for newer, old in reversed(list(zip([self._path, *older], older, strict=False))):
                if newer.exists():
                    newer.replace(old)
            if not older:
                self._path.unlink()
            self.close()
            self._open()


class ChildLog:
    """Takes a child's output as it comes, in pieces of any size.

    Args:
        file: Where its lines go.
        ready_pattern: Regular expression that a line matches once the child serves; None: it does once it was started.
    """

    def __init__(self, file: RotatedFile, ready_pattern: str | None) -> None:
        self._file = file
        self._ready_pattern = None if ready_pattern is None else re.compile(ready_pattern)
        self._rest = b""
        self._tail = b""
        self._reader: threading.Thread | None = None
        self.ready = ready_pattern is None

    def follow(self, descriptor: int, name: str) -> None:
        """Read the pipe in a thread until its last writer is gone, then close it and the file."""
        with contextlib.suppress(OSError):
            # More than a user may have without privileges, if it has many: the usual size does too.
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._reader = threading.Thread(target=self._read, args=(descriptor,), name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def complete(self) -> bool:
        """Whether everything that the child wrote has been read."""
        return self._reader is None or not self._reader.is_alive()

    def text(self) -> str:
        """The last 64 KiB that the child wrote, without colours."""
        return COLOUR.sub("", self._tail.decode(errors="replace"))

    def feed(self, data: bytes) -> None:
        """Take a piece of output."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        *lines, rest = (self._rest + data).split(b"\n")
        broken = [piece for line in lines for piece in _pieces(line)]
        *more, self._rest = _pieces(rest)
        self._look_for_readiness([*broken, *more, self._rest])
        self._file.write([*broken, *more])

    def end(self) -> None:
        """Write what came without a newline."""
        if self._rest:
            self._file.write([self._rest])
        self._rest = b""
        self._file.close()

    def _look_for_readiness(self, lines: list[bytes]) -> None:
        pattern = self._ready_pattern
        if pattern is not None and not self.ready:
            self.ready = any(pattern.search(COLOUR.sub("", line.decode(errors="replace"))) for line in lines)

    def _read(self, descriptor: int) -> None:
        try:
            while data := os.read(descriptor, READ_BYTES):
                self.feed(data)
        finally:
            os.close(descriptor)
            self.end()


def _pieces(line: bytes) -> list[bytes]:
    """A line, broken where it is too long; at least one piece."""
    return [line[start : start + MAX_LINE_BYTES] for start in range(0, max(len(line), 1), MAX_LINE_BYTES)]
