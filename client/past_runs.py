"""Removes what a site keeps of runs that are over, so that its state does not grow with every run.

Nothing that counts is lost: the results lie elsewhere, spending stands in the ledger, and a removed run that is asked
for after all is replayed from its aggregates, under its old charges.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from client.storage import RunStorage
from common.errors import SiteStorageError

log = logging.getLogger(__name__)

KEPT = 3
"""So many runs that are over stay: their last request may be asked again."""

_RUN = re.compile(r"[0-9a-f]{32}")
_REMOVED = ".removed-"


def remove_past_runs(folder: Path, *, approved: Collection[str]) -> None:
    """Remove all but the newest runs that are over: finished, or of a plan that this site follows no more.

    A run of an approved plan that is not finished stays, however old: it may be resumed. A disk that refuses is a line
    in the log and the next call's work.

    Args:
        folder: The folder of all runs; may be missing.
        approved: Digests of the approved plans.

    Guarantees:
        A run's folder is there whole or not at all, also after a crash in here: it is renamed before it is emptied.
    """
    try:
        for half_removed in folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(half_removed)
        over = [path for path in folder.glob("*") if _is_over(path, approved)]
        for path in sorted(over, key=_last_written, reverse=True)[KEPT:]:
            shutil.rmtree(path.rename(path.with_name(f"{_REMOVED}{path.name}")))
            log.info("removed what was kept of run %s, which is over", path.name)
    except (OSError, SiteStorageError) as error:
        log.warning("old runs stay in %s: %s", folder, error)


def plans_of_runs(folder: Path) -> frozenset[str]:
    """Digests of the plans of all runs in a folder, which may be missing.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    plans = (RunStorage.plan_of(path) for path in folder.glob("*") if _RUN.fullmatch(path.name))
    return frozenset(plan for plan in plans if plan is not None)


def _is_over(path: Path, approved: Collection[str]) -> bool:
    if not _RUN.fullmatch(path.name) or not path.is_dir():
        return False
    plan = RunStorage.plan_of(path)
    return plan is not None and (plan not in approved or RunStorage.is_finished(path))


def _last_written(path: Path) -> int:
    return path.stat().st_mtime_ns
