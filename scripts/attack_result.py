"""What an attack comes to: one line of `fedward attack`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack and its control.

    Args:
        attack: Name.
        figure: What the attack reached against the real code; `claim` says how much is allowed.
        control: What the same attack reaches without the defence.
        passed: Whether both are as claimed.
        claim: What is claimed of figure and control, in words.
        details: Numbers behind them.
    """

    attack: str
    figure: float
    control: float
    passed: bool
    claim: str
    details: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """For the report."""
        return {
            "attack": self.attack,
            "figure": self.figure,
            "control": self.control,
            "passed": self.passed,
            "claim": self.claim,
            **self.details,
        }
