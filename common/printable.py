"""Text that a terminal shows as it is: a plan's words must not move the cursor, hide a line, or add one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from common.errors import ConfigError


def printable(text: str) -> str:
    """`text` with whatever a terminal does not show, such as ESC, a line break or a change of direction, escaped."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ConfigError(f"seen '{printable(text)}'; printable characters on one line are allowed")
    return text


PrintableText = Annotated[str, AfterValidator(_check_printable)]
