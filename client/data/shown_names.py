"""What messages for a site's own eyes call its files, which may lie in folders that are named after patients."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from client.data.reading import RawImage, listed
from common.printable import printable


def shown_name(path: str, found: Sequence[str], classes: Sequence[str]) -> str:
    """An image as the site's log may name it: below a class's folder lie folders that archives name by patients.

    Args:
        path: One of `found`.
        found: Paths of all images that were found, sorted.
        classes: The plan's.
    """
    folder = path.rpartition("/")[0].removeprefix("Train/")
    if not folder or folder in classes:
        return printable(path)
    return f"file {bisect_left(found, path) + 1} of {len(found)} (by name)"


def some_shown(paths: Iterable[str], found: Sequence[str], classes: Sequence[str]) -> str:
    """The first of several images, in the order of their paths, each as `shown_name` calls it."""
    return name_some([shown_name(path, found, classes) for path in sorted(paths)])


def of_nobody(images: Sequence[RawImage], classes: Sequence[str]) -> str:
    """How many of the images that open belong to nobody that is known, and the first of them; empty if none does.

    Such an image beside others that name their patients would be a unit of its own, with a budget of its own.
    """
    opening = [image for image in images if image.problem is None]
    untold = [image.path for image in opening if not (image.ids and image.ids[0].startswith("patient:"))]
    if not untold:
        return ""
    return (
        f"{len(untold)} of {len(opening)} images do not say whose they are, while DICOM files beside them name their "
        f"patients (PatientID): {some_shown(untold, listed(images), classes)}"
    )


def name_some(names: list[str]) -> str:
    """List at most ten names, and count the rest."""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
