"""Decides when a site dies: at random moments around the requests that it is asked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

AGAIN = 0.2
"""How often a service is killed once more while it starts."""


@dataclass
class Hit:
    """One kill: what the site had been asked last, and whether it was still at it, waiting, or starting."""

    kind: str
    during: str


@dataclass
class Killer:
    """Decides at which requests a site is killed, and how long after they were sent."""

    random: random.Random
    restart: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    due: set[int] = field(default_factory=set)
    asked: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def plan(self, kills: int, *, requests: int) -> None:
        """Choose at which of a run's first `requests` requests sites will be killed."""
        self.asked, self.due = 0, set(self.random.sample(range(requests), kills))

    def at(self, name: str, kind: str, finished: threading.Event) -> None:
        """Before a request goes out: perhaps let its site die while it is answered, or soon after."""
        self.asked += 1
        if self.asked - 1 not in self.due:
            return
        delay_s = self.random.uniform(0.0, 1.2 * self.seconds.get(kind, 0.05))
        again = self.random.random() < AGAIN
        strike = threading.Thread(target=self._strike, args=(name, kind, finished, delay_s), kwargs={"again": again})
        self.threads.append(strike)
        strike.start()

    def settle(self) -> None:
        """Wait until all that were killed are started again."""
        for thread in self.threads:
            thread.join()
        self.threads.clear()

    def _strike(self, name: str, kind: str, finished: threading.Event, delay_s: float, *, again: bool) -> None:
        # The moment of a kill is random by intention: nothing is waited for here.
        time.sleep(delay_s)
        self.hits.append(Hit(kind, "waiting" if finished.is_set() else "answering"))
        self.restart(name)
        if again:
            time.sleep(self.random.uniform(0.0, 1.5))
            self.hits.append(Hit(kind, "starting"))
            self.restart(name)
