"""The ledger: what is charged stays charged, within the cap, on this site's file and nobody else's."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.accountant import PrivacyEvent, epsilon_of
from client.calibrate import solve_sigma
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_copy import copy_ledger
from client.ledger_entry import Charge, Kind, LedgerEntry
from common.errors import BudgetExceeded, LedgerError, LocalProtocolError, SiteStorageError
from common.identity import Identity

ROOT = Path(__file__).parents[2]
SIGMA = 6.2190477  # twenty steps of it are epsilon 3 at delta 1e-5
STEP = PrivacyEvent(1.0, SIGMA, 2)


@pytest.fixture(scope="module")
def identity() -> Identity:
    """The site's key."""
    return Identity.generate()


def open_ledger(
    folder: Path,
    identity: Identity,
    *,
    source: str = "skin",
    epsilon: float = 3.0,
    clock: Callable[[], float] = lambda: 1e9,
) -> Ledger:
    """The ledger of hospital-2."""
    return Ledger(
        folder / "ledger.sqlite",
        hospital="hospital-2",
        source=source,
        identity=identity,
        cap=Cap(epsilon, 1e-5),
        clock=clock,
    )


def charge(  # noqa: PLR0913 -- keyword-only
    ledger: Ledger,
    round_number: int,
    *,
    kind: Kind = "train",
    event: PrivacyEvent = STEP,
    run: str = "run-1",
    held_out_rule: str = "ee" * 32,
    shares: int = 1,
) -> LedgerEntry:
    """One charge with this test's constants."""
    return ledger.charge(
        Charge(
            kind=kind,
            run=run,
            round_number=round_number,
            plan_hash="aa" * 32,
            event=event,
            clip=0.5,
            units_digest="bb" * 32,
            held_out_rule=held_out_rule,
            mode="local" if shares == 1 else "distributed",
            shares=shares,
        )
    )


def tamper(folder: Path) -> None:
    """What somebody with the file and sqlite3 does first."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
        for trigger in ("entries_update", "entries_delete", "ledger_update"):
            connection.execute(f"DROP TRIGGER {trigger}")


def charge_until_refused(ledger: Ledger, rounds: range) -> tuple[int, SiteStorageError | None]:
    """Charge round after round; the last round that was acknowledged, and what stopped it."""
    acknowledged = 0
    for number in rounds:
        try:
            charge(ledger, number)
        except SiteStorageError as error:
            return acknowledged, error
        acknowledged = number
    return acknowledged, None


def test_charges_compose_and_are_recorded(tmp_path: Path, identity: Identity) -> None:
    """Each entry says what stands after it; spending is what the accountant gives for all events together."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        assert ledger.spent(1e-5) == 0.0
        entries = [charge(ledger, number) for number in range(1, 4)]
        assert [entry.sequence for entry in entries] == [1, 2, 3]
        assert ledger.spent(1e-5) == entries[-1].epsilon == epsilon_of([STEP] * 3, 1e-5)
        assert ledger.sequence() == 3
        assert ledger.head() == entries[-1].hash
        assert entries[1].previous == entries[0].hash


def test_a_charge_beyond_the_cap_is_refused_in_words(tmp_path: Path, identity: Identity) -> None:
    """Ten rounds fit exactly; the eleventh is refused, and refusal spends nothing."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        for number in range(1, 11):
            charge(ledger, number)
        spent = ledger.spent(1e-5)
        assert 2.999 < spent <= 3.0
        with pytest.raises(BudgetExceeded) as refusal:
            charge(ledger, 11)
        more = epsilon_of([STEP] * 11, 1e-5) - spent
        assert str(refusal.value) == (
            f"hospital-2: epsilon {spent:.3f} spent + {more:.3f} for round 11 > cap 3.000; stop here, "
            "or raise privacy.cap_epsilon in site.yaml"
        )
        assert ledger.spent(1e-5) == spent
        assert ledger.sequence() == 10


def test_spending_survives_a_restart_and_a_new_run(tmp_path: Path, identity: Identity) -> None:
    """The ledger belongs to the data, not to a run."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        for number in range(1, 8):
            charge(ledger, number)
        spent, head = ledger.spent(1e-5), ledger.head()
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        assert (ledger.spent(1e-5), ledger.head()) == (spent, head)
        for number in range(1, 4):
            charge(ledger, number, run="run-2")
        with pytest.raises(BudgetExceeded):
            charge(ledger, 4, run="run-2")


def test_changed_patients_continue_the_same_spending(tmp_path: Path, identity: Identity) -> None:
    """Else adding one patient would renew everybody's budget."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
        more = ledger.charge(
            Charge(
                kind="train",
                run="run-2",
                round_number=1,
                plan_hash="cc" * 32,
                event=STEP,
                clip=0.5,
                units_digest="dd" * 32,
                held_out_rule="ee" * 32,
                mode="local",
                shares=1,
            )
        )
        assert more.epsilon == epsilon_of([STEP] * 2, 1e-5)


def test_the_same_charge_again_is_free_and_the_same(tmp_path: Path, identity: Identity) -> None:
    """A server that repeats itself costs nothing, also after a restart."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        assert not ledger.is_charged(run="run-1", round_number=1, kind="train")
        first = charge(ledger, 1)
        assert all(charge(ledger, 1) == first for _ in range(5))
        assert ledger.is_charged(run="run-1", round_number=1, kind="train")
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        assert charge(ledger, 1) == first
        assert ledger.sequence() == 1


def test_the_same_round_with_other_parameters_is_refused(tmp_path: Path, identity: Identity) -> None:
    """One charge must not pay for two different mechanisms."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
        with pytest.raises(LedgerError, match="charged already with other parameters"):
            charge(ledger, 1, event=PrivacyEvent(1.0, SIGMA, 3))
        assert ledger.sequence() == 1


def test_held_out_patients_have_their_own_account_under_the_same_cap(tmp_path: Path, identity: Identity) -> None:
    """They are other people: what is reported is the larger of the two."""
    counts = PrivacyEvent(1.0, solve_sigma(epsilon=0.5, delta=1e-5, q=1.0, steps=1), 1)
    with contextlib.closing(open_ledger(tmp_path, identity, epsilon=0.9)) as ledger:
        charge(ledger, 1)
        train = ledger.spending(1e-5).train
        charge(ledger, 2, kind="eval", event=counts)
        spending = ledger.spending(1e-5)
        assert spending.train == train
        assert 0.499 < spending.eval <= 0.5
        assert ledger.spent(1e-5) == spending.epsilon == max(train, spending.eval)
        charge(ledger, 3, kind="stat", event=PrivacyEvent(1.0, 40.0, 1))
        assert ledger.spending(1e-5).train > train
        charge(ledger, 4, kind="eval", event=counts)
        with pytest.raises(BudgetExceeded):
            charge(ledger, 5, kind="eval", event=PrivacyEvent(1.0, 2.0, 1))


def test_a_second_held_out_rule_makes_both_accounts_pay_for_everything(tmp_path: Path, identity: Identity) -> None:
    """Else a unit that one plan trains on and another holds out would pass the cap; the control keeps to one rule."""
    counts = PrivacyEvent(1.0, solve_sigma(epsilon=0.5, delta=1e-5, q=1.0, steps=1), 1)
    for folder, rule in (("one", "ee" * 32), ("two", "ff" * 32)):
        (tmp_path / folder).mkdir()
        with contextlib.closing(open_ledger(tmp_path / folder, identity, epsilon=3.0)) as ledger:
            charge(ledger, 1)
            train = ledger.spent(1e-5)
            assert epsilon_of([STEP, counts], 1e-5) > max(train, 0.5) * 1.05
            charge(ledger, 2, kind="eval", event=counts, held_out_rule=rule)
            due = epsilon_of([STEP, counts], 1e-5) if folder == "two" else max(train, ledger.spending(1e-5).eval)
            assert ledger.spent(1e-5) == due
        with contextlib.closing(open_ledger(tmp_path / folder, identity, epsilon=3.0)) as again:
            assert again.spent(1e-5) == due
    (tmp_path / "cap").mkdir()
    with contextlib.closing(open_ledger(tmp_path / "cap", identity, epsilon=0.9)) as ledger:
        charge(ledger, 1)
        with pytest.raises(BudgetExceeded):
            charge(ledger, 2, kind="eval", event=counts, held_out_rule="ff" * 32)
        charge(ledger, 2, kind="eval", event=counts)


def test_spending_is_stated_at_the_delta_that_is_asked_for(tmp_path: Path, identity: Identity) -> None:
    """An epsilon printed beside another delta than its own is a wrong number."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
        assert ledger.spent(1e-7) == epsilon_of([STEP], 1e-7) > ledger.spent(1e-3) == epsilon_of([STEP], 1e-3)


def test_shares_of_noise_state_what_is_left_if_all_others_collude(tmp_path: Path, identity: Identity) -> None:
    """The promise is bound by the cap; one share of four is half of the noise, and stated beside it."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        own = charge(ledger, 1)
        assert own.epsilon_alone == own.epsilon
        shared = charge(ledger, 2, shares=4)
        weak = PrivacyEvent(1.0, SIGMA / 2, 2)
        assert shared.epsilon == epsilon_of([STEP, STEP], 1e-5)
        assert shared.epsilon_alone == epsilon_of([STEP, weak], 1e-5) > shared.epsilon
        spending = ledger.spending(1e-5)
        assert (spending.train, spending.train_alone) == (shared.epsilon, shared.epsilon_alone)
        assert (spending.eval, spending.eval_alone) == (0.0, 0.0)
        assert (spending.epsilon, spending.epsilon_alone) == (shared.epsilon, shared.epsilon_alone)
        for number in range(3, 11):
            charge(ledger, number, shares=4)
        assert ledger.spending(1e-5).epsilon_alone > 3.0 >= ledger.spent(1e-5)
        with pytest.raises(BudgetExceeded):
            charge(ledger, 11, shares=4)
        entries = ledger.entries()
    with contextlib.closing(open_ledger(tmp_path, identity)) as again:
        assert again.entries() == entries
        with pytest.raises(LedgerError, match="charged already with other parameters"):
            charge(again, 2)


def test_the_number_of_shares_must_fit_the_mode() -> None:
    """Full noise is one share; a lone share is full noise and not `distributed`."""
    for mode, shares in (
        ("local", 2),
        ("local", 0),
        ("distributed", 1),
        ("distributed", 0),
        ("distributed", 10**9),
        ("central", 1),
    ):
        with pytest.raises(LocalProtocolError, match="local with 1 share and distributed with 2 to 1000"):
            Charge("r", 1, "train", "aa", "bb", "ee", STEP, 0.5, mode, shares)  # type: ignore[arg-type]
    assert Charge("r", 1, "train", "aa", "bb", "ee", STEP, 0.5, "distributed", 2).event_alone.sigma < SIGMA


def test_an_entry_of_before_shares_still_reads(tmp_path: Path, identity: Identity) -> None:
    """Its bytes are those of format 1 without the two later fields: an upgrade forgets no spending."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        entry = charge(ledger, 1)
        assert b"shares" not in entry.body
        assert b"alone" not in entry.body
        said = charge(ledger, 2, shares=2).body
        assert b'"shares":2' in said
        assert b'"epsilon_alone":' in said


def test_an_entry_that_states_too_little_alone_is_refused(tmp_path: Path, identity: Identity) -> None:
    """Signed by the site's own key, in its place in the chain, and wrong: a fault of our own code must be seen."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        entry = charge(ledger, 1, shares=4)
    forged = replace(entry, epsilon_alone=entry.epsilon_alone * 0.9).sealed(identity)
    tamper(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        row = (forged.body.decode(), forged.hash, forged.signature)
        connection.execute("UPDATE entries SET body = ?, hash = ?, signature = ?", row)
    with pytest.raises(LedgerError, match="records less epsilon than its events cost"):
        open_ledger(tmp_path, identity)


def test_one_event_that_is_larger_than_the_cap_is_refused_from_the_start(tmp_path: Path, identity: Identity) -> None:
    """A cap below one step: nothing is ever trained."""
    with contextlib.closing(open_ledger(tmp_path, identity, epsilon=0.1)) as ledger:
        with pytest.raises(BudgetExceeded, match=r"epsilon 0\.000 spent"):
            charge(ledger, 1)
        assert ledger.spent(1e-5) == 0.0


def test_a_charge_beyond_the_cap_is_refused_as_such_whatever_one_share_leaves_alone(
    tmp_path: Path, identity: Identity
) -> None:
    """Of a thousand shares of next to no noise no epsilon alone can be counted; a broken accountant is not the news."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        with pytest.raises(BudgetExceeded):
            charge(ledger, 1, event=PrivacyEvent(1.0, 0.0316, 1), shares=1000)
        assert ledger.sequence() == 0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, 1e-300)])
def test_a_cap_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    """It would allow everything or nothing."""
    with pytest.raises(LedgerError, match="are allowed"):
        Cap(epsilon, delta)


def test_entries_cannot_be_changed_through_the_file(tmp_path: Path, identity: Identity) -> None:
    """Append-only by the schema itself: a mistake in our own code cannot rewrite history."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        for statement in ("DELETE FROM entries", "UPDATE entries SET round = 9", "UPDATE ledger SET source = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = replace(body, '\"steps\":2', '\"steps\":1') WHERE sequence = 2",
        "UPDATE entries SET body = 'nothing' WHERE sequence = 2",
        "UPDATE entries SET body = '[]' WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 1",
        "UPDATE entries SET sequence = 9 WHERE sequence = 3",
        "UPDATE entries SET round = 9 WHERE sequence = 2",
        "UPDATE entries SET signature = (SELECT signature FROM entries WHERE sequence = 1) WHERE sequence = 2",
        "UPDATE entries SET signature = '' WHERE sequence = 2",
    ],
)
def test_an_altered_ledger_is_refused(tmp_path: Path, identity: Identity, statement: str) -> None:
    """Hash chain and signatures: whoever edits the file is seen at the next start."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        for number in range(1, 4):
            charge(ledger, number)
    tamper(tmp_path)
    open_ledger(tmp_path, identity).close()  # control: without the change it opens
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(LedgerError):
        open_ledger(tmp_path, identity)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER lost BEFORE INSERT ON entries BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER entries_update AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "CREATE TABLE more (entry TEXT)",
    ],
)
def test_a_file_that_would_not_keep_what_is_written_is_refused(
    tmp_path: Path, identity: Identity, statement: str
) -> None:
    """Every entry in it is signed and in its place, and yet the next charge would leave no trace."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
    tamper(tmp_path)
    open_ledger(tmp_path, identity).close()  # control: without the change it opens
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(LedgerError, match=r"was altered, it has a '(lost|entries_update|more)' that no ledger has"):
        open_ledger(tmp_path, identity)
    with pytest.raises(LedgerError, match="that no ledger has"):
        copy_ledger(tmp_path / "ledger.sqlite", public_key=identity.public_hex)


def test_a_whole_chain_forged_with_another_key_is_refused(tmp_path: Path, identity: Identity) -> None:
    """A consistent chain is easy to make; the site's signature is not."""
    (tmp_path / "forged").mkdir()
    with contextlib.closing(open_ledger(tmp_path / "forged", Identity.generate())) as ledger:
        charge(ledger, 1)
    tamper(tmp_path / "forged")
    with contextlib.closing(sqlite3.connect(tmp_path / "forged" / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE ledger SET public_key = ?", (identity.public_hex,))
    with pytest.raises(LedgerError, match="not signed by this site"):
        open_ledger(tmp_path / "forged", identity)


def test_the_ledger_of_another_site_or_source_is_refused(tmp_path: Path, identity: Identity) -> None:
    """One ledger per data source: a fresh one under another name would renew the budget."""
    open_ledger(tmp_path, identity).close()
    with pytest.raises(LedgerError, match="was begun with the identity key"):
        open_ledger(tmp_path, Identity.generate())
    with pytest.raises(LedgerError, match="is the ledger of source 'skin', the site file says 'eyes'"):
        open_ledger(tmp_path, identity, source="eyes")


def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, identity: Identity) -> None:
    """Above all: an emptied file is not a new ledger, for that would renew the budget."""
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        for number in range(1, 9):
            charge(ledger, number)
    whole = path.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole[:100], b"not a database" * 500, whole[:4096]):
        path.write_bytes(damage)
        with pytest.raises(LedgerError):
            open_ledger(tmp_path, identity)
        assert path.read_bytes() == damage
    path.write_bytes(whole)
    open_ledger(tmp_path, identity).close()  # control


@pytest.mark.parametrize("by", ["a copy", "nothing", "another"])
def test_a_ledger_that_is_replaced_under_the_service_charges_nothing(
    tmp_path: Path, identity: Identity, by: str
) -> None:
    """What is written to a file that has lost its name is gone at the next start."""
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        charge(ledger, 1)
        charge(ledger, 2)  # control
        if by == "a copy":
            shutil.copy(path, tmp_path / "backup")
            (tmp_path / "backup").replace(path)
        elif by == "another":
            (tmp_path / "other").mkdir()
            open_ledger(tmp_path / "other", identity).close()
            (tmp_path / "other" / "ledger.sqlite").replace(path)
        else:
            path.unlink()
        with pytest.raises(LedgerError, match="was replaced or removed while the site service uses it"):
            charge(ledger, 3)
        assert ledger.sequence() == 2


def test_a_read_only_ledger_is_refused(tmp_path: Path, identity: Identity) -> None:
    """Before training, not at the first charge."""
    open_ledger(tmp_path, identity).close()
    (tmp_path / "ledger.sqlite").chmod(0o444)
    with pytest.raises(LedgerError, match="read-only"):
        open_ledger(tmp_path, identity)


def test_two_processes_cannot_hold_one_ledger(tmp_path: Path, identity: Identity) -> None:
    """Each would add up the other's spending wrongly."""
    identity.save(tmp_path / "key")
    code = (
        "import sys, pathlib; from client.ledger import *; from client.ledger_cap import Cap\n"
        "from common.identity import Identity\n"
        "from common.errors import LedgerError\n"
        "try: Ledger(pathlib.Path(sys.argv[1]), hospital='h', source='skin', cap=Cap(3, 1e-5),"
        " identity=Identity.load(pathlib.Path(sys.argv[2])))\n"
        "except LedgerError as error: print(error)\n"
        "else: print('opened')\n"
    )

    def other_process() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / "ledger.sqlite"), str(tmp_path / "key")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603 -- our own

    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        with pytest.raises(LedgerError, match="held by another process"):
            open_ledger(tmp_path, identity)
        charge(ledger, 1)
        assert "held by another process" in other_process()
    assert other_process().strip() == "opened"


def test_a_clock_that_runs_backwards_stops_charging(tmp_path: Path, identity: Identity) -> None:
    """Small steps (NTP) are smoothed; a day is an error."""
    times = iter([1e9, 1e9 - 60, 1e9 - 86_400])
    with contextlib.closing(open_ledger(tmp_path, identity, clock=lambda: next(times))) as ledger:
        assert charge(ledger, 1).time == charge(ledger, 2).time == 1e9
        with pytest.raises(LedgerError, match="clock"):
            charge(ledger, 3)
        assert ledger.sequence() == 2


def test_a_full_disk_refuses_the_charge_and_loses_none(tmp_path: Path, identity: Identity) -> None:
    """The limit is the kernel's own on this process's files; after it nothing is charged until a restart."""
    with contextlib.closing(open_ledger(tmp_path, identity, epsilon=100.0)) as ledger:
        charge(ledger, 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ledger.sqlite").stat().st_size, hard))
        try:
            acknowledged, refusal = charge_until_refused(ledger, range(2, 40))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert refusal is not None
        assert "nothing is trained" in str(refusal)
        with pytest.raises(LedgerError, match="start the site service again"):
            charge(ledger, 50)
    with contextlib.closing(open_ledger(tmp_path, identity, epsilon=100.0)) as ledger:
        assert ledger.sequence() >= max(acknowledged, 1)
        charge(ledger, 60)  # control: with room it goes on


def test_a_folder_that_cannot_hold_a_ledger_is_named(tmp_path: Path, identity: Identity) -> None:
    """A file where the folder should be."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(SiteStorageError, match="cannot be made"):
        open_ledger(tmp_path / "taken", identity)


def test_the_file_is_private_and_every_commit_is_flushed(tmp_path: Path, identity: Identity) -> None:
    """Mode 0600; synchronous at least FULL."""
    with contextlib.closing(open_ledger(tmp_path, identity)) as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone()[0] >= 2
    assert os.stat(tmp_path / "ledger.sqlite").st_mode & 0o777 == 0o600  # noqa: PTH116 -- the mode is the claim
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".new")] == []
