"""What `ledger show` says is left: as many rounds as the ledger will take, by this site's own rules."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from client.accountant import PrivacyEvent
from client.cli import app
from client.data.source import DataPlace
from client.declare import site_held_out_rule
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_entry import Charge, Kind
from client.planned_charges import planned_charges
from common.config import load_settings, parse_settings
from common.errors import BudgetExceeded
from common.plan import Plan
from common.roster import Continued
from common.site_config import load_site
from tests.support.site_keys import site_identity
from tests.support.small_federation import NAMES, TEMPLATE, provision_small

OURS = NAMES[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose plan has patients, and a round of statistics that costs much."""
    folder = tmp_path_factory.mktemp("base")
    content: dict[str, Any] = {
        **TEMPLATE,
        "model": {"kind": "lite0-head", "image_size": 64, "views": 1, "projection": 16, "seed": 0},
        "privacy": {**TEMPLATE["privacy"], "unit": "patient", "mean_share": 0.4},
    }
    provision_small(folder, parse_settings(yaml.safe_dump(content), Plan, source="plan"))
    return folder


@pytest.fixture
def home(base: Path, tmp_path: Path) -> Path:
    """The folder of one hospital, whose index.csv has two columns of patients."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    home = tmp_path / "federation" / OURS
    data = load_site(home / f"{OURS}.yaml").data
    images = sorted(path.relative_to(data) for path in data.rglob("*.png"))
    rows = [f"{path.as_posix()},{path.parent.name},{path.stem},{path.stem}" for path in images]
    (data / "index.csv").write_text("\n".join(("path,label,patient_id,who", *rows)) + "\n")
    return home


def planned(home: Path, column: str) -> list[Charge]:
    """What rounds of the plan cost where that column names the patients: statistics, a training round."""
    plan = load_settings(home / "plan.yaml", Plan)
    data = load_site(home / f"{OURS}.yaml").data
    rule = site_held_out_rule(DataPlace(data, patient_column=column), plan)
    return [replace(one, run="5" * 32) for one in planned_charges(plan, plan.roster[0], held_out_rule=rule)]


def ledger_of(home: Path, path: Path | None = None) -> Ledger:
    """The site's ledger, or a copy of it, under the cap of its site file."""
    site = load_site(home / f"{OURS}.yaml")
    cap = Cap(site.privacy.cap_epsilon, site.privacy.cap_delta)
    return Ledger(path or site.ledger, hospital=OURS, source="images", identity=site_identity(home), cap=cap)


def shown(home: Path, *charges: Charge) -> dict[str, Any]:
    """What the command says of the plan after these charges."""
    with closing(ledger_of(home)) as ledger:
        for charge in charges:
            ledger.charge(charge)
    result = CliRunner().invoke(app, ["ledger", "show", "--json", "-c", str(home / f"{OURS}.yaml")])
    assert result.exit_code == 0, result.output
    plan: dict[str, Any] = json.loads(result.output)["plan"]
    return plan


def fit(home: Path, like: Charge) -> int:
    """How many more a copy of the ledger takes: the oracle."""
    copy = home / "oracle.sqlite"
    shutil.copy(load_site(home / f"{OURS}.yaml").ledger, copy)
    with closing(ledger_of(home, copy)) as ledger:
        for count in range(100):
            try:
                ledger.charge(replace(like, run="6" * 32, round_number=count + 50))
            except BudgetExceeded:
                return count
    raise AssertionError("the cap has no end")


def counts(home: Path, rule: str, *, kind: Kind = "eval") -> Charge:
    """The noisy counts of a held-out round."""
    return replace(planned(home, "auto")[0], kind=kind, round_number=9, held_out_rule=rule, event=STRONG, clip=1.0)


STRONG = PrivacyEvent(1.0, 2.0, 1)


def test_the_statistics_are_counted_once(home: Path) -> None:
    """Due before the first round; charged, they are in the spending; behind both, one round less is left."""
    statistics, training = planned(home, "auto")
    assert (statistics.kind, training.kind) == ("stat", "train")
    assert shown(home)["rounds_left"] == 2
    # Counted twice they would leave one round.
    assert shown(home, statistics)["rounds_left"] == 2
    assert shown(home, training) == shown(home) | {"rounds_left": 1, "rounds_charged": 1}
    assert fit(home, training) == 1


def test_a_plan_that_goes_on_behind_the_statistics_has_none_to_pay(home: Path) -> None:
    """Another plan's charges do not hold them; the control is the same plan from its beginning."""
    plan = load_settings(home / "plan.yaml", Plan)
    before = Continued(run="5" * 32, round=1, plan="ab" * 32)
    later = plan.model_copy(update={"federation": plan.agreed.model_copy(update={"continues": before})})
    (training,) = planned_charges(later, later.roster[0], held_out_rule="ee" * 32)
    assert (training.kind, training.round_number) == ("train", 2)
    assert len(planned_charges(plan, plan.roster[0], held_out_rule="ee" * 32)) == 2


def test_the_rule_of_the_sites_patients_is_the_one_that_counts(home: Path) -> None:
    """Held-out counts cost the training units nothing under one rule; the control is another column of patients."""
    statistics, training = planned(home, "auto")
    told = shown(home, statistics, training, counts(home, training.held_out_rule))
    assert told["rounds_left"] == fit(home, training) == 1
    site_file = home / f"{OURS}.yaml"
    content = yaml.safe_load(site_file.read_text(encoding="utf-8"))
    site_file.write_text(yaml.safe_dump(content | {"patient_column": "who"}), encoding="utf-8")
    other = planned(home, "who")[1]
    assert other.held_out_rule != training.held_out_rule
    assert shown(home)["rounds_left"] == fit(home, other) == 0


@pytest.mark.parametrize("spoil", ["gone", "blank"])
def test_without_the_data_the_rest_is_shown(home: Path, spoil: str) -> None:
    """What was spent needs no images; how much is left is then not known, and why is said."""
    statistics, training = planned(home, "auto")
    data = load_site(home / f"{OURS}.yaml").data
    if spoil == "gone":
        shutil.rmtree(data)
    else:
        (data / "index.csv").write_text("path,label,Patient ID\n")
    told = shown(home, statistics, training)
    assert (told["rounds_left"], told["rounds_charged"]) == (None, 1)
    assert told["rounds_left_unknown"]
    lines = CliRunner().invoke(app, ["ledger", "show", "-c", str(home / f"{OURS}.yaml")]).output
    assert "left: not known how many rounds of plan 'small', which has 2: " in lines
    assert "2 entries" in lines
