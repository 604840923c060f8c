"""The doctor and the ledger: one that is older than what the site and its peers know never passes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from typer.testing import CliRunner

from client.cli import app
from tests.support import trained_site
from tests.support.trained_site import OURS, Trained

base, trained = trained_site.base, trained_site.trained


def ledger(trained: Trained) -> dict[str, str]:
    """What the command says of it."""
    words = ["doctor", "--part", "site", "--json", "-c", str(trained.config)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    (row,) = [row for row in json.loads(result.output)["checks"] if row["name"] == "ledger"]
    assert result.exit_code == 2 or row["status"] != "fail"
    told: dict[str, str] = row
    return told


def test_the_newest_ledger_passes(trained: Trained) -> None:
    """The control of all others here."""
    told = ledger(trained)
    assert told["status"] == "pass"
    assert told["seen"].startswith("1 entry, and it lacks none that this site and its peers have seen; epsilon ")


def test_a_ledger_from_before_an_open_round_fails(trained: Trained) -> None:
    """Its signed reply lies in the state folder, and names an entry."""
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    told = ledger(trained)
    assert told["status"] == "fail"
    assert "has 0 entries and lacks entry 1, which this site has named in a signed message" in told["seen"]
    assert told["advice"].startswith("it is an older copy: put the newest one back")


def test_a_ledger_from_before_the_last_start_fails(trained: Trained) -> None:
    """Also when no round is open, and when the file is gone: a new one would renew the budget."""
    shutil.rmtree(trained.site.state / "runs")
    with trained.federation as federation:
        federation.open(OURS)  # notes the one entry
    assert ledger(trained)["status"] == "pass"
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    assert "lacks entry 1, which it had at the last start of this site" in ledger(trained)["seen"]
    trained.site.ledger.unlink()
    told = ledger(trained)
    assert (told["status"], "is not there" in told["seen"]) == ("fail", True)
    assert not trained.site.ledger.exists()


def test_a_ledger_whose_images_were_taken_out_fails(trained: Trained) -> None:
    """They would be counted by another source with a fresh budget."""
    with closing(sqlite3.connect(trained.site.ledger)) as connection, connection:
        connection.execute("DROP TABLE counted")
    assert "lacks images that it counted at the last start of this site" in ledger(trained)["seen"]


@pytest.mark.parametrize("folder", ["state", "ledger"])
def test_a_site_that_was_never_started_has_nothing_to_lack(trained: Trained, folder: str) -> None:
    """Neither folder nor file: all is well; the file alone is an older site's, the folder alone has lost it."""
    if folder == "state":
        trained.site.ledger.unlink()
        shutil.rmtree(trained.site.state)
        assert ledger(trained)["seen"].endswith("is made at the first start; nothing is spent")
    else:
        shutil.rmtree(trained.site.state)
        assert ledger(trained)["seen"].startswith("1 entry, ")
