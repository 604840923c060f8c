"""The command of a hospital's site: `fedward-client`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from client.approval import approved_plans
from client.approve_command import approve
from client.check_command import check
from client.doctor import doctor
from client.gateway import fork_server_socket, gateway_children
from client.key_options import PassphraseFile
from client.keygen_command import keygen
from client.ledger_commands import app as ledger_app
from client.site_health import site_health
from client.unlock import UNLOCK_DESCRIPTOR, find_unlock, in_memory
from client.vault import Vault
from common.announce import announcing
from common.child import GAVE_UP, Child
from common.command import run_command
from common.errors import ConfigError
from common.folders import make_folder
from common.log_json import JsonFormatter
from common.process_options import HealthPortOption, LogJson
from common.process_settings import rotation
from common.site_config import SiteConfig, load_site
from common.socket_path import remove_socket
from common.supervise import supervise

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Reflows the paragraphs of docstrings.
    rich_markup_mode="markdown",
    help="Run one hospital's site: its data and keys stay in the site service, its gateway owns nothing.",
)
app.command()(keygen)
app.command()(approve)
app.command()(doctor)
app.command()(check)
app.add_typer(ledger_app, name="ledger")
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="This hospital's site file, as written by `fedward-client approve`.")
]
READY_LINE = "hospital ready"
SERVICE_READY = r"site ready on"
# The first start computes the features of all images; large sites on small machines take hours.
FEATURE_PASS_TIMEOUT_S = 24 * 3600.0
CONNECT_TIMEOUT_S = 600.0


def main() -> None:
    """Entry point of `fedward-client`."""
    run_command(app)


@app.command()
def start(
    config: ConfigOption,
    *,
    passphrase_file: PassphraseFile = None,
    log_json: LogJson = False,
    health_port: HealthPortOption = None,
) -> None:
    """Start the site service and its gateway and keep both up until Ctrl-C or SIGTERM.

    The site service reads this hospital's data, computes image features once (they are cached), and opens its ledger.
    Then the gateway connects to the coordinator; the site waits there for rounds and takes part in each one that the
    approved plan and this hospital's own budget allow. A vault with a passphrase is opened once, here.
    """
    site = load_site(config)
    _make_folders(site)
    unlock = find_unlock(site.vault, key_file=site.vault_key, passphrase_file=passphrase_file)
    opened = Vault.open(site.vault, hospital=site.hospital, unlock=unlock)
    stages = ((_service_child(site, config, unlock=in_memory(opened.unlock)),), *_gateway(site))
    del unlock, opened
    _supervise(stages, site, log_json=log_json, health_port=health_port)


@app.command()
def service(config: ConfigOption, *, passphrase_file: PassphraseFile = None, log_json: LogJson = False) -> None:
    """Run the site service alone, without a gateway (what `start` runs as its first child)."""
    site = load_site(config)
    # Heavy imports live in the process that needs them: the supervisor stays small.
    from client.paged_site import PagedSite  # noqa: PLC0415
    from client.past_runs import remove_past_runs  # noqa: PLC0415
    from client.service import serve  # noqa: PLC0415
    from client.site import open_hospital  # noqa: PLC0415
    from client.status import StatusFile  # noqa: PLC0415

    logging.basicConfig(
        level=site.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,  # imported libraries have put a handler of their own on the root logger
    )
    if log_json:
        logging.getLogger().handlers[0].setFormatter(JsonFormatter("site"))
    _make_folders(site)
    status = StatusFile(site.state / "status.json", site.hospital)
    status.update(phase="starting")
    hospital = open_hospital(site, status, passphrase_file=passphrase_file)
    # The ledger is held now, so no other service uses these folders.
    remove_past_runs(site.state / "runs", approved=approved_plans(site.approvals))
    serve(PagedSite(hospital.answer, hospital.member, folder=site.state / "pages").answer, site.socket)
    status.update(phase="stopped")
    remove_socket(site.socket)


@app.command()
def gateway(config: ConfigOption, *, log_json: LogJson = False, health_port: HealthPortOption = None) -> None:
    """Run the gateway alone, beside a site service that another OS user runs with `service`.

    What the coordinator's programs can reach is this user's: give it no right to the data, the keys and the state.
    """
    site = load_site(config)
    _supervise(_gateway(site), site, log_json=log_json, health_port=health_port)


@app.command()
def status(config: ConfigOption) -> None:
    """Show what this site does now, and how much of its privacy budget is spent."""
    from client.status import read_status  # noqa: PLC0415

    site = load_site(config)
    current = read_status(site.state / "status.json")
    if current is None:
        typer.echo(f"{site.hospital}: was never started; run `fedward-client start --config {config}`")
        raise typer.Exit(1)
    typer.echo(f"{current.hospital}: {current.phase}, round {current.round} of {current.rounds}")
    typer.echo(
        f"epsilon spent {current.epsilon_spent:.4f}, plan {current.epsilon_budget:g}, at delta {current.delta:g}; "
        f"cap {site.privacy.cap_epsilon:g} at delta {site.privacy.cap_delta:g}; unit: {current.unit or 'not known yet'}"
    )
    if current.mode:
        shares = f" of {current.shares} shares" if current.mode == "distributed" else ""
        stat = f", {current.stat_sigma:.4f} for the mean of the features" if current.stat_sigma else ""
        typer.echo(f"mode {current.mode}, noise multiplier{shares} {current.sigma:.4f}{stat}")
    if current.message:
        typer.echo(current.message)


def _supervise(stages: Sequence[Sequence[Child]], site: SiteConfig, *, log_json: bool, health_port: int | None) -> None:
    with announcing("fedward-client", as_json=log_json) as announcer:

        async def wait_for_rounds() -> None:
            announcer.say(
                f"{READY_LINE}: {site.hospital} is connected to {site.gateway.superlink} and waits for rounds"
            )
            await asyncio.Event().wait()

        try:
            asyncio.run(
                supervise(
                    stages,
                    on_event=announcer.event,
                    restart=True,
                    work=wait_for_rounds,
                    health=site_health(site, health_port),
                    lines=announcer.lines,
                )
            )
        finally:
            remove_socket(fork_server_socket(site.gateway))
        announcer.say(f"{site.hospital} stopped")


def _service_child(site: SiteConfig, config: Path, *, unlock: int) -> Child:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLWR_")}
    # Threads that wait must not spin: sites that share a machine's cores would starve each other.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return Child(
        name="site",
        argv=(sys.executable, "-m", "client", "service", "--config", str(config.resolve())),
        env=environment | {"PYTHONUNBUFFERED": "1", UNLOCK_DESCRIPTOR: str(unlock)},
        cwd=config.resolve().parent,
        log_path=site.state / "logs" / "site.log",
        ready_pattern=SERVICE_READY,
        ready_timeout_s=FEATURE_PASS_TIMEOUT_S,
        refusals=(GAVE_UP,),
        inherited=(unlock,),
        rotation=rotation(site.log_max_mib, site.log_files),
    )


def _make_folders(site: SiteConfig) -> None:
    # Results are written at the end of a run: a place that takes none would be noticed after all the training.
    for key, folder in (("state", site.state), ("results", site.results)):
        make_folder(folder, key=key)


def _gateway(site: SiteConfig) -> tuple[tuple[Child, ...], ...]:
    certificates = site.gateway.root_certificates
    if not certificates.is_file():
        raise ConfigError(f"gateway.root_certificates: {certificates} is no file; ask the coordinator for its ca.crt")
    make_folder(site.gateway.folder, key="gateway.folder")
    kept = rotation(site.log_max_mib, site.log_files)
    return gateway_children(site.gateway, site.socket, connect_timeout_s=CONNECT_TIMEOUT_S, log_rotation=kept)
