"""Two labels for one picture, one picture twice, two labels for one lesion: what stays, and how it is told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image file before duplicates are resolved.

    Attributes:
        path: Relative to the table's root.
        label: Name of its class folder.
        unit: Privacy unit.
        sha256: Hex digest of the file's bytes.
        keep_clean: index.csv's word on this file; None where it says nothing.
    """

    path: str
    label: str
    unit: str
    sha256: str
    keep_clean: bool | None


def left_after_duplicates(
    candidates: Iterable[Candidate], warnings: list[str]
) -> tuple[list[Candidate], dict[str, int]]:
    """Keep one file per picture, and none where the files contradict each other and index.csv does not decide.

    A picture with two labels teaches a contradiction, and counts twice in the privacy accounting if its two files
    belong to two units: so at most one may stay.

    Args:
        candidates: All files.
        warnings: Sentences are appended.

    Returns:
        The kept files sorted by path, and how many were left out by reason: `not_clean`, `conflicting_label`,
        `duplicate`.
    """
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda each: each.path):
        groups[candidate.sha256].append(candidate)
    kept: list[Candidate] = []
    left_out: Counter[str] = Counter()
    conflicts: Counter[str] = Counter()
    decided = 0
    for group in groups.values():
        clean = [candidate for candidate in group if candidate.keep_clean is not False]
        left_out["not_clean"] += len(group) - len(clean)
        if len({candidate.label for candidate in group}) > 1:
            conflicts[" = ".join(sorted({candidate.label for candidate in group}))] += 1
            decided += len({candidate.label for candidate in clean}) == 1
        if len({candidate.label for candidate in clean}) > 1:
            left_out["conflicting_label"] += len(clean)
        elif clean:
            kept.append(clean[0])
            left_out["duplicate"] += len(clean) - 1
    if conflicts:
        pairs = ", ".join(f"{count} {pair}" for pair, count in conflicts.most_common())
        warnings.append(
            f"{conflicts.total()} images lie byte-identical in folders of different classes ({pairs}): "
            f"index.csv's keep_clean decides {decided}, the other {conflicts.total() - decided} are left out"
        )
    if left_out["duplicate"]:
        warnings.append(f"{left_out['duplicate']} byte-identical copies of kept images are left out")
    kept.sort(key=lambda each: each.path)
    return kept, {reason: count for reason, count in left_out.items() if count}


def one_label_per_unit(kept: Iterable[Candidate], warnings: list[str]) -> dict[str, str]:
    """Give each unit the label of most of its images, the first by name among equals.

    A lesion with two labels would otherwise be two samples, and its clipped gradient would count twice.

    Args:
        kept: Files that stay.
        warnings: A sentence is appended if a unit had several labels.

    Returns:
        Label by unit.
    """
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for candidate in kept:
        votes[candidate.unit][candidate.label] += 1
    torn = sum(len(counter) > 1 for counter in votes.values())
    if torn:
        warnings.append(f"{torn} lesion(s) carry more than one label: each is given the label of most of its images")
    return {unit: min(counter, key=lambda label: (-counter[label], label)) for unit, counter in votes.items()}
