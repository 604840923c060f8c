"""One ledger per patient: whatever it is called and wherever it lies, a second one gives nobody a fresh budget."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from client.accountant import PrivacyEvent
from client.counted_images import marks_of_images
from client.data import ImageRecord, ImageTable
from client.data.reading import RawRow, Reading
from client.data.rows import RowTable, encode_rows
from client.data.table import SiteTable
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_entry import Charge
from client.ledger_overlap import Place, claim_images
from common.errors import LedgerError
from common.identity import Identity
from common.plan_data import TableData
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

ROOT = Path(__file__).parents[2]


def table(pictures: Sequence[str], *, lesions: Sequence[str] = ()) -> ImageTable:
    """Images whose digests are made of their names; each of its own lesion, or of none."""
    units = lesions or [f"sha256:{name}" for name in pictures]
    records = tuple(
        ImageRecord(f"mole/{n}.png", 0, unit, name) for n, (name, unit) in enumerate(zip(pictures, units, strict=True))
    )
    return ImageTable(Path("unused"), records, ("mole",), "lesion" if lesions else "image", None, (), {}, ())


def rows(patient: str | None) -> RowTable:
    """One coarse row, of somebody or of nobody."""
    data = TableData.model_validate(
        {
            "kind": "table",
            "classes": ["well", "ill"],
            "features": [{"kind": "category", "name": "sex", "values": ["female", "male"], "missing": "flag"}],
            "held_out": 0.2,
            "held_out_salt": "salt",
        }
    )
    said = Reading(rows=[RawRow("ward.csv line 2", patient, {"sex": "male"}, "ill")])
    return encode_rows(said, data, unit="patient", patient_column=None if patient is None else "pid")


def pictures(start: int, stop: int) -> list[str]:
    """Digests, hex."""
    return [f"{number:064x}" for number in range(start, stop)]


@dataclass
class Site:
    """One hospital's key and folder."""

    folder: Path
    identity: Identity

    @contextlib.contextmanager
    def start(
        self,
        images: SiteTable | None,
        *,
        source: str = "a",
        path: str = "a.sqlite",
        state: str = "state",
        records: Literal["images", "rows"] = "images",
    ) -> Iterator[Ledger]:
        """What a start does with the ledger; without images it looks at nothing, as before."""
        file = self.folder / path
        ledger = Ledger(file, hospital="h", source=source, identity=self.identity, cap=Cap(3.0, 1e-5))
        with contextlib.closing(ledger):
            if images is not None:
                place = Place(file, source, self.identity.public_hex, self.folder / state, records)
                claim_images(ledger, marks_of_images(self.identity, images), place=place)
            yield ledger

    def spend(self, images: SiteTable | None, *, source: str = "a", path: str = "a.sqlite") -> None:
        """Start, charge one round, stop."""
        with self.start(images, source=source, path=path) as ledger:
            charge(ledger)


def charge(ledger: Ledger) -> None:
    """One round more."""
    ledger.charge(
        Charge(
            kind="train",
            run="run",
            round_number=ledger.sequence() + 1,
            plan_hash="aa" * 32,
            event=PrivacyEvent(1.0, 8.0, 1),
            clip=0.5,
            units_digest="bb" * 32,
            held_out_rule="cc" * 32,
            mode="local",
            shares=1,
        )
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site that has trained on pictures 0 to 5 as source a."""
    site = Site(tmp_path, Identity.generate())
    site.spend(table(pictures(0, 6)))
    return site


def test_a_new_source_name_gives_the_same_images_no_fresh_budget(site: Site) -> None:
    """The sentence names source and file; the control, without the look around, would have spent nothing."""
    with (
        pytest.raises(LedgerError, match=r"6 of 6 images are already counted by source 'a' in .*/a\.sqlite; a second"),
        site.start(table(pictures(0, 6)), source="b", path="b.sqlite"),
    ):
        pass
    with site.start(table(pictures(0, 6))) as sound, site.start(None, source="b", path="b.sqlite") as blind:
        assert blind.spent(1e-5) == 0 < sound.spent(1e-5)


def test_one_shared_image_is_enough_and_none_is_fine(site: Site) -> None:
    """Disjoint data may have a ledger of their own; the first goes on beside it."""
    with (
        pytest.raises(LedgerError, match="1 of 4 images are already counted"),
        site.start(table(pictures(5, 9)), source="b", path="b.sqlite"),
    ):
        pass
    site.spend(table(pictures(6, 9)), source="b", path="b.sqlite")
    with site.start(table(pictures(0, 6))) as first:
        assert first.sequence() == 1


def test_another_image_of_a_counted_lesion_is_refused(tmp_path: Path) -> None:
    """The lesion is what is protected. Without ids a picture that was saved anew is another one: not recognised."""
    site = Site(tmp_path, Identity.generate())
    site.spend(table(pictures(0, 2), lesions=["lesion:1", "isic:2"]))
    for lesion in ("lesion:1", "isic:2"):
        with (
            pytest.raises(LedgerError, match="1 of 2 images"),
            site.start(table(pictures(8, 10), lesions=[lesion, "lesion:9"]), source="b", path="b.sqlite"),
        ):
            pass
    with site.start(table(pictures(8, 10)), source="b", path="b.sqlite"):
        pass


def test_images_that_are_gone_stay_counted_and_new_ones_are_added(site: Site) -> None:
    """Spending on a patient who withdrew is still spent, and nothing is written twice."""
    site.spend(table(pictures(3, 8)))
    for number in (0, 4, 7):
        with (
            pytest.raises(LedgerError, match="1 of 1 images"),
            site.start(table(pictures(number, number + 1)), source="b", path="b.sqlite"),
        ):
            pass
    site.spend(table(pictures(3, 8)))
    with contextlib.closing(sqlite3.connect(site.folder / "a.sqlite")) as connection:
        sizes = [size for (size,) in connection.execute("SELECT length(marks) FROM counted ORDER BY batch")]
    assert sizes == [6 * 16, 2 * 16]


@pytest.mark.parametrize("gone", [False, True])
def test_a_ledger_in_another_folder_is_remembered_by_the_state(site: Site, gone: bool) -> None:  # noqa: FBT001 -- pytest
    """A new `ledger:` path must not forget either; control: with another state folder nobody remembers."""
    images = table(pictures(0, 6))
    if gone:
        (site.folder / "a.sqlite").unlink()
    with (
        pytest.raises(LedgerError, match="6 of 6 images are already counted by source 'a'"),
        site.start(images, source="b", path="elsewhere/b.sqlite"),
    ):
        pass
    with (
        pytest.raises(
            LedgerError, match=r"lacks entries or images that the ledger of source 'a' had at its last start"
        ),
        site.start(images, path="elsewhere/a.sqlite"),
    ):
        pass
    with site.start(images, source="b", path="elsewhere/b.sqlite", state="other-state"):
        pass


def test_a_ledger_that_moved_with_its_entries_goes_on(site: Site) -> None:
    """Another disk is no new budget: the same chain is the same ledger."""
    (site.folder / "elsewhere").mkdir()
    (site.folder / "a.sqlite").rename(site.folder / "elsewhere" / "a.sqlite")
    with site.start(table(pictures(0, 6)), path="elsewhere/a.sqlite") as ledger:
        charge(ledger)
        assert ledger.sequence() == 2


def test_a_copy_of_the_ledger_may_lie_beside_it_but_not_replace_it(site: Site) -> None:
    """A backup knows nothing that the ledger does not; put in its place it would forget a charge."""
    images = table(pictures(0, 6))
    shutil.copy(site.folder / "a.sqlite", site.folder / "backup.sqlite")
    site.spend(images)
    with (
        pytest.raises(LedgerError, match=r"with charges that .*backup\.sqlite lacks"),
        site.start(images, path="backup.sqlite"),
    ):
        pass
    with site.start(images):  # the state remembers two entries now
        pass
    shutil.copy(site.folder / "backup.sqlite", site.folder / "a.sqlite")
    (site.folder / "backup.sqlite").unlink()
    with pytest.raises(LedgerError, match="put its newest copy back"), site.start(images):
        pass


def test_a_fresh_file_of_the_same_source_is_refused(site: Site) -> None:
    """Only the path was changed in the site file: seen in the folder, and by the state."""
    for state, words in (("other-state", "one ledger per source"), ("state", "lacks entries or images")):
        with (
            pytest.raises(LedgerError, match=words),
            site.start(table(pictures(0, 6)), path="c.sqlite", state=state),
        ):
            pass


def test_a_ledger_that_never_charged_hinders_nobody_unless_a_process_holds_it(tmp_path: Path) -> None:
    """A source that was misspelt at the first start can be renamed; a running service will charge."""
    site = Site(tmp_path, Identity.generate())
    images = table(pictures(0, 3))
    site.identity.save(tmp_path / "key")
    with site.start(images, state="first-state"):
        pass
    code = (
        "import sys, pathlib; from client.ledger import Ledger; from client.ledger_cap import Cap\n"
        "from common.identity import Identity\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]), hospital='h', source='a', cap=Cap(3, 1e-5),"
        " identity=Identity.load(pathlib.Path(sys.argv[2])))\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.sqlite"), str(tmp_path / "key")]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 -- our own
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerError, match="3 of 3 images"), site.start(images, source="b", path="b.sqlite"):
            pass
        with site.start(table(pictures(3, 6)), source="b", path="b.sqlite"):
            pass
        holder.communicate()
    with site.start(images, source="c", path="c.sqlite", state="other-state"):
        pass


def test_an_older_ledger_gains_its_images_at_the_next_start(tmp_path: Path) -> None:
    """No rewrite; until then what it counts is unknown, and so refused. Two such ledgers do not block each other."""
    site = Site(tmp_path, Identity.generate())
    for source in ("a", "b"):
        with site.start(None, source=source, path=f"{source}.sqlite") as ledger:
            charge(ledger)
            head = ledger.head()
    with (
        pytest.raises(LedgerError, match=r"charged by an older version .* start the site with its source 'b' once"),
        site.start(table(pictures(0, 3))),
    ):
        pass
    with site.start(table(pictures(3, 6)), source="b", path="b.sqlite") as ledger:
        assert ledger.head() == head
    with site.start(table(pictures(0, 3))) as ledger:
        assert ledger.sequence() == 1
    with pytest.raises(LedgerError, match="2 of 2"), site.start(table(pictures(1, 3)), source="c", path="c.sqlite"):
        pass


def test_a_neighbour_that_cannot_be_read_is_refused(site: Site) -> None:
    """Fail closed: damaged, altered, of another key. A database of another kind is nobody's ledger."""
    images = table(pictures(10, 12))

    def start() -> None:
        with site.start(images, source="b", path="b.sqlite"):
            pass

    whole = (site.folder / "a.sqlite").read_bytes()
    for damage in (b"", b"no database" * 99, whole[:4096], whole[:5000]):
        (site.folder / "a.sqlite").write_bytes(damage)
        with pytest.raises(LedgerError, match=r"a\.sqlite: cannot be read .* unknown"):
            start()
    (site.folder / "a.sqlite").unlink()
    with Site(site.folder, Identity.generate()).start(None, path="a.sqlite") as foreign:
        charge(foreign)
    with pytest.raises(LedgerError, match="ledger of another identity key"):
        start()
    (site.folder / "a.sqlite").unlink()
    with contextlib.closing(sqlite3.connect(site.folder / "recipes.sqlite")) as connection:
        connection.execute("CREATE TABLE cakes (name TEXT)")
    (site.folder / "notes.txt").write_text("x")
    start()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE counted SET marks = zeroblob(length(marks))",
        "UPDATE counted SET marks = zeroblob(0)",
        "UPDATE counted SET signature = ''",
        "DELETE FROM counted WHERE batch = 1",
        "UPDATE counted SET batch = 3 - batch",
    ],
)
def test_altered_marks_are_refused_in_the_own_and_in_another_ledger(site: Site, statement: str) -> None:
    """Append-only by the schema, and signed in order for whoever gets around that."""
    site.spend(table(pictures(0, 8)))
    with contextlib.closing(sqlite3.connect(site.folder / "a.sqlite", isolation_level=None)) as connection:
        with pytest.raises(sqlite3.Error, match="append-only"):
            connection.execute("DELETE FROM counted")
        connection.execute("DROP TRIGGER counted_UPDATE")
        connection.execute("DROP TRIGGER counted_DELETE")
        connection.execute(statement.replace("3 - batch", "batch + 10"))
    with pytest.raises(LedgerError, match="batch 1"), site.start(table(pictures(0, 8))):
        pass
    with pytest.raises(LedgerError, match="unknown"), site.start(table(pictures(90, 91)), source="b", path="b.sqlite"):
        pass


def test_a_damaged_memory_is_refused(site: Site) -> None:
    """Else breaking one file of the state folder would renew the budget."""
    note = next((site.folder / "state" / "counted").iterdir())
    assert note.stat().st_mode & 0o077 == 0
    for content in ("", "{}", json.dumps(json.loads(note.read_text()) | {"marks": 3})):
        note.write_text(content)
        with pytest.raises(LedgerError, match="is damaged"), site.start(table(pictures(0, 6))):
            pass


def test_marks_tell_nothing_to_whoever_lacks_the_key() -> None:
    """Another site's marks of the same pictures and lesions are others; an id that is only the file's adds none."""
    images = table(pictures(0, 2), lesions=["lesion:1", f"sha256:{pictures(1, 2)[0]}"])
    ours, theirs = (marks_of_images(Identity.generate(), images) for _ in range(2))
    assert [len(marks) for marks in ours] == [2, 1]
    assert not frozenset().union(*ours) & frozenset().union(*theirs)
    assert b"".join(sorted(ours[0])).find(bytes.fromhex(images.records[0].sha256)) == -1


def test_a_hospital_whose_source_is_renamed_does_not_start(tmp_path: Path) -> None:
    """The whole start: after one round under its own name, another name and file are refused before any feature."""
    provision_small(tmp_path / "base", template())
    with SmallFederation.copy_of(tmp_path / "base", tmp_path / "copy") as federation:
        federation.coordinator.exchange("hello", 0, federation.sites)
        federation.coordinator.exchange("train", 1, federation.sites)
        name = NAMES[0]
        federation.close(name)
        path = federation.folder / "federation" / name / f"{name}.yaml"
        path.write_text(path.read_text().replace("ledger.sqlite", "new.sqlite"))
        federation.change_site(name, source="renamed")
        with pytest.raises(LedgerError, match=r"(\d+) of \1 images are already counted by source"):
            federation.open(name)
        path.write_text(path.read_text().replace("new.sqlite", "ledger.sqlite"))
        with contextlib.suppress(OSError):
            (path.parent / "new.sqlite").unlink()
        federation.change_site(name, source="images")
        federation.open(name)
        federation.coordinator.exchange("train", 2, federation.sites)


@pytest.mark.parametrize(("patients", "advised"), [((None, None), True), (("Q7", "Q7"), False)])
def test_equal_rows_of_nobody_are_refused_with_what_to_do(
    tmp_path: Path,
    patients: tuple[str | None, str | None],
    advised: bool,  # noqa: FBT001 -- a case
) -> None:
    """They may be different people, whom only a column of patients tells apart; named ones, the control, are known."""
    site = Site(tmp_path, Identity.generate())
    first, second = (rows(patient) for patient in patients)
    site.spend(first)
    with (
        pytest.raises(
            LedgerError, match=r"1 of 1 rows are already counted by source 'a' in .*remove those rows"
        ) as caught,
        site.start(second, source="b", path="b.sqlite", records="rows"),
    ):
        pass
    assert ("name a column of patients in the mappings of both sources" in str(caught.value)) == advised


def test_equal_rows_of_different_patients_may_have_a_ledger_of_their_own(tmp_path: Path) -> None:
    """What the advice gives: with the column the same coarse values of two people are no overlap."""
    site = Site(tmp_path, Identity.generate())
    site.spend(rows("Q7"))
    with site.start(rows("Q8"), source="b", path="b.sqlite", records="rows"):
        pass
