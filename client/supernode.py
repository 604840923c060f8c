"""Runs Flower's `flower-supernode`: it asks more often, and ends when its work does, for the gateway to start it again.

Flower 1.39's own process outlives its work in two ways, and says nothing then. An error that the coordinator answers
ends its main thread, but the thread of its Runtime API keeps the process. An error that ends the thread of its
heartbeats ends nothing else, but the coordinator counts the hospital as gone for good.

Nor has it a setting for how often it asks: messages, two in a round, waited for up to 3 s each at the coordinator.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

GAVE_UP_LINE = "the SuperNode has given up"
MAIN_LOOP = "flwr.supernode.start_client_internal"
# Seconds in place of Flower's own between two looks: for a message, which costs the coordinator 2 ms of a core, and for
# the reply of this machine's ClientApp.
PAUSES_S: Mapping[float, float] = MappingProxyType({3: 0.5, 0.5: 0.1})


class _Pauses:
    """What Flower's main loop gets as its module `time`, of which it uses nothing else."""

    @staticmethod
    def sleep(pause_s: float) -> None:
        """Sleep for our pause in place of Flower's, or as asked if that is none that we know."""
        time.sleep(PAUSES_S.get(pause_s, pause_s))


def main() -> NoReturn:
    """Arguments: path of `flower-supernode`, and its own arguments."""
    del sys.argv[0]
    threading.excepthook = _end_with_thread
    try:
        vars(importlib.import_module(MAIN_LOOP))["time"] = _Pauses
        runpy.run_path(sys.argv[0], run_name="__main__")
        status: int | str | None = None
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001 -- it ends the process, which says why
        traceback.print_exc()
        status = None
    if isinstance(status, int):
        _end(status)
    # Flower returns from its main loop only after an error, and exits with a number for all else.
    _give_up(status or "its work ended with the error above")


def _end_with_thread(ended: threading.ExceptHookArgs) -> None:
    """End the process with any of its threads, but for one that ended itself."""
    if ended.exc_type is SystemExit:
        return
    traceback.print_exception(ended.exc_type, ended.exc_value, ended.exc_traceback)
    _give_up("a thread of it ended with the error above")


def _give_up(why: str) -> NoReturn:
    sys.stderr.write(f"{GAVE_UP_LINE}: {why}\n")
    _end(1)


def _end(status: int) -> NoReturn:
    """End at once: the interpreter would wait for threads that nobody stops."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
