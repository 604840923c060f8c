"""Fills the volumes of docker/compose.yaml: draws images, deals them, makes every hospital's keys. Demo only.

At real sites each hospital makes its own keys, and no container ever sees the volumes of two parties. This one-shot
container does, once, before any other starts, and it has no network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from client.data.source import DataPlace
from client.plan_in_words import cohort_in_words
from common.command import run_command
from common.config import load_settings, parse_settings
from common.plan import Plan
from common.server_config import ServerConfig
from common.site_config import SiteConfig
from scripts.federation import FederationOptions, provision
from scripts.split import split_dataset
from scripts.synthetic import write_synthetic


@dataclass(frozen=True, slots=True)
class Owner:
    """User and group of a container, as docker/Dockerfile makes them."""

    user: int
    group: int


COORDINATOR = Owner(10001, 10001)
SITE = Owner(10002, 10002)
GATEWAY = Owner(10003, 10003)

FLEET_PORT, COORDINATOR_RUNTIME_PORT, GATEWAY_RUNTIME_PORT = 9092, 9091, 9094
FOLDER_MODE, FILE_MODE = 0o700, 0o400
KEYS, WORK, STATE = Path("/fedward/keys"), Path("/fedward/work"), Path("/fedward/state")
SITE_PATHS = {
    "plan": KEYS / "plan.yaml",
    "data": Path("/fedward/data"),
    "approvals": KEYS / "approvals",
    # The site service adds the keys of later plans to the vault, so it lies where the site may write; its key does not.
    "vault": STATE / "vault",
    "vault_key": KEYS / "vault.key",
    "ledger": STATE / "ledger.sqlite",
    "state": STATE / "state",
    "results": STATE / "results",
    "socket": Path("/run/fedward/site.sock"),
}
GATEWAY_PATHS = {
    "root_certificates": KEYS / "ca.crt",
    "node_key": KEYS / "node.key",
    "superexec_secret": KEYS / "superexec.secret",
    "folder": WORK,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Entry point of `python -m scripts.compose_init`."""
    run_command(app)


@app.command()
def fill(
    *,
    volumes: Annotated[Path, typer.Argument(help="Holds coordinator/keys, hospital-1/data and so on, one per volume.")],
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds.")] = 5,
    images_per_class: Annotated[int, typer.Option(min=20, help="Images to draw for each of the nine classes.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawing and the dealing; never of noise.")] = 0,
) -> None:
    """Fill the volumes of the demo, unless an earlier start has filled them: keys are never overwritten."""
    hospitals = sorted(path.name for path in volumes.glob("hospital-*"))
    agreed = volumes / "coordinator" / "keys" / "plan.yaml"
    if agreed.exists():
        typer.echo("the volumes are filled: same plan, same hospitals, same ledgers; `down --volumes` forgets them")
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        typer.echo("drawing synthetic lesions: toy images, whose results say nothing about medicine")
        write_synthetic(work / "images", images_per_class=images_per_class, seed=seed)
        template = _template(rounds=rounds, seed=seed)
        dealt = split_dataset(
            work / "images",
            work / "shards",
            hospitals=len(hospitals),
            seed=seed,
            on_undecodable=template.images.unreadable_images,
        )
        shares = {share.name: share.data for share in dealt.shares}
        typer.echo(f"making the keys of {len(shares)} hospitals, all in one place: for this demo only")
        plan = provision(
            template,
            {name: DataPlace(data) for name, data in shares.items()},
            work / "federation",
            options=_options(len(shares)),
        )
        for name, data in shares.items():
            _fill_hospital(volumes / name, work / "federation" / name, data)
        # Last: a coordinator's plan means that everything else is there.
        _fill_coordinator(volumes / "coordinator", work / "federation")
    typer.echo(f"plan {plan.digest}: {len(shares)} hospitals, {plan.training.rounds} rounds")
    typer.echo("\n".join(cohort_in_words(plan)))


def container_site(content: dict[str, Any]) -> dict[str, Any]:
    """A site file as `provision` writes it, with the paths of the containers.

    One file serves both: the site's container has no gateway keys, the gateway's has nothing of the site.
    """
    site = content | {name: str(path) for name, path in SITE_PATHS.items()} | {"threads": 1}
    site["gateway"] = content["gateway"] | {name: str(path) for name, path in GATEWAY_PATHS.items()}
    parse_settings(yaml.safe_dump(site), SiteConfig, source="site.yaml")
    return site


def _template(*, rounds: int, seed: int) -> Plan:
    with as_file(files("configs") / "plans" / "demo.yaml") as path:
        content = load_settings(path, Plan).model_dump(mode="json")
    content["training"]["rounds"] = rounds
    content["data"]["held_out_salt"] = f"seed-{seed}"
    return parse_settings(yaml.safe_dump(content), Plan, source=f"demo.yaml with {rounds} rounds")


def _options(hospitals: int) -> FederationOptions:
    return FederationOptions(
        fleet_address=f"coordinator:{FLEET_PORT}",
        ports=(COORDINATOR_RUNTIME_PORT, *[GATEWAY_RUNTIME_PORT] * hospitals),
        # The images are drawn: exact counts of held-out ones may be shown.
        metrics="aggregate",
        public_data=True,
        threads=1,
        device="auto",
    )


def _fill_hospital(volumes: Path, made: Path, data: Path) -> None:
    site = yaml.safe_dump(container_site(yaml.safe_load((made / f"{made.name}.yaml").read_text())), sort_keys=False)
    for name in ("data", "keys", "state", "gateway"):
        _empty(volumes / name)
    shutil.copytree(data, volumes / "data", dirs_exist_ok=True)
    for name in ("plan.yaml", "vault.key"):
        shutil.copy(made / name, volumes / "keys")
    shutil.copytree(made / "approvals", volumes / "keys" / "approvals")
    shutil.copy(made / "vault", volumes / "state")
    for name in ("ca.crt", "node.key", "superexec.secret"):
        shutil.copy(made / "gateway" / name, volumes / "gateway")
    for name in ("keys", "gateway"):
        (volumes / name / "site.yaml").write_text(site)
    for name, owner in (("data", SITE), ("keys", SITE), ("state", SITE), ("gateway", GATEWAY)):
        _give(volumes / name, owner)


def _fill_coordinator(volumes: Path, made: Path) -> None:
    content = yaml.safe_load((made / "coordinator" / "server.yaml").read_text()) | {"folder": str(WORK)}
    parse_settings(yaml.safe_dump(content), ServerConfig, source="server.yaml")
    for name in ("keys", "work"):
        _empty(volumes / name)
    shutil.copytree(made / "coordinator", volumes / "keys", dirs_exist_ok=True)
    (volumes / "keys" / "server.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for name in ("work", "keys"):
        _give(volumes / name, COORDINATOR)
    _mark_as_filled(volumes / "keys" / "plan.yaml", (made / "plan.yaml").read_bytes())


def _mark_as_filled(plan: Path, content: bytes) -> None:
    """Put the coordinator's plan into its place, whole and with its owner, when all else is on the disk.

    A start that was killed before leaves no plan, and the next one begins anew; one that finds a plan leaves it all be.
    """
    temporary = plan.with_name(f".{plan.name}.new")
    temporary.write_bytes(content)
    temporary.chmod(FILE_MODE)
    os.chown(temporary, COORDINATOR.user, COORDINATOR.group)
    os.sync()
    temporary.replace(plan)


def _empty(folder: Path) -> None:
    """Remove what a start that was interrupted here has left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _give(folder: Path, owner: Owner) -> None:
    """Hand a volume to one container's user, and to nobody else."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        os.chown(path, owner.user, owner.group)


if __name__ == "__main__":
    main()
