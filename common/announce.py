"""What a supervising command tells its operator: a line for a person, or a JSON line on request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from common.child import ChildEvent
from common.log_json import JsonLines


class Announcer:
    """Tells what happens.

    Args:
        lines: Where JSON lines go; None: plain lines are printed.
    """

    def __init__(self, lines: JsonLines | None) -> None:
        self.lines = lines

    def event(self, event: ChildEvent) -> None:
        """Something happened to a child."""
        if self.lines is not None:
            self.lines.event(event)
        else:
            detail = f": {event.detail}" if event.detail else ""
            typer.echo(f"{event.name} {event.kind}{detail}", err=event.kind == "died")

    def say(self, text: str) -> None:
        """The command itself has something to say."""
        if self.lines is not None:
            self.lines.say(text)
        else:
            typer.echo(text)

    def warn(self, text: str) -> None:
        """The same, for what did not go well."""
        if self.lines is not None:
            self.lines.say(text, level="warning")
        else:
            typer.echo(text, err=True)


@contextlib.contextmanager
def announcing(name: str, *, as_json: bool) -> Iterator[Announcer]:
    """An announcer that has said everything at the end of the context.

    Args:
        name: What the command is called in JSON lines.
        as_json: Whether to print JSON lines.
    """
    lines = JsonLines(name) if as_json else None
    try:
        yield Announcer(lines)
    finally:
        if lines is not None:
            lines.close()
