"""`fedward-client ledger`: what it shows is what stands there, and what was altered, left out or put back is seen."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.accountant import PrivacyEvent, epsilon_of
from client.cli import app
from client.ledger_cap import Cap, charges_left
from client.ledger_copy import agreed_look, copy_ledger
from client.ledger_entry import Charge
from client.ledger_file import create_file
from common.errors import AlreadyExists, ConfigError, FedwardError, LedgerError, LedgerRolledBack, SiteStorageError
from common.identity import Identity
from tests.support import trained_site
from tests.support.trained_site import OURS, STEP, Trained

ROOT = Path(__file__).parents[2]


base, trained = trained_site.base, trained_site.trained


def said(*arguments: object) -> str:
    """What a command prints; its error is raised."""
    result = CliRunner().invoke(app, ["ledger", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object, kind: type[FedwardError] = LedgerError) -> str:
    """The one sentence of a command that ends with exit code 2, with what to do behind a semicolon."""
    with pytest.raises(kind) as error:
        said(*arguments)
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert "\n" not in sentence
    assert "; " in sentence
    return sentence


def change(path: Path, statement: str) -> None:
    """What somebody with the file and sqlite3 does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for trigger in ("entries_update", "entries_delete", "ledger_update"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(statement)


def test_show_says_what_stands_there_and_what_is_left(trained: Trained) -> None:
    """Entries, both accounts, the cap; the plan's two rounds cost its budget, which is the cap: one is left."""
    shown = said("show", "-c", trained.config)
    (entry,) = copy_ledger(trained.site.ledger, public_key=trained.key).entries()
    assert f"{entry.charge.event.sigma:.4f}" in shown
    assert f"training units {entry.epsilon:.4f}, held-out units 0.0000" in shown
    assert "cap: epsilon 8 for each unit" in shown
    assert "left: 1 round of plan 'small', which has 2; 1 round of it is charged" in shown
    assert "collude" not in shown
    trained.charge(2, shares=4)
    shown = said("show", "-c", trained.config)
    assert "distributed/4" in shown
    assert "if all other hospitals collude" in shown
    assert sum("|#" in line for line in shown.splitlines()) == 2


def test_show_tells_programs_the_same(trained: Trained) -> None:
    """As JSON, with numbers that the accountant gives for these events."""
    trained.charge(2, shares=4)
    told: dict[str, Any] = json.loads(said("show", "-c", trained.config, "--json"))
    delta = trained.site.privacy.cap_delta
    events = [PrivacyEvent(one["q"], one["sigma"], one["steps"]) for one in told["entries"]]
    weak = [PrivacyEvent(one["q"], one["sigma"] / one["shares"] ** 0.5, one["steps"]) for one in told["entries"]]
    assert told["spent"]["train"] == told["spent"]["epsilon"] == epsilon_of(events, delta)
    assert told["spent"]["train_alone"] == told["spent"]["epsilon_alone"] == epsilon_of(weak, delta)
    assert told["cap"] == {"epsilon": 8.0, "delta": delta}
    assert [step["charges"] for step in told["over_time"]] == [1, 2]
    assert told["plan"]["rounds_charged"] == 1
    assert told["plan"]["rounds_left"] == 0


def test_rounds_that_are_left_are_those_that_the_cap_pays_for() -> None:
    """One more would pass it; the search's own bound is kept. `test_rounds_left` asks the ledger itself."""
    charge = Charge("r", 1, "train", "aa", "bb", "ee", STEP, 0.5, "local", 1)
    cap, delta = Cap(1.0, 1e-5), 1e-5
    left = charges_left([charge], charge, cap=cap, at_most=1000)
    assert epsilon_of([STEP] * (left + 1), delta) <= 1.0 < epsilon_of([STEP] * (left + 2), delta)
    assert charges_left([charge], charge, cap=cap, at_most=left) == left
    assert charges_left([charge], charge, cap=cap, at_most=3) == 3
    assert charges_left([charge] * (left + 1), charge, cap=cap, at_most=9) == 0


def test_a_site_that_never_charged_is_shown_its_plan(trained: Trained) -> None:
    """Before the first round: what the plan will cost is computed from it."""
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    shown = said("show", "-c", trained.config)
    assert "0 entries" in shown
    assert "left: 2 rounds of plan 'small', which has 2; 0 rounds of it are charged" in shown


def test_verify_says_who_signed_how_many_and_the_last_hash(trained: Trained) -> None:
    """One sentence for the site itself, and one for an auditor who has a copy and the public key."""
    head = copy_ledger(trained.site.ledger, public_key=trained.key).head()
    own = said("verify", "-c", trained.config)
    assert "1 entry" in own
    assert head in own
    assert "lacks nothing that this site's state folder and its peers have seen" in own
    shutil.copy(trained.site.ledger, trained.folder / "copy")
    other = said("verify", "--file", trained.folder / "copy", "--public-key", trained.key)
    assert head in other
    assert "only the site can tell whether newer entries were left out" in other


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE entries SET body = replace(body, '\"steps\":1', '\"steps\":2') WHERE sequence = 2", "was altered"),
        ("UPDATE entries SET signature = '' WHERE sequence = 2", "not signed by this site"),
        ("DELETE FROM entries WHERE sequence = 1", "out of its place"),
        ("UPDATE entries SET sequence = 9 WHERE sequence = 3", "out of its place"),
        ("UPDATE counted SET marks = zeroblob(16)", "not signed by this site"),
        ("DROP TABLE entries", "damaged"),
    ],
)
def test_verify_refuses_what_was_altered(trained: Trained, statement: str, sentence: str) -> None:
    """The same file passes before; all three ways to name it are refused after."""
    trained.charge(2)
    said("verify", "-c", trained.config)
    if "counted" in statement:
        with closing(sqlite3.connect(trained.site.ledger)) as connection, connection:
            connection.execute("DROP TRIGGER counted_update")
    change(trained.site.ledger, statement)
    assert sentence in refused("verify", "-c", trained.config)
    assert sentence in refused("verify", "--file", trained.site.ledger, "--public-key", trained.key)
    assert sentence in refused("show", "-c", trained.config)


def test_verify_refuses_a_ledger_that_was_put_back(trained: Trained) -> None:
    """An older copy is a valid chain: the state folder, which has a signed reply under the charge, knows better."""
    newest = trained.site.ledger.read_bytes()
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    sentence = refused("verify", "-c", trained.config, kind=LedgerRolledBack)
    assert "has 0 entries and lacks entry 1, which this site has named in a signed message" in sentence
    assert "0 entries" in said("verify", "--file", trained.site.ledger, "--public-key", trained.key)
    trained.site.ledger.write_bytes(newest)
    said("verify", "-c", trained.config)


def test_verify_refuses_a_ledger_older_than_at_the_last_start(trained: Trained) -> None:
    """Also when no round is open any more."""
    shutil.rmtree(trained.site.state / "runs")
    with trained.federation as federation:
        federation.open(OURS)  # notes the one entry
    shutil.copy(trained.folder / "before.sqlite", trained.site.ledger)
    sentence = refused("verify", "-c", trained.config, kind=LedgerRolledBack)
    assert "lacks entry 1, which it had at the last start of this site" in sentence


def test_a_ledger_of_another_site_or_source_is_refused(trained: Trained) -> None:
    """Another key, another source, or no key at all."""
    other = Identity.generate().public_hex
    assert "was begun with the identity key" in refused("verify", "--file", trained.site.ledger, "--public-key", other)
    text = trained.config.read_text(encoding="utf-8")
    trained.config.write_text(text.replace(f"source: {trained.site.privacy.source}", "source: eyes"), encoding="utf-8")
    assert "one ledger per source" in refused("show", "-c", trained.config)
    for arguments in ((), ("--file", "x"), ("-c", "x", "--public-key", other), ("--file", "x", "--export", "y")):
        assert "give --config alone" in refused("verify", *arguments, kind=ConfigError)
    short = refused("verify", "--file", trained.site.ledger, "--public-key", "12", kind=ConfigError)
    assert "64 hex digits are allowed" in short


def test_a_damaged_or_missing_ledger_is_one_sentence(trained: Trained) -> None:
    """Never a traceback, never an empty list of entries."""
    whole = trained.site.ledger.read_bytes()
    for content, sentence in (
        (b"", "is no ledger of format 1 but of 0"),
        (b"not a database" * 100, "is damaged (file is not a database)"),
        (whole[: len(whole) // 2], "is damaged (database disk image is malformed)"),
    ):
        trained.site.ledger.write_bytes(content)
        assert sentence in refused("show", "-c", trained.config)
        assert sentence in refused("verify", "-c", trained.config)
        assert sentence in refused("export", trained.folder / "out", "-c", trained.config)
    trained.site.ledger.unlink()
    assert "is not there" in refused("verify", "-c", trained.config)
    assert not (trained.folder / "out").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_an_exported_file_verifies_until_it_is_altered(trained: Trained, name: str) -> None:
    """Any column, any line, and the order; what people read is checked against what is signed."""
    trained.charge(2, shares=4)
    out = trained.folder / name
    assert "3 entries" in said("export", out, "-c", trained.config)
    head = copy_ledger(trained.site.ledger, public_key=trained.key).head()
    assert head in said("verify", "--export", out, "--public-key", trained.key)
    other = Identity.generate().public_hex
    assert "not signed" in refused("verify", "--export", out, "--public-key", other)
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    head_line, entries = (lines[:1], lines[1:]) if name.endswith("csv") else ([], lines)
    other_column = ("0.5,", "0.4,") if head_line else ('"clip": 0.5', '"clip": 0.4')
    for altered, sentence in (
        (whole.replace(*other_column, 1), "says something else than what is signed in it"),
        (whole.replace("distributed", "local", 1), "says something else than what is signed in it"),
        ("".join([*head_line, *entries[1:]]), "is out of its place in the chain"),
        ("".join([*head_line, entries[1], entries[0], entries[2]]), "is out of its place in the chain"),
        ("".join([*head_line, *entries, entries[2]]), "is out of its place in the chain"),
        (whole.replace(head[:8], "0" * 8), "does not hash to what it says"),
        (whole[: whole.rindex('"') - 1], "is no exported ledger"),
        (whole + "\x00", "cannot be read" if head_line else "is no exported ledger"),
        (whole + "[]\n", "cannot be read"),
        ("what\n" + whole, "its head line is not" if head_line else "is no exported ledger"),
    ):
        assert altered != whole
        out.write_text(altered)
        assert sentence in refused("verify", "--export", out, "--public-key", trained.key)
    out.write_text(whole)
    said("verify", "--export", out, "--public-key", trained.key)


def test_what_holds_no_entry_is_verified_for_nobody(trained: Trained) -> None:
    """Nothing in it is signed, so any key would do; the control is one entry, which another key does not verify."""
    key, other = trained.key, Identity.generate().public_hex
    for name in ("out.csv", "out.jsonl"):
        out = trained.folder / name
        with_one = said("export", out, "-c", trained.config)
        assert with_one.startswith("1 entry is in ")
        assert "is not signed by" in refused("verify", "--export", out, "--public-key", other)
        said("verify", "--export", out, "--public-key", key)
        out.write_text("".join(out.read_text().splitlines(keepends=True)[:1]) if name.endswith("csv") else "")
        for one in (key, other):
            assert "holds no entry, so nothing in it is signed" in refused(
                "verify", "--export", out, "--public-key", one
            )
    empty = trained.folder / "empty.sqlite"
    create_file(empty, source="images", public_key=other)
    assert "holds nothing that is signed" in said("verify", "--file", empty, "--public-key", other)


def test_an_export_nested_without_end_is_one_sentence(trained: Trained) -> None:
    """A line, and what a line says is signed: the JSON reader gives up at some depth."""
    out = trained.folder / "out.jsonl"
    said("export", out, "-c", trained.config)
    row, deep = json.loads(out.read_text()), "[" * 100_000
    for content, sentence in ((deep, "is no exported ledger"), (json.dumps(row | {"body": deep}), "cannot be read")):
        out.write_text(content)
        assert sentence in refused("verify", "--export", out, "--public-key", trained.key)


def test_an_exported_file_can_be_read_by_others(trained: Trained) -> None:
    """By a spreadsheet and by any JSON reader; a file is never overwritten unasked."""
    out = trained.folder / "out.csv"
    said("export", out, "-c", trained.config)
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["sequence"], row["kind"], row["mode"], row["shares"]) == ("1", "train", "local", "1")
    before = out.read_bytes()
    trained.charge(1)
    assert "give --force to replace it" in refused("export", out, "-c", trained.config, kind=AlreadyExists)
    assert out.read_bytes() == before
    said("export", out, "-c", trained.config, "--force")
    assert out.read_bytes() != before
    nowhere = trained.folder / "no" / "out.csv"
    assert "cannot be written" in refused("export", nowhere, "-c", trained.config, kind=SiteStorageError)


@pytest.fixture
def held(trained: Trained) -> Iterator[Trained]:
    """The site's ledger in the hands of a process, as beside a running service: this one."""
    with trained.federation as federation:
        federation.open(OURS)
        yield trained


def test_a_running_site_is_looked_at_and_not_disturbed(held: Trained) -> None:
    """Each command, as a process of its own; the control is that the ledger itself cannot be opened meanwhile."""
    out = held.folder / "out.jsonl"
    for words in (
        ("show", "-c", str(held.config)),
        ("verify", "-c", str(held.config)),
        ("export", str(out), "-c", str(held.config)),
    ):
        command = [sys.executable, "-m", "client", "ledger", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- our own code
        assert done.returncode == 0, done.stderr
        assert "1 entry" in done.stdout
    with (
        pytest.raises(sqlite3.OperationalError, match="locked"),
        closing(sqlite3.connect(held.site.ledger, timeout=0)) as db,
    ):
        db.execute("SELECT * FROM entries")


def test_a_half_written_commit_is_undone_in_the_copy_alone(trained: Trained, tmp_path: Path) -> None:
    """A killed service may leave a journal: what it had not committed is not shown, and file and journal stay."""
    ledger = trained.site.ledger
    code = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.executescript('PRAGMA cache_size = 1; BEGIN; DROP TRIGGER entries_update; UPDATE entries SET round = 7;'\n"
        "  'CREATE TABLE more (x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) '\n"
        "  'INSERT INTO more SELECT hex(zeroblob(2000)) FROM n')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ledger)], check=False)  # noqa: S603 -- our own code
    journal = ledger.with_name(f"{ledger.name}-journal")
    before = (ledger.read_bytes(), journal.read_bytes())
    assert len(copy_ledger(ledger, public_key=trained.key).entries()) == 1
    assert (ledger.read_bytes(), journal.read_bytes()) == before
    # The control: without the journal the half commit is there, and is refused.
    shutil.copy(ledger, tmp_path / "copy")
    with pytest.raises(LedgerError):
        copy_ledger(tmp_path / "copy", public_key=trained.key)


@pytest.mark.parametrize("linked", [False, True])
def test_a_ledger_in_wal_mode_is_refused_with_the_way_back(trained: Trained, tmp_path: Path, *, linked: bool) -> None:
    """What stands in a -wal file only is in no copy of the ledger; merged, as the sentence says, nothing is lost."""
    ledger = trained.site.ledger
    if linked:
        ledger.rename(tmp_path / "elsewhere.sqlite")
        ledger.symlink_to(tmp_path / "elsewhere.sqlite")
    before = said("verify", "-c", trained.config)
    asked = ("show", "-c", trained.config), ("verify", "-c", trained.config)
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE extra (x)")
        wal = Path(f"{ledger.resolve()}-wal")
        assert wal.stat().st_size > 0
        shutil.copy(ledger, tmp_path / "copy")
        copied = ("verify", "--file", tmp_path / "copy", "--public-key", trained.key)
        for command in (*asked, copied):
            assert "was switched to SQLite's WAL mode" in refused(*command)
        connection.execute("DROP TABLE extra")
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    assert said("verify", "-c", trained.config) == before
    wal.write_bytes(b"")
    for command in asked:
        assert f"a file {wal.name} lies beside it" in refused(*command)
    # The control: only that file is refused, not what lies there else.
    wal.rename(wal.with_name("other-wal"))
    assert said("verify", "-c", trained.config) == before


def test_a_file_that_changes_all_the_time_is_not_guessed_at(tmp_path: Path) -> None:
    """Two looks must agree, however late; the control is a file that comes to rest."""
    restless = (str(number).encode() for number in range(10**6))
    with pytest.raises(LedgerError, match="changes while it is read; try again"):
        agreed_look(lambda: (next(restless), b""), tmp_path / "ledger", pause_s=0.0)
    calming = (str(min(number, 9)).encode() for number in range(10**6))
    assert agreed_look(lambda: (next(calming), b""), tmp_path / "ledger", pause_s=0.0) == (b"9", b"")
    journals = (str(min(number, 9)).encode() for number in range(10**6))
    assert agreed_look(lambda: (b"", next(journals)), tmp_path / "ledger", pause_s=0.0) == (b"", b"9")


def test_help_explains_the_file_to_write() -> None:
    """Click 8.5 loses, with the typer that flwr allows, the text of every positional argument."""
    assert "CSV if it ends in .csv" in " ".join(said("export", "--help").split())
