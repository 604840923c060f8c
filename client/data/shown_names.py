"""What messages for a site's own eyes call its files, which may lie in folders that are named after patients."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from common.printable import printable


def shown_name(path: str, listed: Sequence[str], classes: Sequence[str]) -> str:
    """An image as the site's log may name it: below a class's folder lie folders that archives name by patients.

    Args:
        path: One of `listed`.
        listed: Paths of all images that were found, sorted.
        classes: The plan's.
    """
    folder = path.rpartition("/")[0].removeprefix("Train/")
    if not folder or folder in classes:
        return printable(path)
    return f"file {bisect_left(listed, path) + 1} of {len(listed)} (by name)"


def some_shown(paths: Iterable[str], listed: Sequence[str], classes: Sequence[str]) -> str:
    """The first of several images, in the order of their paths, each as `shown_name` calls it."""
    return name_some([shown_name(path, listed, classes) for path in sorted(paths)])


def name_some(names: list[str]) -> str:
    """List at most ten names, and count the rest."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
