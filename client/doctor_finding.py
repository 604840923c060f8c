"""What the doctor says about one thing that it has looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import typer

from common.errors import FedwardError

Part = Literal["all", "site", "gateway"]
"""Whose things are looked at: the site service's, the gateway's, or both."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was seen.

    Attributes:
        status: `pass`; `fail`: the site cannot work like this; `note`: it can, and somebody should know.
        seen: What was seen, with the names that are needed to act.
        advice: What to do; empty where nothing is to be done.
    """

    status: Literal["pass", "fail", "note"]
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and what it is about."""

    name: str
    verdict: Verdict

    @property
    def failed(self) -> bool:
        """Whether somebody must act."""
        return self.verdict.status == "fail"

    def line(self) -> str:
        """One line for a person."""
        verdict = self.verdict
        return f"{verdict.status}  {self.name}: {verdict.seen}" + (f"; {verdict.advice}" if verdict.advice else "")

    def row(self) -> dict[str, str]:
        """The same for a program."""
        verdict = self.verdict
        return {"status": verdict.status, "name": self.name, "seen": verdict.seen, "advice": verdict.advice}


def passed(seen: str) -> Verdict:
    """All is well."""
    return Verdict("pass", seen)


def noted(seen: str, advice: str = "") -> Verdict:
    """Nothing that stops the site."""
    return Verdict("note", seen, advice)


def failed(seen: str, advice: str) -> Verdict:
    """Somebody must act."""
    return Verdict("fail", seen, advice)


def examine(name: str, look: Callable[[], Verdict]) -> Finding:
    """Look at one thing; whatever goes wrong there is its verdict, so that the others are looked at too.

    Args:
        name: What is looked at.
        look: Returns a verdict or raises.
    """
    try:
        return Finding(name, look())
    except typer.Abort:  # Ctrl-C where a passphrase was asked for
        raise
    except FedwardError as error:
        seen, _, advice = str(error).partition("; ")
        return Finding(name, failed(seen, advice))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return Finding(name, failed(f"{place}{error.strerror or error}", "check this path and this user's rights"))
    except Exception as error:  # noqa: BLE001 -- a fault in one check must not hide what the others see
        seen = f"the check itself broke ({type(error).__name__}: {error})"
        return Finding(name, failed(seen, "a library is damaged, or this is a fault of fedward: report this line"))
