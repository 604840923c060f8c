"""What a hospital keeps of a finished run: the model, the metrics, the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from client.durable import write_durably
from client.evaluate import accuracy, balanced_accuracy
from client.learner import plan_layout
from client.ledger import Ledger
from client.model import named_tensors
from client.state import RunState
from client.storage import RunStorage
from common.canonical import canonical_bytes
from common.coverage import NOT_COVERED
from common.errors import SiteStorageError
from common.plan import Plan

# What is taken off the features before the model sees them; beside its weights, where the plan has it.
FEATURE_MEAN = "feature_mean"


def round_metrics(rows: dict[int, dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Accuracy per round from the applied aggregates.

    The counts in aggregate r + 1 describe the model after round r, so the row of the last training round stands in the
    closing `eval` aggregate. A round whose counts no site released has null accuracies.
    """
    classes = len(plan.data.classes)
    metrics = []
    for number in sorted(n for n in rows if plan.kind_of(n) == "train"):
        counts = np.array(rows.get(number + 1, {}).get("counts_before", []), dtype=np.int64)
        counted = counts.size > 0 and counts.any()
        confusion: NDArray[np.int64] = counts.reshape(classes, classes) if counted else np.zeros((0, 0), dtype=np.int64)
        metrics.append(
            {
                "round": number,
                "contributors": rows[number]["contributors"],
                "accuracy": accuracy(confusion) if counted else None,
                "balanced_accuracy": balanced_accuracy(confusion) if counted else None,
                "held_out_units": int(confusion.sum()) if counted else None,
                "confusion": confusion.tolist() if counted else None,
            }
        )
    return metrics


def write_results(  # noqa: PLR0913 -- each is one part of the results
    folder: Path,
    *,
    run: str,
    plan: Plan,
    hospital: str,
    state: RunState,
    storage: RunStorage,
    ledger: Ledger,
    unit: str,
) -> None:
    """Write `model.safetensors`, `metrics.json` and `plan.yaml` into `folder`/`run`.

    The model's tensors are its trained weights and, where the plan has a round of statistics, `feature_mean`.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    target = folder / run
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteStorageError(f"{target}: cannot be made ({error.strerror}); give the results a folder") from error
    tensors = named_tensors(plan_layout(plan), state.optimiser.parameters)
    if state.feature_mean.size:
        tensors[FEATURE_MEAN] = torch.from_numpy(state.feature_mean)
    described = {
        "format": "fedward/1",
        "plan": plan.digest,
        "model": plan.model.model_dump(mode="json"),
        "classes": list(plan.data.classes),
    }
    # One entry: safetensors writes several in random order, and equal models should be equal files at all hospitals.
    metadata = {"fedward": canonical_bytes(described).decode("ascii")}
    write_durably(target / "model.safetensors", save_tensors(tensors, metadata=metadata))
    epsilon, delta = plan.budget(plan.roster[plan.agreed.position(hospital)])
    spending = ledger.spending(delta)
    metrics = {
        "run": run,
        "plan": plan.digest,
        "hospital": hospital,
        "privacy": {
            "unit": unit,
            "mode": plan.privacy.mode,
            "epsilon_spent": spending.epsilon,
            "epsilon_spent_if_all_others_collude": spending.epsilon_alone,
            "epsilon_budget": epsilon,
            "delta": delta,
        },
        "notes": [NOT_COVERED],
        "rounds": round_metrics(storage.rounds(), plan),
    }
    write_durably(target / "metrics.json", json.dumps(metrics, indent=1).encode())
    write_durably(target / "plan.yaml", yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False).encode())
