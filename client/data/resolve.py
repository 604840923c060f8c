"""Two labels for one picture, one picture twice, two labels for one patient: what stays, and how it is told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from common.plural import counted

Owner = Literal["patient", "lesion"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One image file before duplicates are resolved.

    Attributes:
        path: Relative to the table's root.
        label: Name of its class folder.
        unit: Privacy unit.
        sha256: Hex digest of the file's bytes.
        keep_clean: index.csv's word on this file; None where it says nothing.
        ids: See `ImageRecord`.
    """

    path: str
    label: str
    unit: str
    sha256: str
    keep_clean: bool | None
    ids: tuple[str, ...] = ()


def left_after_duplicates(
    candidates: Iterable[Candidate], warnings: list[str], *, owner: Owner
) -> tuple[list[Candidate], dict[str, int]]:
    """Keep one file per picture of a unit, and none where its files contradict each other and index.csv is silent.

    A picture with two labels teaches a contradiction. But only files of one unit are compared: what stays of a unit
    depends on that unit alone, else a patient more could take away another one's images, and move the sum by more than
    the noise is scaled to. A file without an id is its own digest's unit, so its copies are all of one unit.

    Args:
        candidates: All files.
        warnings: Sentences are appended.
        owner: What the sentences call a unit of several images.

    Returns:
        The kept files sorted by path, and how many were left out by reason: `not_clean`, `conflicting_label`,
        `duplicate`.
    """
    by_picture: dict[str, list[Candidate]] = defaultdict(list)
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda each: each.path):
        by_picture[candidate.sha256].append(candidate)
        groups[candidate.unit, candidate.sha256].append(candidate)
    kept: list[Candidate] = []
    left_out: Counter[str] = Counter()
    for group in groups.values():
        clean = [candidate for candidate in group if candidate.keep_clean is not False]
        left_out["not_clean"] += len(group) - len(clean)
        if len({candidate.label for candidate in clean}) > 1:
            left_out["conflicting_label"] += len(clean)
        elif clean:
            kept.append(clean[0])
            left_out["duplicate"] += len(clean) - 1
    kept.sort(key=lambda each: each.path)
    warnings.extend(_about_copies(by_picture, kept, owner=owner))
    if left_out["duplicate"]:
        copies = counted(left_out["duplicate"], "byte-identical copy", "byte-identical copies")
        warnings.append(f"left out: {copies} of kept images")
    return kept, {reason: count for reason, count in left_out.items() if count}


def _about_copies(by_picture: Mapping[str, list[Candidate]], kept: Iterable[Candidate], *, owner: Owner) -> list[str]:
    """What the hospital should know of equal files: contradicting labels, and pictures of several units."""
    staying: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in kept:
        staying[candidate.sha256].append(candidate)
    conflicts: Counter[str] = Counter()
    decided = shared = 0
    for digest, group in by_picture.items():
        labels = {candidate.label for candidate in group}
        if len(labels) == 1:
            continue
        conflicts[" = ".join(sorted(labels))] += 1
        decided += len({candidate.label for candidate in group if candidate.keep_clean is not False}) == 1
        shared += len({candidate.label for candidate in staying[digest]}) > 1
    sentences = []
    if conflicts:
        pairs = ", ".join(f"{count} {pair}" for pair, count in conflicts.most_common())
        stay = f", {shared} stay with each of their {owner}s" if shared else ""
        sentences.append(
            f"{counted(conflicts.total(), 'image lies', 'images lie')} byte-identical in folders of different classes "
            f"({pairs}): index.csv's keep_clean decides {decided}{stay}, "
            f"{conflicts.total() - decided - shared} are left out"
        )
    if several := sum(len(copies) > 1 for copies in staying.values()):
        sentences.append(
            f"{counted(several, 'image lies', 'images lie')} byte-identical in several {owner}s: each {owner} keeps "
            f"its own; if they are one {owner}, give them one id in index.csv"
        )
    return sentences


def one_label_per_unit(kept: Iterable[Candidate], warnings: list[str], *, owner: Owner) -> dict[str, str]:
    """Give each unit the label of most of its images, the first by name among equals.

    A patient with two labels would otherwise be two samples, and its clipped gradient would count twice.

    Args:
        kept: Files that stay.
        warnings: A sentence is appended if a unit had several labels.
        owner: What it calls such a unit.

    Returns:
        Label by unit.
    """
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for candidate in kept:
        votes[candidate.unit][candidate.label] += 1
    torn = sum(len(counter) > 1 for counter in votes.values())
    if torn:
        torn_units = counted(torn, f"{owner} carries", f"{owner}s carry")
        warnings.append(f"{torn_units} more than one label: each is given the label of most of its images")
    return {unit: min(counter, key=lambda label: (-counter[label], label)) for unit, counter in votes.items()}
