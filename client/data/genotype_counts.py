"""From the alleles that a person carries to copies of the plan's alternate, by the same rules for every form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from client.data.reading import Value
from common.plan_data import Variant

# In arrays of counts: the person was asked and there is no count, or nobody has said anything of the variant.
MISSING, NOT_SEEN = -1, -2
# In arrays of allele numbers.
NOT_CALLED, NO_COPY = -1, -2
_OTHER = -3

# Males have one copy of X and Y, and MT has no pair: some callers write 1 for it, some 1/1.
_SINGLE = frozenset({"X", "Y", "MT"})


@dataclass(slots=True)
class CallTally:
    """How many counts there were, and why some are missing; tells no person and no variant.

    Attributes:
        calls: Persons times variants that were seen.
        missing: Of them without a count, by reason in words.
    """

    calls: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def sentences(self) -> list[str]:
        """For this hospital's eyes, if anything is missing."""
        if not self.missing.total():
            return []
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.missing.items()) if count)
        return [f"{self.missing.total()} of {self.calls} calls count as missing: {reasons}"]


def count_copies(
    calls: NDArray[np.int64], alleles: Sequence[str], variant: Variant, *, tally: CallTally
) -> NDArray[np.int8]:
    """Copies of the plan's alternate, whichever allele a file calls the reference.

    The alleles are taken as they are written: no strand is guessed. A call that names an allele which the plan does
    not, a call by half, and one of more than two copies are missing. A single copy of X, Y or MT counts twice, as
    callers do that write it as a pair; a single copy of another chromosome is missing.

    Args:
        calls: Allele numbers, shape (people, copies), int64; `NOT_CALLED`, or `NO_COPY` where there are fewer copies.
        alleles: What the numbers name.
        variant: The plan's.
        tally: Is added to.

    Returns:
        0, 1, 2 or `MISSING`, shape (people,), int8.
    """
    copies = [1 if each == variant.alternate else 0 if each == variant.reference else _OTHER for each in alleles]
    meaning = np.array([*copies, NO_COPY, NOT_CALLED], dtype=np.int64)[calls]
    there, called = (calls != NO_COPY).sum(axis=1), (calls >= 0).sum(axis=1)
    single = (there == 1) & (variant.chromosome in _SINGLE)
    reasons = {
        "not called": called == 0,
        "called by half": (called > 0) & (called < there),
        "with an allele that the plan does not name": (called == there) & (meaning == _OTHER).any(axis=1),
        "of more than two copies": there > 2,
        "of a single copy beside X, Y and MT": (there == 1) & ~single,
    }
    counted = np.ones(len(calls), dtype=np.bool_)
    tally.calls += len(calls)
    for reason, holds in reasons.items():
        tally.missing[reason] += int((holds & counted).sum())
        counted &= ~holds
    total = np.where(meaning > 0, meaning, 0).sum(axis=1) * np.where(single, 2, 1)
    return np.where(counted, total, MISSING).astype(np.int8)


def is_swapped(alleles: Sequence[str], variant: Variant) -> bool:
    """Whether a file calls the plan's alternate the reference."""
    return alleles[0] == variant.alternate


def looks_alike_on_both_strands(variant: Variant) -> bool:
    """Whether the other strand has the same two bases, so that a swap and another strand look the same."""
    return {variant.reference, variant.alternate} in ({"A", "T"}, {"C", "G"})


def as_values(counts: NDArray[np.int8], variants: Sequence[Variant]) -> dict[str, Value]:
    """A person's counts, shape (variants,), as `client.data.reading.RawRow` holds them."""
    return {
        variant.id: float(count) if count >= 0 else None
        for variant, count in zip(variants, counts.tolist(), strict=True)
    }
