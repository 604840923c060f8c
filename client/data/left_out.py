"""Why records are not used, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.plural import counted

# Of reasons that name a thing.
_SEVERAL = {
    "missing_value": "missing_values",
    "missing_label": "missing_labels",
    "missing_time": "missing_times",
    "missing_event": "missing_events",
    "conflicting_label": "conflicting_labels",
    "duplicate": "duplicates",
    "sample_without_label": "samples_without_label",
    "label_without_sample": "labels_without_sample",
}


def left_out_in_words(left_out: Mapping[str, int]) -> Iterable[str]:
    """How many records were left out, by reason, for people."""
    return (
        counted(count, reason.replace("_", " "), _SEVERAL.get(reason, reason).replace("_", " "))
        for reason, count in sorted(left_out.items())
        if count
    )
