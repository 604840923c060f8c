"""Composes a site: files to keys, plan, data, ledger, and the hospital that answers requests."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from client.accountant import check_delta
from client.approval import check_approved
from client.calibrate import solve_sigma
from client.contribute import Contributor
from client.counted_images import marks_of_images
from client.keys import open_keys
from client.learner import load_learner
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_overlap import Place, claim_images
from client.mechanism import plan_mechanism
from client.noise_multipliers import NoiseMultipliers, noise_multipliers
from client.planned_charges import require_room
from client.results import write_results
from client.room import check_room
from client.round import Hospital
from client.site_plan import load_plan
from client.status import StatusFile
from client.unlock import find_unlock
from client.vault import Vault
from common.canonical import canonical_bytes
from common.distributed import shares_of
from common.errors import ConfigError
from common.identity import Identity
from common.plan import Plan
from common.plan_data import ImageData
from common.site_config import SiteConfig

log = logging.getLogger(__name__)


def keyed_unit_digest(identity: Identity, units: Sequence[str]) -> str:
    """HMAC of the set of units, hex: tells this site that the set changed, and tells others nothing.

    The key is an Ed25519 signature of a label: deterministic, and nobody without the private key can make it.
    """
    key = identity.sign(b"fedward/unit-set/1")
    return hmac.new(key, canonical_bytes(sorted(units)), hashlib.sha256).hexdigest()


def _check_cap_delta(delta: float, units: int) -> None:
    # All spending is stated at the cap's delta: a large one would make any spending look small.
    if delta >= 1 / units:
        raise ConfigError(
            f"privacy.cap_delta: seen {delta:g} in the site file with {units} units; less than 1/n = {1 / units:.3g} "
            "is allowed; lower it"
        )


def _noise_in_words(plan: Plan, noise: NoiseMultipliers) -> str:
    steps = plan.training.rounds * plan.training.local_steps
    mode = f"mode {plan.privacy.mode}"
    shares = "" if plan.privacy.mode == "local" else f" of {shares_of(plan)} shares"
    words = (
        f"{mode}, noise multiplier{shares} {noise.train:.4f} over {steps} steps of q = {plan.training.sample_rate:g}"
    )
    return words if noise.stat is None else f"{words}, {noise.stat:.4f} for the mean of the features"


def open_hospital(config: SiteConfig, status: StatusFile, *, passphrase_file: Path | None = None) -> Hospital:
    """Load everything that a site needs before its first request: plan, keys, ledger, noise, data, model.

    Args:
        config: The site.
        status: What `fedward-client status` shows.
        passphrase_file: Holds the vault's passphrase, where no supervisor has opened it.

    Raises:
        FedwardError: If anything is wrong; one sentence.
    """
    plan = load_plan(config)
    unlock = find_unlock(config.vault, key_file=config.vault_key, passphrase_file=passphrase_file)
    keys = open_keys(config, Vault.open(config.vault, hospital=config.hospital, unlock=unlock), plan)
    check_approved(config.approvals, plan, hospital=config.hospital, identity_hex=keys.identity.public_hex)
    member = plan.roster[plan.agreed.position(config.hospital)]
    epsilon, delta = plan.budget(member)
    # Before the data is read, which may take hours.
    noise = noise_multipliers(plan, member)
    check_room(plan)
    counts_sigma = solve_sigma(epsilon=config.privacy.metrics_epsilon, delta=delta, q=1.0, steps=1)
    cap = Cap(epsilon=config.privacy.cap_epsilon, delta=config.privacy.cap_delta)
    ledger = Ledger(
        config.ledger,
        source=config.privacy.source,
        hospital=config.hospital,
        identity=keys.identity,
        cap=cap,
    )
    require_room(ledger, plan, member)
    status.update(
        phase="reading data",
        rounds=plan.last_training_round,
        epsilon_budget=epsilon,
        epsilon_spent=ledger.spent(delta),
        delta=delta,
        mode=plan.privacy.mode,
        shares=shares_of(plan),
        sigma=noise.train,
        stat_sigma=noise.stat or 0.0,
    )
    records: Literal["images", "rows"] = "images" if isinstance(plan.data, ImageData) else "rows"
    place = Place(config.ledger, config.privacy.source, keys.identity.public_hex, config.state, records)
    learner, unit = load_learner(
        config,
        plan,
        on_progress=lambda done, total: status.update(phase="reading data", done=done, total=total),
        # Before the features, which may take hours, and before anything can be charged.
        on_table=lambda table: claim_images(ledger, marks_of_images(keys.identity, table), place=place),
    )
    check_delta(delta, learner.training_units)
    _check_cap_delta(config.privacy.cap_delta, learner.training_units)
    status.update(phase="ready", unit=unit, units=learner.training_units, held_out=learner.held_out_units)
    log.info(
        "%s: unit of privacy: %s; %d training units (declared %d), %d held out; epsilon %g, delta %g: %s; "
        "spent so far %.4f of cap %g",
        config.hospital,
        unit,
        learner.training_units,
        member.declared_units,
        learner.held_out_units,
        epsilon,
        delta,
        _noise_in_words(plan, noise),
        ledger.spent(delta),
        config.privacy.cap_epsilon,
    )
    contributor = Contributor(
        plan=plan,
        hospital=config.hospital,
        policy=config.privacy,
        learner=learner,
        ledger=ledger,
        mechanism=plan_mechanism(plan, member, learner),
        counts_sigma=counts_sigma,
        units_digest=keyed_unit_digest(keys.identity, learner.units),
    )
    return Hospital(
        config,
        contributor,
        keys=keys,
        status=status,
        finish=lambda run, state, storage: write_results(
            config.results,
            run=run,
            plan=plan,
            hospital=config.hospital,
            state=state,
            storage=storage,
            ledger=ledger,
            unit=unit,
        ),
    )
