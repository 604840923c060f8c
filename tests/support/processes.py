"""Processes that a test has started, and those that they have started."""

from __future__ import annotations

import os

import psutil


def arguments(process: psutil.Process) -> list[str]:
    """Of a process that may have ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def processes_with(text: str) -> list[int]:
    """Processes whose command line names `text`; this one is left out."""
    return [
        process.pid
        for process in psutil.process_iter()
        if text in " ".join(arguments(process)) and process.pid != os.getpid()
    ]
