"""JSON lines on request: what happens to the children, and all that they write, one object per line.

Each has `time` (ISO 8601, UTC), `process`, `text`, and `level` where one is known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from common.child import ChildEvent
from common.child_log import COLOUR

# A terminal or collector that takes nothing must not hold up the children.
MOST_WAITING_LINES = 10_000
FLUSH_TIMEOUT_S = 2.0
_LEVEL = re.compile(r"^(?:\d[\d-]*[ T][\d:,.]+\S*\s+)?(DEBUG|INFO|WARNING|ERROR|CRITICAL|debug|warning|error)\b")

Say = Callable[[str], None]


def json_line(process: str, text: str, *, level: str | None) -> bytes:
    """One line, without its newline."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"time": now, "process": process, "level": level, "text": text}
    return json.dumps({key: value for key, value in fields.items() if value is not None}, ensure_ascii=False).encode()


def level_of(text: str) -> str | None:
    """The level that a line of a log begins with, behind its time; in lower case."""
    found = _LEVEL.search(text)
    return found[1].lower() if found else None


class JsonLines:
    """Writes JSON lines to standard output, from a thread that may wait for it while nobody else does.

    Args:
        name: What the supervisor itself is called in `process`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING_LINES)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, name="JSON lines", daemon=True)
        self._writer.start()

    def encoder(self, process: str) -> Callable[[bytes], bytes]:
        """What makes a JSON line of a child's line; it is printed too."""

        def encode(line: bytes) -> bytes:
            text = COLOUR.sub("", line.decode(errors="replace")).rstrip("\r")
            encoded = json_line(process, text, level=level_of(text))
            self._print(encoded)
            return encoded

        return encode

    def event(self, event: ChildEvent) -> None:
        """Something happened to a child."""
        text = f"{event.kind}: {event.detail}" if event.detail else event.kind
        self._print(json_line(event.name, text, level="error" if event.kind == "died" else "info"))

    def say(self, text: str, *, level: str = "info") -> None:
        """The supervisor itself has something to say."""
        self._print(json_line(self._name, text, level=level))

    def close(self) -> None:
        """Print what waits, unless standard output takes nothing."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=FLUSH_TIMEOUT_S)
        self._writer.join(FLUSH_TIMEOUT_S)

    def _print(self, line: bytes) -> None:
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            lines = [line]
            if dropped:
                lines.append(json_line(self._name, f"{dropped} lines were dropped: nobody read them", level="warning"))
            try:
                # Past the buffer: its lock would still be held when this process ends while nobody reads.
                view = memoryview(b"".join(each + b"\n" for each in lines))
                while view:
                    view = view[os.write(sys.stdout.fileno(), view) :]
            except OSError:
                # Whoever read them is gone; the logs have all of it.
                self._dropped += dropped


class JsonFormatter(logging.Formatter):
    """Formats the records of this process's own loggers as JSON lines.

    Args:
        process: What it is called in `process`.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback stands in its text."""
        return json_line(self._process, super().format(record), level=record.levelname.lower()).decode()
