"""Five hospitals that hold the same kind of data in three forms train one model, in real processes over real TLS."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from client.data import ImageRecord, ImageTable, load_table
from client.data.source import DataPlace
from client.state import state_tag
from client.storage import RunStorage
from common.plan import Plan
from scripts.federation import local_options, provision
from scripts.split import split_dataset
from scripts.synthetic import CLASSES, write_synthetic
from tests.support.deployment import Deployment
from tests.support.dicom_files import write_dicom

# Five hospitals on two cores: 108 CPU seconds; three minutes beside other work.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 2
RUN = "7" * 32
HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 6))
NAME = "CANARY^NAME"
PATIENT = "CANARY-ID-"
CODES = {name: f"D{number}" for number, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Ended:
    """What a run left on the disks."""

    data: Path
    folder: Path
    plan: Plan


def _small_plan() -> Plan:
    content = yaml.safe_load((Path(__file__).parents[2] / "configs" / "plans" / "cnn.yaml").read_text())
    content["model"] |= {"image_size": 32, "width": 4}
    content["training"] |= {"rounds": ROUNDS, "local_steps": 1}
    return Plan.model_validate_json(json.dumps(content))


def _dealt(folder: Path) -> ImageTable:
    return load_table(folder, None, on_undecodable="refuse", unit="patient", patient_column="auto")


def _as_png(table: ImageTable, target: Path) -> None:
    for record in table.records:
        path = target / record.path.replace(".jpg", ".PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(table.file(record)).save(path)


def _listed(table: ImageTable, target: Path) -> dict[str, object]:
    """Images in one heap with numbers for names, and a list in the hospital's own words."""
    target.mkdir(parents=True)
    with (target / "Bilder.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(("Datei", "Diagnose", "Fall", "Teil"))
        for number, record in enumerate(table.records):
            (target / f"{number}.jpg").write_bytes(table.file(record).read_bytes())
            writer.writerow((f"{number}.jpg", CODES[table.classes[record.label_index]], record.unit, "Training"))
        writer.writerow(("gone.jpg", "nothing that the plan knows", "", "Archiv"))
    return {
        "form": "image-index",
        "index": "Bilder.csv",
        "delimiter": "semicolon",
        "path": "Datei",
        "label": "Diagnose",
        "labels": {code: name for name, code in CODES.items()},
        "patient": "Fall",
        "split": {"column": "Teil", "use": ["Training"]},
    }


def _as_dicom(table: ImageTable, name: Callable[[int, ImageRecord], Path]) -> None:
    for number, record in enumerate(table.records):
        pixels = np.asarray(Image.open(table.file(record)).convert("RGB"))
        patient = PATIENT + record.unit.rpartition("-")[2] + str(record.label_index)
        write_dicom(
            name(number, record), pixels, PatientID=patient, PatientName=NAME, SOPInstanceUID=f"1.2.826.{number}"
        )


def _archived(table: ImageTable, target: Path) -> dict[str, object]:
    """DICOM files as an archive writes them, without suffix or class folders, and a list of their UIDs."""
    _as_dicom(table, lambda number, _: target / f"study{number % 3}" / f"IM{number:05d}")
    with (target / "uids.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("uid", "class"))
        writer.writerows((f"1.2.826.{n}", table.classes[r.label_index]) for n, r in enumerate(table.records))
    return {"form": "image-index", "index": "uids.csv", "sop_instance_uid": "uid", "label": "class"}


def _in_three_forms(base: Path) -> dict[str, DataPlace]:
    """JPEG and PNG in class folders, JPEG by a list, DICOM in class folders and by a list."""
    write_synthetic(base / "images", images_per_class=15, seed=0)
    split_dataset(base / "images", base / "dealt", hospitals=5, seed=0, on_undecodable="refuse")
    dealt = {name: _dealt(base / "dealt" / name / "data") for name in HOSPITALS}
    data = base / "data"
    _as_png(dealt["hospital-2"], data / "png")
    mappings = {
        "hospital-3": _listed(dealt["hospital-3"], data / "listed"),
        "hospital-5": _archived(dealt["hospital-5"], data / "archived"),
    }
    fourth = dealt["hospital-4"]
    _as_dicom(fourth, lambda n, record: data / "dicom" / fourth.classes[record.label_index] / f"{n}.dcm")
    for name, mapping in mappings.items():
        (base / f"{name}.yaml").write_text(yaml.safe_dump(mapping))
    return {
        "hospital-1": DataPlace(base / "dealt" / "hospital-1" / "data"),
        "hospital-2": DataPlace(data / "png"),
        "hospital-3": DataPlace(data / "listed", base / "hospital-3.yaml"),
        "hospital-4": DataPlace(data / "dicom"),
        "hospital-5": DataPlace(data / "archived", base / "hospital-5.yaml"),
    }


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Two rounds of a small network on drawn lesions."""
    base = tmp_path_factory.mktemp("fw")
    places = _in_three_forms(base)
    folder = base / "fed"
    plan = provision(_small_plan(), places, folder, options=local_options(5, device="cpu"))
    with Deployment(folder) as deployment:
        deployment.start_coordinator()
        for name in HOSPITALS:
            deployment.start_hospital(name)
        for name in HOSPITALS:
            deployment.until_printed(name, "hospital ready")
        words = (str(folder / "plan.yaml"), "--config", str(deployment.server_yaml), "--run-id", RUN)
        deployment.start("run", "fedward-server", "run", *words)
        assert deployment.processes.pop("run").wait(timeout=600) == 0, deployment.log("run").read_text()
    return Ended(base / "data", folder, plan)


def test_all_five_hold_one_model(ended: Ended) -> None:
    """The same file to the byte, and the same state: model, momentum and history."""
    models = {(ended.folder / name / "results" / RUN / "model.safetensors").read_bytes() for name in HOSPITALS}
    assert len(models) == 1
    tags = set()
    for name in HOSPITALS:
        state = RunStorage(ended.folder / name / "state" / "runs" / RUN, plan=ended.plan.digest).load_state()
        assert state is not None
        assert state.applied.round == ROUNDS + 1
        tags.add(state_tag(state, b"\0" * 32))
    assert len(tags) == 1


def test_every_hospital_took_part_in_every_round(ended: Ended) -> None:
    """Else it would be the model of those whose form was read."""
    for name in HOSPITALS:
        metrics = json.loads((ended.folder / name / "results" / RUN / "metrics.json").read_text())
        assert [len(row["contributors"]) for row in metrics["rounds"]] == [5] * ROUNDS
    units = [member.declared_units for member in ended.plan.roster]
    assert min(units) >= 15


def _holding(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("text", [NAME, PATIENT])
def test_no_tag_of_the_dicom_files_is_in_anything_that_the_run_wrote(ended: Ended, text: str) -> None:
    """Logs, states, caches, ledgers, results, and the coordinator's store; the control finds them in the data."""
    assert len(_holding(ended.data, text)) > 30
    assert len([path for path in ended.folder.rglob("*") if path.is_file()]) > 50
    assert not _holding(ended.folder, text)
