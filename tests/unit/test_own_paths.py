"""`ledger export` writes where it is told, but never over what the site itself uses, whatever it is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.cli import app
from common.errors import ConfigError
from common.site_config import load_site
from tests.support import trained_site
from tests.support.trained_site import Trained

base, trained = trained_site.base, trained_site.trained
Own = Callable[[Trained], Path]
OWN: dict[str, Own] = {
    "ledger": lambda trained: trained.site.ledger,
    "journal": lambda trained: trained.site.ledger.with_name(f"{trained.site.ledger.name}-journal"),
    "vault": lambda trained: trained.site.vault,
    "plan": lambda trained: trained.site.plan,
    "site file": lambda trained: trained.config,
    "kit": lambda trained: trained.config.parent / "kit.json",
    "node key": lambda trained: trained.site.gateway.node_key,
    "a note in the state folder": lambda trained: next((trained.site.state / "counted").iterdir()),
    "new in the state folder": lambda trained: trained.site.state / "counted" / "new.json",
    "an image": lambda trained: next(trained.site.data.glob("*/*.png")),
    "the approvals": lambda trained: next(trained.site.approvals.iterdir()),
}


def export(trained: Trained, file: Path) -> None:
    """With --force; its error is raised."""
    words = ["ledger", "export", str(file), "-c", str(trained.config), "--force"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0


def refused(trained: Trained, file: Path) -> str:
    """The sentence of an export that is refused."""
    with pytest.raises(ConfigError) as error:
        export(trained, file)
    return str(error.value)


@pytest.mark.parametrize("name", OWN)
def test_no_export_goes_over_what_the_site_uses(trained: Trained, name: str) -> None:
    """By its own name, in other words, through a link to it and to its folder, and as a hard link."""
    own = OWN[name](trained)
    before = own.read_bytes() if own.exists() else None
    ways = [own, own.parent / ".." / own.parent.name / own.name]
    (trained.folder / "link").symlink_to(own)
    (trained.folder / "folder").symlink_to(own.parent)
    ways += [trained.folder / "link", trained.folder / "folder" / own.name]
    if own.exists():
        os.link(own, trained.folder / "hard")
        ways.append(trained.folder / "hard")
    for way in ways:
        assert "the site itself uses that" in refused(trained, way)
        assert (own.read_bytes() if own.exists() else None) == before


def test_a_file_of_nobody_is_replaced(trained: Trained) -> None:
    """The control: beside the ledger, through a link, and as a hard link of a file that is not the site's."""
    kept = trained.folder / "kept"
    kept.write_text("what somebody wrote")
    os.link(kept, trained.folder / "hard")
    (trained.folder / "link").symlink_to(trained.folder / "hard")
    for file in (trained.folder / "hard", trained.folder / "link", trained.config.parent / "export.jsonl"):
        export(trained, file)
        assert '"sequence": 1' in file.read_text()
    assert kept.read_text() == "what somebody wrote"


def test_a_ledger_that_is_a_link_is_known_by_both_names(trained: Trained) -> None:
    """The link itself must stay too: a site that finds no ledger begins one."""
    real = trained.folder / "disk" / "ledger.sqlite"
    real.parent.mkdir()
    trained.site.ledger.rename(real)
    trained.site.ledger.symlink_to(real)
    for file in (real, trained.site.ledger):
        assert "the site itself uses that" in refused(trained, file)
    assert trained.site.ledger.is_symlink()


def test_every_path_of_the_site_file_is_the_sites_own(trained: Trained) -> None:
    """Also the key of the vault, wherever the hospital keeps it, and a path that a later version adds."""
    content = yaml.safe_load(trained.config.read_text(encoding="utf-8"))
    trained.config.write_text(
        yaml.safe_dump(content | {"vault_key": str(trained.folder / "safe.key")}), encoding="utf-8"
    )
    site = load_site(trained.config)
    paths = [value for part in (site, site.gateway) for _, value in part if isinstance(value, Path)]
    assert trained.folder / "safe.key" in paths
    assert len(paths) == 13
    for path in paths:
        assert f"({path})" in refused(trained, path) or path.is_dir()


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_a_folder_is_no_file_to_write(trained: Trained, place: str) -> None:
    """One sentence, no traceback."""
    assert "is a folder; name a file in it" in refused(trained, Path(place))
