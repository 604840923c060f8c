"""Makes the plan with which a run goes on among other hospitals: some have left or were revoked, others join."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from common.card import Card
from common.config import parse_settings
from common.errors import ConfigError, OperatorError
from common.identity import Identity
from common.plan import Plan
from common.plan_bounds import default_threshold
from common.plan_settings import CohortSettings
from common.roster import Hospital
from common.server_config import ServerConfig, load_server
from scripts.agree import checked, expected_update_norm
from scripts.organise import write_kits

NODES = "nodes"


def succeed(
    plan: Plan, *, run: str, last_round: int, leaving: Sequence[str] = (), joining: Sequence[Card] = ()
) -> Plan:
    """The plan that goes on after a round of a run, among other hospitals and under a key of their own.

    What provision had filled in for the old roster is filled in anew: the numbers of the cohort and the update bound,
    where they are those that it would have chosen. The rest stays, the total of training rounds too.

    Args:
        plan: The agreed plan of the run.
        run: The run's id.
        last_round: Its last round that counts.
        leaving: Names of hospitals that take part no more.
        joining: Cards of hospitals that take part from now on.

    Raises:
        OperatorError: If nobody leaves or joins, or one that leaves is not there, or one that joins is.
        PlanError: If the plan is unsound for the hospitals that are left.
    """
    names = [hospital.name for hospital in plan.roster]
    for name in leaving:
        if name not in names:
            raise OperatorError(f"seen {name}, the plan names {', '.join(names)}; name one of them")
    if not leaving and not joining:
        raise OperatorError("nobody leaves and nobody joins; name one who does")
    stay = [hospital for hospital in plan.roster if hospital.name not in leaving]
    for card in joining:
        if card.name in names:
            raise OperatorError(
                f"{card.name} is in the plan already; a hospital that comes back joins under a new name"
            )
    roster = [*stay, *(Hospital(**card.model_dump()) for card in joining)]
    content = plan.model_dump(mode="json")
    cohort = _cohort(plan, len(roster))
    content["cohort"] = cohort.model_dump(mode="json")
    content["encryption"]["update_norm_bound"] = _update_norm_bound(plan, roster, cohort)
    content["federation"] |= {
        "epoch": plan.least_epoch(last_round) + 1,
        "continues": {"plan": plan.digest, "run": run, "round": last_round},
        "hospitals": [hospital.model_dump(mode="json") for hospital in roster],
    }
    return checked(content, name=plan.name)


def write_succession(plan: Plan, server_file: Path, folder: Path) -> None:
    """Write plan.yaml and a kit for each hospital.

    Args:
        plan: The successor plan.
        server_file: The coordinator's file.
        folder: An existing folder for plan and kits.

    Raises:
        ConfigError: If the file is wrong, or of another coordinator than the plan's.
        OperatorError: If something cannot be written.
    """
    config = load_server(server_file)
    identity = Identity.load(config.identity_key)
    if identity.public_hex != plan.agreed.coordinator:
        raise ConfigError(f"{server_file}: is the file of another coordinator than the plan's; name its own")
    write_kits(
        plan,
        folder,
        superlink=config.fleet_address,
        root_certificates=config.root_certificates.read_bytes(),
        sign=identity.sign,
    )


def admit_nodes(plan: Plan, server_file: Path) -> None:
    """Let exactly the gateways of a plan's hospitals connect, from the coordinator's next start on.

    Args:
        plan: The successor plan.
        server_file: The coordinator's file; its `nodes` are replaced, at once or not at all.

    Raises:
        OperatorError: If it cannot be written.
    """
    try:
        _replace_nodes(plan, server_file)
    except OSError as error:
        raise OperatorError(
            f"{server_file}: cannot be written ({error.strerror}); mend it, and do this again"
        ) from error


def _replace_nodes(plan: Plan, server_file: Path) -> None:
    content = yaml.safe_load(server_file.read_text(encoding="utf-8"))
    nodes = server_file.parent / NODES
    nodes.mkdir(exist_ok=True)
    for hospital in plan.roster:
        (nodes / f"{hospital.name}.pub").write_text(f"{hospital.node}\n", encoding="ascii")
    content["nodes"] = [{"name": h.name, "public_key": f"{NODES}/{h.name}.pub"} for h in plan.roster]
    text = yaml.safe_dump(content, sort_keys=False)
    parse_settings(text, ServerConfig, source=server_file.name)
    new = server_file.with_name(f".{server_file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(server_file)


def _cohort(plan: Plan, hospitals: int) -> CohortSettings:
    """The cohort's numbers: anew where they were provision's own choice, else as they were."""
    content = plan.cohort.model_dump(mode="json")
    was_default = plan.threshold == default_threshold(len(plan.roster))
    content["threshold"] = "auto" if was_default else plan.threshold
    content["min_cohort"] = "auto" if plan.min_cohort == plan.threshold else plan.min_cohort
    return CohortSettings.model_validate(content).filled(hospitals)


def _update_norm_bound(plan: Plan, roster: Sequence[Hospital], cohort: CohortSettings) -> float:
    size = plan.agreed.trainable_parameters
    chosen = expected_update_norm(plan, plan.roster, cohort=plan.cohort, parameters=size)
    if plan.update_norm_bound != chosen:
        return plan.update_norm_bound
    return expected_update_norm(plan, roster, cohort=cohort, parameters=size)
