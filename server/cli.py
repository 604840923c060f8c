"""`fedward-server`: the coordinator's commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from common.announce import announcing
from common.canonical import canonical_bytes
from common.command import run_command
from common.config import load_settings
from common.coverage import NOT_COVERED
from common.errors import DeploymentError
from common.folders import make_folder
from common.plan import Plan
from common.process_options import HealthPortOption, LogJson
from common.server_config import ServerConfig, load_server
from common.supervise import supervise
from server.coordinator_health import CoordinatorHealth
from server.display import ProgressDisplay
from server.guard import refuse_secret_key
from server.key_store import OPERATOR
from server.lock import COORDINATOR_LOCK, hold, is_held
from server.processes import coordinator_children, forget_superlink_state, register_nodes
from server.progress import read_progress
from server.run_folder import run_folder, write_run_folder
from server.steward import Steward
from server.store import Run, Store
from server.watch import PROGRESS_POLL_S, STOPPED_BY_OPERATOR, run_summary

READY_LINE = "coordinator ready"
# `fedward-server run` takes the lock for a moment to see whether anybody holds it.
LOCK_WAIT_S = 2.0

app = typer.Typer(
    name="fedward-server",
    help="The coordinator of a federation: it adds up encrypted updates that it cannot read.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Reflows the paragraphs of docstrings.
    rich_markup_mode="markdown",
)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The coordinator's YAML file (configs/server.yaml).")
]


@app.command()
def start(config: ConfigOption, *, log_json: LogJson = False, health_port: HealthPortOption = None) -> None:
    """Start the coordinator and keep it up until Ctrl-C or SIGTERM.

    Starts Flower's SuperLink (TLS, known gateways only) and SuperExec, lets the gateways listed under 'nodes' connect,
    and restarts what dies. Then start the hospitals, and a run with `fedward-server run`.
    """
    settings = _load(config)
    make_folder(settings.folder, key="folder")
    busy = f"{settings.folder}: a coordinator already runs with this folder; stop it first, or name another folder"

    with (
        # Before anything of the folder is touched: it may be a running coordinator's.
        hold(settings.folder / COORDINATOR_LOCK, wait_s=LOCK_WAIT_S, busy=busy),
        contextlib.closing(Store(settings.folder)) as store,
        announcing("fedward-server", as_json=log_json) as announcer,
    ):
        forget_superlink_state(settings)
        stages = coordinator_children(settings, config)
        health = CoordinatorHealth(settings, store)

        async def serve() -> None:
            await register_nodes(settings)
            health.open = True
            announcer.say(f"{READY_LINE}: {len(settings.nodes)} hospitals may connect to {settings.fleet_address}")
            await Steward(settings, store, say=announcer.warn).serve()

        asyncio.run(
            supervise(
                stages,
                on_event=announcer.event,
                restart=True,
                work=serve,
                health=health.check(health_port),
                lines=announcer.lines,
            )
        )
        announcer.say("coordinator stopped")


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="The plan that all hospitals approved (YAML, filled by provision).")],
    config: ConfigOption,
    *,
    run_id: Annotated[
        str | None,
        typer.Option(help="Go on with this interrupted or stopped run after its last complete round."),
    ] = None,
    connect_timeout_s: Annotated[
        float, typer.Option(min=0.0, max=86_400.0, help="How long to wait for all hospitals before the first round.")
    ] = 60.0,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Run a plan to its end and show its progress. The coordinator must be up (`fedward-server start`).

    Ends with status 0 if the run finished, and with the reason if it stopped. Should the coordinator be restarted
    meanwhile, the run goes on by itself after its last complete round. Ctrl-C stops the run; a stopped run can be
    resumed with --run-id.
    """
    settings = _load(config)
    agreed = load_settings(plan, Plan)
    identifier = run_id or secrets.token_hex(16)
    folder = run_folder(settings, identifier)
    # `roster` refuses a template before anything is recorded.
    names = tuple(hospital.name for hospital in agreed.roster)
    if not is_held(settings.folder / COORDINATOR_LOCK):
        raise DeploymentError(
            f"{settings.folder}: no coordinator is up with this file; start it with `fedward-server start`"
        )
    with contextlib.closing(Store(settings.folder)) as store:
        plan_json = canonical_bytes(agreed.model_dump(mode="json")).decode()
        # Another plan's run is refused before its folder is touched; begun last, for the steward takes it up at once.
        store.check(identifier, plan_digest=agreed.digest)
        write_run_folder(
            settings, identifier, plan_text=plan.read_text(encoding="utf-8"), connect_timeout_s=connect_timeout_s
        )
        store.begin(identifier, plan_digest=agreed.digest, plan_json=plan_json, now=time.time())
        typer.echo(f"run {identifier}: plan '{agreed.name}', {len(names)} hospitals", err=True)
        typer.echo(f"note: {NOT_COVERED}", err=True)
        before = next((other.run for other in store.runs() if other.state == "running"), identifier)
        if before != identifier:
            typer.echo(f"run {before} is under way; this one begins when it has ended", err=True)
        ended = _watch(settings, store, identifier, names=names)
        if json_output:
            typer.echo(json.dumps(run_summary(store, identifier), indent=2))
    if ended.state != "finished":
        raise DeploymentError(
            f"run {identifier} stopped: {ended.reason}; go on later with --run-id {identifier}; its log is {folder}"
        )


@app.command()
def status(config: ConfigOption) -> None:
    """List the runs of this coordinator, oldest first, each with its state and last complete round."""
    settings = _load(config)
    if not settings.folder.is_dir():
        raise DeploymentError(f"{settings.folder}: no such folder; nothing was run with this file yet")
    with contextlib.closing(Store(settings.folder)) as store:
        for known in store.runs():
            progress = read_progress(run_folder(settings, known.run))
            connected = f", connected: {', '.join(progress.connected) or 'none'}" if progress else ""
            typer.echo(
                f"{known.run} {known.state}, last complete round {store.last_complete_round(known.run)}{connected}"
                f"{f', reason: {known.reason}' if known.reason else ''}"
            )


RunId = Annotated[str | None, typer.Option("--run", help="The run. Default: the only one that is under way.")]


@app.command()
def rotate(config: ConfigOption, *, run_id: RunId = None) -> None:
    """Have the hospitals deal themselves a new CKKS key before the next round of a run.

    They do so by themselves whenever a key has served `encryption.epoch_rounds` rounds; this is for a suspicion.
    """
    with contextlib.closing(Store(_load(config).folder)) as store:
        identifier = _under_way(store, run_id)
        store.ask_rotation(identifier, OPERATOR)
    typer.echo(f"run {identifier}: its next round is under a new key")


@app.command()
def pause(config: ConfigOption, *, run_id: RunId = None) -> None:
    """Stop a run after its round, once all connected hospitals hold the model of that round.

    Go on with `fedward-server run --run-id`, or change who takes part: `fedward revoke` and `fedward join` ask for run
    and round, which this prints.
    """
    settings = _load(config)
    with contextlib.closing(Store(settings.folder)) as store:
        identifier = _under_way(store, run_id)
        store.ask_pause(identifier)
        typer.echo(f"run {identifier}: stops after its round", err=True)
        while (known := store.run(identifier)) is not None and known.state == "running":
            time.sleep(PROGRESS_POLL_S)
        if known is not None and known.state == "finished":
            raise DeploymentError(f"run {identifier}: came to its end before it could be paused; start a new run")
        typer.echo(f"run {identifier} round {store.last_complete_round(identifier)}")
        typer.echo(known.reason if known else "", err=True)


def _under_way(store: Store, run_id: str | None) -> str:
    running = [known.run for known in store.runs() if known.state == "running"]
    if run_id is not None:
        if run_id not in running:
            raise DeploymentError(f"--run: seen {run_id}, which is not under way; see `fedward-server status`")
        return run_id
    if len(running) != 1:
        raise DeploymentError(f"{len(running)} runs are under way; name one with --run, see `fedward-server status`")
    return running[0]


def main() -> None:
    """Entry point of `fedward-server`."""
    run_command(app)


def _watch(settings: ServerConfig, store: Store, identifier: str, *, names: tuple[str, ...]) -> Run:
    """Show a run until it ends; the coordinator's own process carries it."""
    folder, shown = run_folder(settings, identifier), 0.0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ProgressDisplay(names) as display:
            while True:
                known = store.run(identifier)
                progress = read_progress(folder)
                if progress is not None and progress.updated != shown:
                    shown = progress.updated
                    display.show(progress)
                if known is None or known.state != "running":
                    break
                time.sleep(PROGRESS_POLL_S)
    except KeyboardInterrupt:
        store.end(identifier, "stopped", reason=STOPPED_BY_OPERATOR)
        raise
    if known is None:
        raise DeploymentError(f"run {identifier}: is gone from {store.path}; restore the store's backup")
    return known


def _load(config: Path) -> ServerConfig:
    settings = load_server(config)
    refuse_secret_key(settings.folder, config.resolve().parent)
    return settings
