"""The organiser's commands that change who takes part in a run: `revoke` and `join`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.card import Card
from common.config import load_settings
from common.plan import Plan

PlanOption = Annotated[Path, typer.Option("--plan", help="The agreed plan of the run, which this one follows.")]
RunOption = Annotated[str, typer.Option("--run", help="The run, as `fedward-server pause` names it.")]
RoundOption = Annotated[
    int, typer.Option("--round", min=1, help="Its last round that counts, as `fedward-server pause` names it.")
]
ServerOption = Annotated[
    Path, typer.Option("--config", "-c", help="The coordinator's YAML file; its list of gateways is replaced.")
]
OutOption = Annotated[Path, typer.Option(help="New folder for the new plan and a start-up kit per hospital.")]


def revoke(  # noqa: PLR0913 -- one parameter per option
    names: Annotated[list[str], typer.Argument(help="Names of the hospitals that leave.", metavar="NAME...")],
    *,
    plan: PlanOption,
    run: RunOption,
    last_round: RoundOption,
    config: ServerOption,
    out: OutOption,
    add: Annotated[list[Path] | None, typer.Option(help="Card of a hospital that joins; may be repeated.")] = None,
) -> None:
    """Go on with a run without some of its hospitals, from the model that it has now.

    Writes a plan without them and a start-up kit for each of the others, who approve it with `fedward-client approve`.
    They deal themselves a new key, so the keys of a hospital that left open nothing that comes. Its gateway is not let
    in any more once the coordinator is started again.
    """
    _change(plan, run, last_round, config=config, out=out, leaving=names, cards=add or ())


def join(  # noqa: PLR0913 -- one parameter per option
    cards: Annotated[list[Path], typer.Argument(help="Cards of the hospitals that join.", metavar="CARD...")],
    *,
    plan: PlanOption,
    run: RunOption,
    last_round: RoundOption,
    config: ServerOption,
    out: OutOption,
) -> None:
    """Go on with a run with more hospitals, from the model that it has now.

    Writes a plan with them and a start-up kit for each hospital, who approve it with `fedward-client approve`. The
    others send the new ones the model, sealed, so that the coordinator cannot read it.
    """
    _change(plan, run, last_round, config=config, out=out, leaving=(), cards=cards)


def _change(  # noqa: PLR0913 -- the options of both commands
    plan: Path, run: str, last_round: int, *, config: Path, out: Path, leaving: Sequence[str], cards: Sequence[Path]
) -> None:
    # torch and the like load only here.
    from client.keygen import read_card  # noqa: PLC0415
    from scripts.organise import PLAN, kit_path  # noqa: PLC0415
    from scripts.succeed import admit_nodes, succeed, write_succession  # noqa: PLC0415
    from scripts.whole_folder import whole_folder  # noqa: PLC0415

    joining: list[Card] = [read_card(card) for card in cards]
    before = load_settings(plan, Plan)
    after = succeed(before, run=run, last_round=last_round, leaving=leaving, joining=joining)
    with whole_folder(out, mode=0o700) as staging:
        write_succession(after, config, staging)
    admit_nodes(after, config)
    typer.echo(f"plan {after.digest}: goes on after round {last_round} with {len(after.roster)} hospitals")
    for hospital in after.roster:
        new = " (new)" if hospital.name in {card.name for card in joining} else ""
        typer.echo(f"{hospital.name}{new}: fingerprint {hospital.fingerprint}; send it {kit_path(out, hospital.name)}")
    typer.echo("once all have approved, start the coordinator again, and then the run:")
    typer.echo(f"  fedward-server start --config {config}")
    typer.echo(f"  fedward-server run {out / PLAN} --config {config}")
