"""A budget or a ledger that is wrong: the site service says so in one sentence, and nothing is trained."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from client.cli import main as client_main
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.status import read_status
from common.errors import BudgetExceeded
from common.identity import Identity
from tests.support import trained_site
from tests.support.small_federation import SmallFederation, provision_small, template, write_images
from tests.support.trained_site import OURS, Trained

base, trained = trained_site.base, trained_site.trained


@pytest.fixture
def _quiet_logging() -> Iterator[None]:
    """The command sets the root logger up; put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def change_site(trained: Trained, **privacy: object) -> None:
    """Edit the site file."""
    content = yaml.safe_load(trained.config.read_text(encoding="utf-8"))
    content["privacy"].update(privacy)
    trained.config.write_text(yaml.safe_dump(content), encoding="utf-8")


def small_cap(trained: Trained) -> str:
    """A hospital that joins with a cap that one round would pass."""
    trained.site.ledger.unlink()
    shutil.rmtree(trained.site.state)
    change_site(trained, cap_epsilon=0.5)
    return "for round 1 > cap 0.500; stop here, or raise privacy.cap_epsilon"


def more_units(trained: Trained) -> str:
    """More units than one over the cap's delta; the plan's delta is checked in the same place."""
    change_site(trained, cap_delta=0.1)
    write_images(trained.folder / "more", per_class=9, seed=9)
    for name in ("dark", "light"):
        for path in (trained.folder / "more" / name).iterdir():
            path.rename(trained.site.data / name / path.name)
    return "less than 1/n"


def corrupt(trained: Trained) -> str:
    """Bytes in the middle of the file."""
    data = bytearray(trained.site.ledger.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"x" * 4096
    trained.site.ledger.write_bytes(data)
    return f"{trained.site.ledger}: is damaged"


def truncated(trained: Trained) -> str:
    """Half of the file."""
    data = trained.site.ledger.read_bytes()
    trained.site.ledger.write_bytes(data[: len(data) // 2])
    return f"{trained.site.ledger}: is damaged"


def emptied(trained: Trained) -> str:
    """An empty file is no new ledger."""
    trained.site.ledger.write_bytes(b"")
    return "is no ledger of format 1 but of 0"


def other_source(trained: Trained) -> str:
    """The source was renamed."""
    change_site(trained, source="eyes")
    return "is the ledger of source 'images', the site file says 'eyes'"


def other_site(trained: Trained) -> str:
    """Another hospital's ledger."""
    trained.site.ledger.unlink()
    ledger = Ledger(
        trained.site.ledger, hospital="x", source="images", identity=Identity.generate(), cap=Cap(8.0, 1e-5)
    )
    ledger.close()
    return "was begun with the identity key"


def read_only(trained: Trained) -> str:
    """A file that nobody may write."""
    trained.site.ledger.chmod(0o444)
    return "is read-only, so no charge can be written"


def put_back(trained: Trained) -> str:
    """The ledger alone was restored from a backup of before the last start."""
    with trained.federation as federation:
        federation.open(OURS)
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    return "lacks entries or images that the ledger of source 'images' had at its last start"


def gone(trained: Trained) -> str:
    """It was deleted: a new one would renew the budget."""
    with trained.federation as federation:
        federation.open(OURS)
    trained.site.ledger.unlink()
    return "lacks entries or images that the ledger of source 'images' had at its last start"


def wal_mode(trained: Trained) -> str:
    """Somebody's tool switched it to write-ahead logging."""
    with closing(sqlite3.connect(trained.site.ledger)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    return "was switched to SQLite's WAL mode, so a copy of it may lack charges"


def foreign_wal(trained: Trained) -> str:
    """The ledger was put back, and not what lay beside it."""
    trained.site.ledger.with_name(f"{trained.site.ledger.name}-wal").write_bytes(b"")
    return "ledger.sqlite-wal lies beside it, which no ledger has"


MISTAKES = [
    small_cap,
    more_units,
    corrupt,
    truncated,
    emptied,
    other_source,
    other_site,
    read_only,
    put_back,
    gone,
    wal_mode,
    foreign_wal,
]


def refusal(trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a service that does not start."""
    monkeypatch.setattr(sys, "argv", ["fedward-client", "service", "--config", str(trained.config)])
    with pytest.raises(SystemExit) as ended:
        client_main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line[:1].isdigit()]  # without log lines
    return line


@pytest.mark.usefixtures("_quiet_logging")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_service_with_a_wrong_budget_or_ledger_does_not_start(
    mistake: Callable[[Trained], str],
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, exit code 2; the file that was found stays as it was. Its control is `test_service`."""
    said = mistake(trained)
    before = trained.site.ledger.read_bytes() if trained.site.ledger.exists() else None
    line = refusal(trained, monkeypatch, capsys)
    assert line.startswith("error: ")
    assert said in line
    if before is not None and mistake is not more_units:  # new images are counted, and stay so
        # Whoever takes the lock counts that in the file's header.
        assert trained.site.ledger.read_bytes()[100:] == before[100:]


@pytest.mark.usefixtures("_quiet_logging")
def test_a_plans_delta_of_one_over_the_units_that_are_there_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is sound for the units that the hospital declared: as control it starts with these, and stops with more.

    With such a delta, showing one unit in clear would count as private.
    """
    provision_small(tmp_path / "new", template(privacy={"delta": 0.05}))
    with SmallFederation.copy_of(tmp_path / "new", tmp_path / "site", sites=[OURS]) as federation:
        ours = Trained(tmp_path / "site", federation.plan.roster[0].identity)
        assert federation.plan.roster[0].declared_units < 20
    change_site(ours, cap_epsilon=1000.0, cap_delta=1.0e-5)
    write_images(ours.folder / "more", per_class=20, seed=9)
    for name in ("dark", "light"):
        for path in (ours.folder / "more" / name).iterdir():
            path.rename(ours.site.data / name / path.name)
    line = refusal(ours, monkeypatch, capsys)
    assert line.startswith("error: privacy.delta: seen 0.05 with ")
    assert "is allowed; lower privacy.delta" in line


@pytest.mark.usefixtures("_quiet_logging")
def test_a_second_service_on_one_ledger_does_not_start(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with folders of its own: the ledger is what is held. The first goes on."""
    second = Trained(trained.folder.parent / "two", trained.key)
    shutil.copytree(trained.folder, second.folder)
    changes = {"ledger": str(trained.site.ledger), "socket": "s"}
    content = yaml.safe_load(second.config.read_text(encoding="utf-8")) | changes
    second.config.write_text(yaml.safe_dump(content), encoding="utf-8")
    with trained.federation as federation:
        federation.open(OURS)
        assert "is held by another process" in refusal(second, monkeypatch, capsys)
        assert federation.charges(OURS) == 1


@pytest.mark.parametrize("ahead_s", [86_400.0, 0.0])
def test_a_clock_that_runs_backwards_stops_training_until_it_is_right(trained: Trained, ahead_s: float) -> None:
    """The site observes, says why, and charges nothing; the control is the same site with a last entry of now."""
    change_site(trained, cap_epsilon=100.0)
    last = time.time() + ahead_s
    trained.charge(1, clock=lambda: last)
    with trained.federation as federation:
        federation.open(OURS)
        federation.opened(1)
        federation.freshen(OURS)
        reply = federation.reply(federation.sites[OURS].answer(federation.frame("train", 1, OURS)))
        if not ahead_s:
            assert reply.body
            assert federation.charges(OURS) == 3
            return
        assert (reply.body, reply.manifest.reason) == (b"", "LedgerError")
        status = read_status(trained.site.state / "status.json")
        assert status is not None
        assert "s behind the ledger's last entry" in status.message
        assert federation.charges(OURS) == 2


def test_a_site_whose_budget_is_used_up_starts_and_observes(trained: Trained) -> None:
    """It is needed to verify and to reveal. The control of `small_cap`: the same cap, and something was charged."""
    change_site(trained, cap_epsilon=0.5)
    with trained.federation as federation:
        federation.open(OURS)
        with pytest.raises(BudgetExceeded):
            federation.sites[OURS].answer(federation.coordinator.request("keys", 2, OURS))
        assert federation.charges(OURS) == 1
