"""What `fedward demo` does around its run: what it refuses before, and what it keeps after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torchvision
import yaml
from safetensors.torch import save_file

from common.config import load_settings
from common.errors import BudgetExceeded, DataError, DeploymentError, FedwardError, OperatorError, PlanError
from common.plan import Plan
from common.site_config import load_site
from scripts.demo import Prepared, deliver, prepare, run_demo
from scripts.demo_data import adapt
from scripts.demo_options import DemoOptions
from scripts.demo_run import FinishedRun
from scripts.demo_work import WorkFolder
from server.store import Store
from tests.support.deployment import wait_until
from tests.support.processes import arguments
from tests.support.small_federation import TEMPLATE, write_images

REPOSITORY = Path(__file__).parents[2]
RUN = "ab" * 16
ALONE = "epsilon_spent_if_all_others_collude"


def demo_options(folder: Path) -> DemoOptions:
    """Three hospitals, a tiny network, images in `folder`/images."""
    plan = folder / "plan.yaml"
    plan.write_text(yaml.safe_dump(TEMPLATE))
    if not (folder / "images").exists():
        write_images(folder / "images" / "Train", per_class=12, seed=0)
    return DemoOptions(
        data=folder / "images",
        mapping=None,
        sites=None,
        weights=None,
        plan=plan,
        hospitals=3,
        rounds=None,
        epsilon=None,
        seed=0,
        work=folder / "work",
        results=folder / "results",
        keep=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoOptions, Prepared]:
    """A work folder of an earlier demo."""
    options = demo_options(tmp_path_factory.mktemp("demo"))
    assert options.work is not None
    return options, prepare(options, options.work)


@pytest.fixture
def finished(made: tuple[DemoOptions, Prepared], tmp_path: Path) -> Prepared:
    """A federation whose run ended: its store, and a hospital's results with a model that is none."""
    _, prepared = made
    folder = tmp_path / "work" / "federation"
    shutil.copytree(prepared.folder, folder)
    (folder / "coordinator" / "work").mkdir()
    with contextlib.closing(Store(folder / "coordinator" / "work")) as store:
        store.begin(RUN, plan_digest=prepared.plan.digest, plan_json="{}", now=0.0)
    results = folder / "hospital-1" / "results" / RUN
    results.mkdir(parents=True)
    (results / "model.safetensors").write_bytes(b"no model")
    (results / "metrics.json").write_text(json.dumps({"privacy": {"unit": "image", ALONE: 9.5}, "rounds": []}))
    shutil.copy(folder / "plan.yaml", results)
    return replace(prepared, folder=folder)


@pytest.mark.parametrize("place", ["file", "file/results", "/proc/fedward"])
def test_results_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path, place: str) -> None:
    """A demo of minutes must not end in a folder that was wrong from the start."""
    (tmp_path / "file").write_text("")
    options = demo_options(tmp_path)
    with pytest.raises(OperatorError, match=r"--results .*: cannot be written"):
        run_demo(replace(options, results=tmp_path / place))
    assert not (tmp_path / "work").exists()


def test_a_results_folder_that_is_fine_is_tried_without_a_trace(made: tuple[DemoOptions, Prepared]) -> None:
    """The control: the demo was prepared, and its results folder is made at the end only."""
    options, prepared = made
    assert (prepared.folder / "plan.yaml").exists()
    assert not options.results.exists()


def test_a_plan_with_numbers_for_more_hospitals_is_refused_before_any_work(tmp_path: Path) -> None:
    """Not after the images are drawn and dealt; the control is the fixture, whose plan says `auto`."""
    options = demo_options(tmp_path)
    options.plan.write_text(yaml.safe_dump({**TEMPLATE, "cohort": {**TEMPLATE["cohort"], "threshold": 4}}))
    with pytest.raises(PlanError, match=r"^cohort\.threshold: seen 4 with 3 hospitals .*; only 3 is allowed: "):
        run_demo(options)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("wrong", ["another class", "no image", "no folder"])
def test_a_test_folder_that_cannot_be_scored_is_refused_before_any_work(tmp_path: Path, wrong: str) -> None:
    """The finished model would have been scored on it after minutes."""
    options = demo_options(tmp_path)
    if wrong == "another class":
        write_images(tmp_path / "images" / "Test", per_class=1, seed=9)
        (tmp_path / "images" / "Test" / "light").rename(tmp_path / "images" / "Test" / "bright")
    else:
        (tmp_path / "images" / "Test" / ("dark" if wrong == "no image" else "")).mkdir(parents=True)
    with pytest.raises(DataError, match="the official test folder cannot be scored: "):
        run_demo(options)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "--seed 0, seen 1;"),
        ({"hospitals": 4}, "--hospitals 3, seen 4;"),
        ({"rounds": 3}, "--rounds, else the plan's, 2, seen 3;"),
        ({"epsilon": 4.0}, "--epsilon, else the plan's, 8.0, seen 4.0;"),
        ({"data": None}, "--data, --mapping or --sites .*/images, seen synthetic;"),
    ],
)
def test_a_work_folder_is_not_used_with_other_options(
    made: tuple[DemoOptions, Prepared], change: dict[str, Any], said: str
) -> None:
    """What is reported would be another experiment than what was asked for."""
    options, prepared = made
    with pytest.raises(OperatorError, match=f"was made with {said} repeat the options"):
        prepare(replace(options, **change), prepared.folder.parent)


def test_a_work_folder_is_not_used_with_another_plan(made: tuple[DemoOptions, Prepared], tmp_path: Path) -> None:
    """Even where rounds and epsilon are the same."""
    options, prepared = made
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**TEMPLATE, "training": {**TEMPLATE["training"], "learning_rate": 0.25}}))
    with pytest.raises(OperatorError, match=r"--plan of digest [0-9a-f]{64}, seen [0-9a-f]{64};"):
        prepare(replace(options, plan=other), prepared.folder.parent)


def test_a_work_folder_is_used_again_with_the_same_options(made: tuple[DemoOptions, Prepared]) -> None:
    """The control: the same federation, and the stored options in the report; the plan's own rounds may be named."""
    options, prepared = made
    again = prepare(replace(options, rounds=2), prepared.folder.parent)
    assert again == prepared
    assert again.made_with.data == str(options.data)


def test_a_federation_without_options_is_not_used(finished: Prepared, tmp_path: Path) -> None:
    """Nobody knows what made it."""
    with pytest.raises(OperatorError, match=r"no demo\.json that tells which options made it"):
        prepare(demo_options(tmp_path), finished.folder.parent)


def temporary_work(*, keep: bool, error: FedwardError | None) -> Path:
    """A temporary work folder with a log, a key and an image, left with or without an error."""
    with contextlib.suppress(FedwardError), WorkFolder(None, keep=keep) as work:
        for name in ("federation/site/state/site.log", "federation/site/ckks.key", "shards/x.jpg"):
            (work.path / name).parent.mkdir(parents=True, exist_ok=True)
            (work.path / name).write_text(name)
        if error is not None:
            raise error
    return work.path


def names(folder: Path) -> list[str]:
    """What is left, folders without a file left out."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_logs_of_a_demo_that_failed_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names one of them; keys and images do not stay with them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = temporary_work(keep=False, error=DeploymentError("x; its log is y"))
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*.log")] == ["federation/site/state/site.log"]
    assert names(folder) == ["site.log"]
    assert not (folder / "shards").exists()
    assert f"logs kept: {folder}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [None, OperatorError("stopped by SIGINT"), BudgetExceeded("x")])
def test_nothing_else_stays_of_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: FedwardError | None
) -> None:
    """It holds the keys of all hospitals."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert not temporary_work(keep=False, error=error).exists()


def test_keep_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an error."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert names(temporary_work(keep=True, error=DeploymentError("x"))) == ["ckks.key", "site.log", "x.jpg"]


def test_a_score_that_fails_at_the_end_does_not_lose_the_run(finished: Prepared, tmp_path: Path) -> None:
    """The test folder may have gone, or the memory for it: the model is there, and the report says why no score is."""
    work = WorkFolder(tmp_path / "work", keep=False)
    finished = replace(finished, test=tmp_path / "Test")
    report = deliver(finished, FinishedRun(RUN, {}), work, results=tmp_path / "results", started=time.monotonic())
    assert "official_test" not in report
    assert "the official test folder could not be scored: " in report["notes"][-1]
    target = tmp_path / "results" / f"small-{RUN[:8]}"
    assert report["results"] == str(target)
    assert json.loads((target / "metrics.json").read_text()) == report
    # Of each hospital's own results; the others of this federation have none.
    assert [hospital[ALONE] for hospital in report["hospitals"]] == [9.5, None, None]
    assert (target / "model.safetensors").read_bytes() == b"no model"
    assert (target / "config" / "hospital-1" / "hospital-1.yaml").exists()
    assert not list(target.rglob("*.key"))


def test_results_that_cannot_be_written_at_the_end_stay_with_the_hospitals(finished: Prepared, tmp_path: Path) -> None:
    """The disk may fill up meanwhile: the sentence says where the model lies, and that folder stays."""
    (tmp_path / "results").write_text("")
    work = WorkFolder(tmp_path / "work", keep=False)
    with pytest.raises(OperatorError, match=f"results could not be collected: .*stays in {finished.folder}$"):
        deliver(finished, FinishedRun(RUN, {}), work, results=tmp_path / "results", started=time.monotonic())
    assert work.keep


DRIVER = """
import asyncio, sys
from pathlib import Path
from scripts.demo_run import start_tied
async def main():
    process = await start_tied(("sleep", "600"), Path(sys.argv[1]))
    print(process.pid, flush=True)
    await process.wait()
asyncio.run(main())
"""


def test_a_demo_that_is_killed_takes_the_command_of_its_run_with_it(tmp_path: Path) -> None:
    """Nobody is left to stop it."""
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "log")]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603 -- our own interpreter
        assert demo.stdout is not None
        guard = psutil.Process(int(demo.stdout.readline()))
        try:
            wait_until(
                lambda: [arguments(child) for child in guard.children()] == [["sleep", "600"]],
                timeout_s=30,
                what="the command runs",
            )
            processes = [guard, *guard.children()]
            demo.kill()
            demo.wait()
            assert psutil.wait_procs(processes, timeout=10)[1] == []
        finally:
            demo.kill()
            with contextlib.suppress(psutil.NoSuchProcess):
                guard.kill()


def test_a_demo_of_a_network_takes_its_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All hospitals hold it; a missing or another one is refused before anything is made."""
    weights, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    state = torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()
    save_file(state, weights)
    save_file({"a": state["fc.bias"]}, other)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    options = replace(demo_options(tmp_path), weights=weights)
    assert options.work is not None
    options.plan.write_text(yaml.safe_dump({**TEMPLATE, "model": network(digest, "torchvision:shufflenet_v2_x0_5")}))
    for wrong, sentence in ((None, f"--weights: seen none; .*{digest}"), (other, "has sha256")):
        with pytest.raises((OperatorError, DataError), match=sentence):
            prepare(replace(options, weights=wrong), options.work)
        assert not options.work.exists()
    made = prepare(options, options.work)
    named = load_site(made.folder / "hospital-1" / "hospital-1.yaml").weights
    assert named is not None
    assert named.samefile(weights)
    assert made.weights == weights
    capsys.readouterr()


def test_a_demo_of_a_network_without_a_seed_keeps_it_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--seed is the drawing's; the control is a network from random weights, which takes it."""
    options = replace(demo_options(tmp_path), seed=7)
    for model, seed in (
        (network(None, "lite0"), None),
        ({**network(None, "torchvision:shufflenet_v2_x0_5"), "trainable": "all", "seed": 0}, 7),
    ):
        options.plan.write_text(yaml.safe_dump({**TEMPLATE, "model": model}))
        adapted = adapt(load_settings(options.plan, Plan), options, ())
        assert adapted.model.model_dump()["seed"] == seed
    capsys.readouterr()


def network(digest: str | None, architecture: str) -> dict[str, Any]:
    """A plan's section."""
    return {
        "kind": "network",
        "architecture": architecture,
        "weights_sha256": digest,
        "trainable": "head",
        "image_size": 64,
        "views": 1,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
