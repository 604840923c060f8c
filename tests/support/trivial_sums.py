"""Whether hospitals without data hold the sums of what they uploaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.ckks import PRESETS, add_in_place, chunks_for, decode_sum, decode_upload
from common.ckks_parameters import SEED_BYTES
from common.plan import Plan


def upload_bytes(plan: Plan) -> int:
    """Length of an upload."""
    parameters = PRESETS[plan.encryption.preset]
    return chunks_for(plan.upload_values, parameters) * (parameters.chunk_bytes + SEED_BYTES)


def check_sums(folder: Path, plan: Plan, survivors: Mapping[int, Sequence[str]]) -> None:
    """Every hospital of a round holds the sum of what its survivors uploaded, added by numpy.

    Args:
        folder: Holds a folder of each hospital.
        plan: The plan.
        survivors: Whose uploads are in the sum, by round.
    """
    parameters = PRESETS[plan.encryption.preset]
    chunks = chunks_for(plan.upload_values, parameters)
    for number, names in survivors.items():
        wanted = np.zeros((chunks, parameters.ring_degree), dtype=np.uint64)
        for name in names:
            upload = (folder / name / f"upload-{number}.bin").read_bytes()
            add_in_place(wanted, decode_upload(upload, chunks, parameters).words, parameters)
        for name in names:
            body = (folder / name / f"aggregate-{number}.bin").read_bytes()
            assert np.array_equal(decode_sum(body, chunks, len(names), parameters).words, wanted)
