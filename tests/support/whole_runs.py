"""A whole run of a plan in one process, for tests of how well the product learns."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from client.data.source import DataPlace
from common.identity import Identity
from common.plan import Plan
from common.site_config import load_site
from scripts.federation import local_options, provision
from tests.support.in_process import Coordinator, open_site


def finished_run(  # noqa: PLR0913 -- keyword-only
    plan: Plan,
    places: Mapping[str, DataPlace],
    folder: Path,
    *,
    spent: float,
    features: Path | None = None,
    weights: Path | None = None,
) -> Path:
    """Provision hospitals, run the plan, and check what each has spent.

    Args:
        plan: The template.
        places: Data of each hospital, by name, in roster order.
        folder: For the federation; is made.
        spent: Least share of the plan's epsilon that each hospital must have spent; none may have spent more than all.
        features: Folder of features that are computed already.
        weights: Weights file of a plan's `network`, which all hospitals hold.

    Returns:
        The first hospital's results folder.
    """
    agreed = provision(plan, places, folder, options=local_options(len(places), device="cpu", weights=weights))
    for name in places if features else ():
        state = load_site(folder / name / f"{name}.yaml").state
        state.mkdir(parents=True, exist_ok=True)
        # A copy for each: a cache forgets what is not in its own table.
        shutil.copytree(str(features), state / "features")
    sites = {name: open_site(folder, name) for name in places}
    coordinator = Coordinator(agreed, Identity.load(folder / "coordinator" / "identity.key"))
    coordinator.whole_run(sites)
    for site in sites.values():
        ledger = site._contributor.ledger
        assert spent * plan.privacy.epsilon < ledger.spent(plan.privacy.delta) <= plan.privacy.epsilon
        ledger.close()
    return folder / next(iter(places)) / "results" / coordinator.run
