"""What all tests start from."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take Ctrl-C as in a terminal.

    A shell that runs the gate in the background has its children ignore it, and so would every program that a test
    starts and interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
