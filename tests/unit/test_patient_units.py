"""Patients as units: the column of index.csv that names them, what is wrong with one, and what else follows from it."""

from __future__ import annotations

import contextlib
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from client.counted_images import marks_of_images
from client.data import ImageTable, load_table
from client.data.source import DataPlace
from client.data.table import PrivacyUnit, SiteTable
from client.declare import SiteUnits, count_units, held_out_rule, site_units
from client.learner import load_learner
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_overlap import Place, claim_images
from client.plan_in_words import plan_in_words
from common.errors import DataError, LedgerError
from common.identity import Identity
from common.plan import Plan
from common.site_config import load_site
from scripts.split import split_dataset
from tests.support.in_process import open_site
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

SKIN9 = Path(__file__).parents[2].parent / "shared" / "data" / "skin9"
OWNER = "Jane-Doe-1970"


def write_folder(root: Path, header: str, *lines: str, images: Sequence[str] | None = None, seed: int = 0) -> Path:
    """Images of noise, those of the lines' first cells or others, and the index."""
    random = np.random.default_rng(seed)
    for name in images if images is not None else [line.split(",")[0] for line in lines]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
    (root / "index.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return root


def load(root: Path, column: str = "auto", *, unit: PrivacyUnit = "patient") -> ImageTable:
    """The folder as a site reads it."""
    return load_table(root, on_undecodable="refuse", unit=unit, patient_column=column)


def units(table: ImageTable) -> dict[str, str]:
    """Unit by path."""
    return {record.path: record.unit for record in table.records}


FOUR = ("mole/0.png,mole,A,L1", "mole/1.png,mole,A,L2", "wart/0.png,wart,A,L3", "wart/1.png,wart,B,L3")


def test_a_column_of_patients_is_used_before_lesions(tmp_path: Path) -> None:
    """A person with three lesions counts once, with one label; the control has no such column."""
    table = load(write_folder(tmp_path / "a", "path,label,patient_id,lesion_id", *FOUR))
    assert sorted(units(table).values()) == ["patient:A", "patient:A", "patient:A", "patient:B"]
    assert (table.unit_name, table.patient_column) == ("patient", "patient_id")
    assert table.unit_labels() == {"patient:A": 0, "patient:B": 1}
    assert {record.label_index for record in table.records if record.unit == "patient:A"} == {0}
    assert any("1 patient carries more than one label" in warning for warning in table.warnings)
    control = load(write_folder(tmp_path / "b", "path,label,person,lesion_id", *FOUR))
    assert sorted(set(units(control).values())) == ["lesion:L1", "lesion:L2", "lesion:L3"]
    assert (control.unit_name, control.patient_column) == ("lesion", None)


def test_the_site_names_its_own_column(tmp_path: Path) -> None:
    """It then counts, whatever patient_id says."""
    root = write_folder(
        tmp_path, "path,label,patient_id,subject", "mole/0.png,mole,,1", "mole/1.png,mole,X, 1 ", "wart/0.png,wart,X,2"
    )
    table = load(root, "subject")
    assert set(units(table).values()) == {"patient:1", "patient:2"}
    assert (table.unit_name, table.patient_column) == ("patient", "subject")


def test_record_counts_images_only_when_asked_for_and_needs_no_column(tmp_path: Path) -> None:
    """Blank, missing or whole: images are units. The control is the same folder with patients as units."""
    root = write_folder(tmp_path, "path,label,patient_id", "mole/0.png,mole,A", "mole/1.png,mole,A", "wart/0.png,wart,")
    for column in ("auto", "patient_id", "nowhere"):
        table = load(root, column, unit="record")
        assert len(table.unit_labels()) == 3
        assert (table.unit_name, table.patient_column) == ("image", None)
        assert all(record.unit.startswith("sha256:") for record in table.records)
    with pytest.raises(DataError, match="is blank"):
        load(root)


def test_byte_identical_images_of_several_patients_are_told(tmp_path: Path) -> None:
    """Each patient keeps its own, as lesions do; the words are of patients."""
    root = write_folder(tmp_path, "path,label,patient_id", "mole/0.png,mole,A", "mole/1.png,mole,B")
    (root / "mole" / "1.png").write_bytes((root / "mole" / "0.png").read_bytes())
    table = load(root)
    assert len(table.records) == 2
    assert any("1 image lies byte-identical in several patients" in warning for warning in table.warnings)


@pytest.mark.parametrize(
    ("column", "header", "lines", "message"),
    [
        ("subject", "path,label,patient_id", (f"a/0.png,a,{OWNER}",), "index.csv has no column 'subject'"),
        ("auto", "path,label,patient_id", (f"a/0.png,a,{OWNER}", "a/1.png,a, "), "line 3: the column 'patient_id' is"),
        ("auto", "path,label,patient_id", (f"a/0.png,a,{OWNER}", "a/1.png,a"), "line 3: the column 'patient_id' is"),
        (
            "subject",
            "path,label,subject",
            ("a/0.png,a,", f"a/1.png,a,{OWNER}"),
            "line 2: the column 'subject' is blan",
        ),
        (
            "auto",
            "path,label,Patient ID",
            (f"a/0.png,a,{OWNER}",),
            "has a column 'Patient ID'; write it as patient_id",
        ),
        ("auto", "path,label,PatientID", (f"a/0.png,a,{OWNER}",), "has a column 'PatientID'; write it as patient_id"),
        ("auto", "path,label,Patient\u00a0id", (f"a/0.png,a,{OWNER}",), "write it as patient_id, or name it as"),
        ("auto", "path,label,patient", (f"a/0.png,a,{OWNER}",), "has a column 'patient'; write it as patient_id"),
        ("auto", "path,label,patient_id ", (f"a/0.png,a,{OWNER}",), "has a column 'patient_id '; write it as"),
        ("who", "path,label,who,who", (f"a/0.png,a,{OWNER},B",), "has the column who twice"),
        ("label", "path,label", ("a/0.png,a",), "'label', which means something else in index.csv"),
        ("lesion_id", "path,label,lesion_id", (f"a/0.png,a,{OWNER}",), "'lesion_id', which means something else"),
        # A comma too much, or a column too few: somebody's name stands where another column is expected.
        (
            "auto",
            "path,label,keep_clean,patient_id",
            (f"a/0.png,a,{OWNER},yes",),
            "line 2: keep_clean is neither true nor false",
        ),
        (
            "auto",
            "path,label,keep_clean,patient_id",
            (f"a/0.png,a,b,{OWNER},True",),
            "line 2 has more cells than the first line; put a value that holds a comma into double quotes",
        ),
        ("auto", "path,label,patient_id", (f"a/0.png,a,{OWNER},",), "line 2 has more cells than the first line"),
        ("auto", "path,label,patient_id", (f"a/0.png,{OWNER},a",), "gives a/0.png another label than its folder's"),
        ("auto", "path,label,patient_id", (f"a/0.png,a,{OWNER}",) * 2, "line 3 names an image a second time"),
    ],
)
def test_a_wrong_column_gets_one_clear_error_without_what_stands_in_it(
    tmp_path: Path, column: str, header: str, lines: tuple[str, ...], message: str
) -> None:
    """Missing, blank, misspelt, doubled or another column: nothing is guessed, and no patient is named."""
    root = write_folder(tmp_path, header, *lines)
    with pytest.raises(DataError, match=message) as caught:
        load(root, column)
    assert OWNER not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_index_in_other_letters_or_a_second_one_is_not_passed_over(tmp_path: Path) -> None:
    """Its patients would be forgotten. The control: one index, in either of the places."""
    train, lines = tmp_path / "Train", (f"a/0.png,a,{OWNER}", f"a/1.png,a,{OWNER}")
    write_folder(train, "path,label,patient_id", *lines)
    assert len(load(tmp_path).unit_labels()) == 1
    (train / "index.csv").rename(train / "Index.CSV")
    with pytest.raises(
        DataError, match=r"^the data folder holds 'Index\.CSV', but only index\.csv, in small letters, says whose"
    ):
        load(tmp_path)
    (train / "Index.CSV").rename(train / "index.csv")
    write_folder(tmp_path, "path,label", images=())
    with pytest.raises(DataError, match=r"^index\.csv: seen in the data folder and beside the class folders; keep one"):
        load(tmp_path)
    (train / "index.csv").unlink()
    write_folder(tmp_path, "path,label,patient_id", *(f"Train/{line}" for line in lines), images=())
    assert len(load(tmp_path).unit_labels()) == 1


def test_an_image_that_the_index_does_not_list_has_no_patient(tmp_path: Path) -> None:
    """It would else be a unit of its own: another budget for somebody. Without a column of patients it stays one."""
    lines, images = (f"a/0.png,a,{OWNER}",), ("a/0.png", "a/1.png")
    root = write_folder(tmp_path / "a", "path,label,patient_id", *lines, images=images)
    with pytest.raises(DataError, match="does not list 1 of 2 images, so its column 'patient_id'") as caught:
        load(root)
    assert OWNER not in str(caught.value)
    assert len(load(write_folder(tmp_path / "b", "path,label,lesion_id", *lines, images=images)).unit_labels()) == 2


def test_a_column_that_is_named_needs_an_index(tmp_path: Path) -> None:
    """The control is `auto`, by which images without an index are units of their own."""
    root = write_folder(tmp_path, "path,label,patient_id", "a/0.png,a,A")
    (root / "index.csv").unlink()
    with pytest.raises(DataError, match=r"'subject', but there is no index\.csv"):
        load(root, "subject")
    assert load(root).unit_name == "image"


def of_sizes(sizes: Sequence[int], name: str = "patient_id") -> tuple[str, ...]:
    """Header and lines: so many images for each patient."""
    owners = [f"{OWNER}-{n}" for n, size in enumerate(sizes) for _ in range(size)]
    return (f"path,label,{name}", *(f"a/{n}.png,a,{owner}" for n, owner in enumerate(owners)))


@pytest.mark.parametrize("name", ["patient_id", "lesion_id", "isic_id"])
@pytest.mark.parametrize("sizes", [(6, 1, 1, 1, 1, 1), (6, 6), (11,), (30, 20, 10)])
def test_one_unit_with_half_of_all_images_is_refused(tmp_path: Path, name: str, sizes: tuple[int, ...]) -> None:
    """A column that says the same of many is a wrong column. No value of it is told."""
    root = write_folder(tmp_path, *of_sizes(sizes, name))
    what = name.removesuffix("_id") if name != "isic_id" else name
    sentence = f"one {what} holds at least half of the {sum(sizes)} images by the column '{name}'"
    with pytest.raises(DataError, match=sentence) as caught:
        load(root)
    assert OWNER not in str(caught.value)


@pytest.mark.parametrize("sizes", [(5, 1, 1, 1, 1, 1, 1), (5, 5), (10,), (9, 1), (5, 6, 5)])
def test_less_than_half_or_ten_images_in_all_are_not_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """The control of the test above; and small folders may hold anything."""
    assert len(load(write_folder(tmp_path, *of_sizes(sizes))).unit_labels()) == len(sizes)


def test_half_of_all_images_is_no_matter_where_images_are_units(tmp_path: Path) -> None:
    """With `record` no unit has two."""
    root = write_folder(tmp_path, *of_sizes((12,)))
    assert len(load(root, unit="record").unit_labels()) == 12


# A site.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A provisioned hospital whose images are of patients, two each; its site file."""
    provision_small(tmp_path, template(privacy={"unit": "patient"}))
    path = tmp_path / "federation" / NAMES[0] / f"{NAMES[0]}.yaml"
    write_patients(load_site(path).data, "patient_id")
    return path


def write_patients(data: Path, column: str, *, same: bool = False) -> None:
    """An index over a site's images: two of each patient, or all of one."""
    with (data / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(("path", "label", column))
        for number, image in enumerate(sorted(data.glob("*/*.png"))):
            owner = OWNER if same else f"{OWNER}-{number // 2}"
            lines.writerow((image.relative_to(data).as_posix(), image.parent.name, owner))


@pytest.mark.parametrize("fault", ["blank", "same", "column", "unlisted"])
def test_a_site_refuses_before_it_counts_or_charges_anybody(site: Path, fault: str) -> None:
    """`on_table`, where the ledger learns of the images, is never called; the control is the sound folder."""
    config = load_site(site)
    plan = Plan.model_validate(yaml.safe_load(config.plan.read_text()))
    seen: list[SiteTable] = []
    index = config.data / "index.csv"
    if fault == "blank":
        index.write_text(index.read_text().replace(f"{OWNER}-1", ""))
    elif fault == "same":
        write_patients(config.data, "patient_id", same=True)
    elif fault == "column":
        config = config.model_copy(update={"patient_column": "subject"})
    else:
        index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError) as caught:
        load_learner(config, plan, on_progress=lambda *_: None, on_table=seen.append)
    assert not seen
    assert OWNER not in str(caught.value)
    write_patients(config.data, "patient_id")
    _, unit = load_learner(load_site(site), plan, on_progress=lambda *_: None, on_table=seen.append)
    assert (unit, len(seen)) == ("patient", 1)


def test_a_patients_site_says_so_and_charges_under_its_own_rule(site: Path) -> None:
    """Status and the learner's rule: another column must make both accounts pay for everything."""
    hospital = open_site(site.parents[1], NAMES[0])
    contributor = hospital._contributor
    try:
        assert '"unit": "patient"' in (site.parent / "state" / "status.json").read_text()
        assert contributor.learner.held_out_rule == held_out_rule(contributor.plan, "patient_id")
        assert contributor.learner.training_units + contributor.learner.held_out_units == 6
    finally:
        contributor.ledger.close()


def test_a_run_of_patients_says_so_in_its_results_and_charges_under_that_rule(tmp_path: Path) -> None:
    """Whole rounds of four hospitals; every charge stands under the rule of the column, and not the plan's alone."""
    provision_small(tmp_path / "base", template(privacy={"unit": "patient"}, data={"held_out": 0.2}))
    for name in NAMES:
        write_patients(tmp_path / "base" / "shards" / name, "patient_id")
    with SmallFederation.copy_of(tmp_path / "base", tmp_path / "run") as federation:
        federation.coordinator.whole_run(federation.sites)
        for name, site in federation.sites.items():
            charges = [entry.charge for entry in site._contributor.ledger.entries()]
            assert {charge.held_out_rule for charge in charges} == {held_out_rule(federation.plan, "patient_id")}
            (metrics,) = (tmp_path / "run" / "federation" / name / "results").glob("*/metrics.json")
            assert json.loads(metrics.read_text())["privacy"]["unit"] == "patient"


def test_another_column_of_patients_is_another_held_out_rule() -> None:
    """Unit ids change with it, and with them who is held out. Without patients the rule is the plan's, as before."""
    plan = template()
    assert held_out_rule(plan, None) == plan.held_out_rule
    assert len({held_out_rule(plan, column) for column in (None, "patient_id", "subject")}) == 3


def test_the_column_decides_what_a_site_declares_and_what_it_approves(tmp_path: Path, site: Path) -> None:
    """The count of keygen, and the plan in words: a patient is a person, a lesion is not."""
    plan, privacy = template(privacy={"unit": "patient"}, data={"held_out": 0.0}), load_site(site).privacy
    agreed = Plan.model_validate(yaml.safe_load((site.parent / "plan.yaml").read_text()))
    root = write_folder(
        tmp_path / "set", "path,label,who,lesion_id", *(line.replace("mole", "dark") for line in FOUR[:2])
    )

    def words(units: SiteUnits | None) -> str:
        return "\n".join(plan_in_words(agreed, hospital=NAMES[0], privacy=privacy, units=units))

    assert count_units(DataPlace(root, patient_column="who"), plan) == 1
    assert count_units(DataPlace(root), plan) == 2
    said = words(site_units(DataPlace(root, patient_column="who"), plan))
    assert "Unit of privacy: patient: all images of one count as one, by the column 'who' of index.csv." in said
    assert "not a person" not in said
    said = words(site_units(DataPlace(root), plan))
    assert "Unit of privacy: lesion: " in said
    assert "not a person" in said
    assert "a patient where this site's index.csv has a column of them" in words(None)


# The ledger.


@contextlib.contextmanager
def started(folder: Path, identity: Identity, table: ImageTable, source: str) -> Iterator[None]:
    """A start with a ledger of this source, which then spends."""
    path = folder / f"{source}.sqlite"
    with contextlib.closing(Ledger(path, source=source, hospital="h", identity=identity, cap=Cap(8.0, 1e-5))) as ledger:
        claim_images(
            ledger, marks_of_images(identity, table), place=Place(path, source, identity.public_hex, folder / "state")
        )
        yield


def claimed(folder: Path, tables: Sequence[ImageTable]) -> None:
    """Sources a, b, ... that run beside each other, each with one of these tables."""
    identity = Identity.generate()
    with contextlib.ExitStack() as running:
        for number, table in enumerate(tables):
            running.enter_context(started(folder, identity, table, f"s{number}"))


def test_two_sources_that_share_a_patient_are_refused(tmp_path: Path) -> None:
    """Other images, other lesions, the same person; the control is another person."""
    first = load(write_folder(tmp_path / "a", "path,label,patient_id", "a/0.png,a,A", seed=1))
    again = load(write_folder(tmp_path / "b", "path,label,who", "a/5.png,a,A", "a/6.png,a,B", seed=2), "who")
    other = load(write_folder(tmp_path / "c", "path,label,patient_id", "a/5.png,a,B", seed=3))
    with pytest.raises(LedgerError, match="1 of 2 images are already counted by source 's0'"):
        claimed(tmp_path, (first, again))
    (tmp_path / "sound").mkdir()
    claimed(tmp_path / "sound", (first, other))


@pytest.mark.parametrize("unit", ["patient", "record"])
def test_another_column_or_unit_gives_the_same_people_no_fresh_budget(tmp_path: Path, unit: PrivacyUnit) -> None:
    """Marks are of images and of all ids that index.csv gives, whatever the unit was when they were counted."""
    header, line = "path,label,patient_id,lesion_id,isic_id", "a/0.png,a,A,L1,I1"
    counted = load(write_folder(tmp_path / "a", header, line, seed=1), unit=unit)
    same_lesion = write_folder(tmp_path / "b", "path,label,lesion_id", "a/1.png,a,L1", seed=2)
    same_image = write_folder(tmp_path / "c", "path,label,isic_id", "a/1.png,a,I1", seed=3)
    same_file = write_folder(tmp_path / "d", "path,label,patient_id", "a/9.png,a,Z", seed=1)
    for number, root in enumerate((same_lesion, same_image, same_file)):
        for now in ("patient", "record"):
            (tmp_path / f"ledgers-{number}-{now}").mkdir()
            with pytest.raises(LedgerError, match="1 of 1 images are already counted"):
                claimed(tmp_path / f"ledgers-{number}-{now}", (counted, load(root, unit=now)))
    nobody_known = write_folder(tmp_path / "e", "path,label,patient_id,lesion_id,isic_id", "a/1.png,a,B,L2,I2", seed=5)
    (tmp_path / "ledgers-control").mkdir()
    claimed(tmp_path / "ledgers-control", (counted, load(nobody_known)))


# Dealing and real data.


def test_a_split_keeps_patients_together_and_their_column(tmp_path: Path) -> None:
    """Each part's index has patient_id, so that its hospital's units are patients; without patients it has none."""
    sizes = [1 + n % 3 for n in range(12)]
    write_folder(tmp_path / "set", *of_sizes(sizes))
    report = split_dataset(tmp_path / "set", tmp_path / "out", hospitals=3, seed=0, on_undecodable="refuse")
    assert report.unit_name == "patient"
    parts = [load(share.data) for share in report.shares]
    assert [part.unit_name for part in parts] == ["patient"] * 3
    owners = [set(part.unit_labels()) for part in parts]
    assert len(set().union(*owners)) == sum(map(len, owners)) == 12
    assert sum(len(part.records) for part in parts) == sum(sizes)
    write_folder(tmp_path / "lesions", *of_sizes(sizes, "lesion_id"))
    report = split_dataset(tmp_path / "lesions", tmp_path / "out2", hospitals=3, seed=0, on_undecodable="refuse")
    assert "patient_id" not in (report.shares[0].data / "index.csv").read_text()
    assert {load(share.data).unit_name for share in report.shares} == {"lesion"}


@pytest.mark.skipif(not SKIN9.is_dir(), reason="the skin9 data set is not on this machine")
def test_skin9_by_a_patient_column_made_of_its_lesions_has_the_same_units(tmp_path: Path) -> None:
    """2357 rows: patient_id is the lesion_id, or the isic_id where that is blank."""
    (tmp_path / "Train").symlink_to(SKIN9 / "Train")
    with (SKIN9 / "index.csv").open(encoding="utf-8", newline="") as old:
        rows = list(csv.DictReader(old))
    with (tmp_path / "index.csv").open("w", encoding="utf-8", newline="") as new:
        lines = csv.DictWriter(new, ["patient_id", *rows[0]])
        lines.writeheader()
        lines.writerows({"patient_id": row["lesion_id"] or row["isic_id"], **row} for row in rows)
    ours, theirs = load(tmp_path), load(SKIN9)
    assert (ours.unit_name, theirs.unit_name) == ("patient", "lesion")
    assert {record.unit.partition(":")[0] for record in ours.records} == {"patient"}
    assert [(r.path, r.label_index, r.sha256) for r in ours.records] == [
        (r.path, r.label_index, r.sha256) for r in theirs.records
    ]
    groups: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]
    for table, group in zip((ours, theirs), groups, strict=True):
        for record in table.records:
            group[record.unit].add(record.path)
    assert sorted(map(sorted, groups[0].values())) == sorted(map(sorted, groups[1].values()))
    assert len(groups[0]) < len(ours.records)
