"""`fedward demo` as a user runs it: to the end, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import pytest
import yaml

from scripts.synthetic import write_synthetic
from tests.support.deployment import command, script, wait_until
from tests.support.processes import arguments, processes_with

PLANS = Path(__file__).parents[2] / "configs" / "plans"


@pytest.fixture
def small_plan(tmp_path: Path) -> Path:
    """One round on small images."""
    content = yaml.safe_load((PLANS / "demo.yaml").read_text())
    content["model"] |= {"image_size": 64, "projection": 32}
    content["training"] |= {"rounds": 1}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_demo_ends_with_a_model_a_report_and_no_process(small_plan: Path, tmp_path: Path) -> None:
    """One command: draw, deal, provision, five processes, one model; nothing else is left behind."""
    report_path = tmp_path / "report.json"
    write_synthetic(tmp_path / "images", images_per_class=12, seed=0)
    demo = (
        *("fedward", "demo", "--plan", str(small_plan), "--hospitals", "3", "--json", str(report_path)),
        *("--data", str(tmp_path / "images")),
        *("--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")),
    )
    done = command(*demo, timeout_s=240)
    assert done.returncode == 0, done.stderr
    report = json.loads(report_path.read_text())
    assert [row["round"] for row in report["rounds"]] == [1]
    row = report["rounds"][0]
    assert 0 <= row["balanced_accuracy"] <= 1
    assert 0 <= row["accuracy"] <= 1
    assert row["seconds"] > 0
    assert row["up_bytes"] > 3 * 7_000
    assert {"name", "epsilon_spent", "epsilon_spent_if_all_others_collude", "epsilon_budget", "delta"} <= set(
        report["hospitals"][0]
    )
    assert all(0 < h["epsilon_spent"] <= h["epsilon_budget"] for h in report["hospitals"])
    assert "synthetic" in done.stdout
    assert "not covered yet" in done.stdout
    results = Path(report["results"])
    assert (results / "model.safetensors").exists()
    assert (results / "metrics.json").exists()
    assert (results / "config" / "hospital-1" / "hospital-1.yaml").exists()
    assert (results / "logs" / "hospital-1" / "site.log").exists()
    assert not list(results.rglob("*.key"))
    assert not processes_with(str(tmp_path / "work"))

    again = command(*demo, timeout_s=240)
    assert again.returncode == 2
    assert "epsilon" in again.stderr
    assert "> cap" in again.stderr
    assert not processes_with(str(tmp_path / "work"))


@dataclass(frozen=True)
class RunningDemo:
    """A demo in the background; what it prints is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path
    results: Path

    @classmethod
    def start(cls, folder: Path, *options: str) -> Self:
        """Three hospitals; temporary files and the results folder lie in `folder`."""
        log, results = folder / "log", folder / "results"
        with log.open("w") as output:
            process = subprocess.Popen(  # noqa: S603 -- our own script
                [script("fedward"), "demo", "--hospitals", "3", "--results", str(results), *options],
                stdout=output,
                stderr=output,
                env=os.environ | {"TMPDIR": str(folder)},
                start_new_session=True,
                cwd=folder,
            )
        return cls(process, log, results)

    def until_said(self, text: str) -> None:
        """Wait until the demo has printed `text`."""

        def said() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return text in self.log.read_text()

        wait_until(said, timeout_s=200, what=f"the demo prints {text!r}")

    def children(self) -> list[psutil.Process]:
        """All that it has started and that runs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, *words: str) -> psutil.Process:
        """The one process of our environment whose arguments hold all `words`, or end with them."""
        found = [c for c in self.children() if all(any(a.endswith(w) for a in arguments(c)) for w in words)]
        assert len(found) == 1, found
        return found[0]


def test_ctrl_c_stops_every_process(small_plan: Path, tmp_path: Path) -> None:
    """Ctrl-C while the federation starts: status, one sentence, no orphan, no work folder."""
    demo = RunningDemo.start(tmp_path, "--plan", str(small_plan))
    demo.until_said("reading data")
    children = demo.children()
    assert len(children) > 5
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(timeout=90) != 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    output = demo.log.read_text()
    assert "stopped by SIGINT" in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("fedward-*"))
    assert not demo.results.exists()


def test_a_site_and_the_coordinator_that_are_killed_cost_neither_the_run_nor_budget(
    small_plan: Path, tmp_path: Path
) -> None:
    """Each is started again; the round that it died in is answered and paid for once, by all: fewer are no cohort."""
    write_synthetic(tmp_path / "images", images_per_class=12, seed=0)
    options = ("--plan", str(small_plan), "--rounds", "2", "--data", str(tmp_path / "images"))
    demo = RunningDemo.start(tmp_path, *options, "--work", str(tmp_path / "work"))
    try:
        demo.until_said("coordinator: round 1 of 2")
        demo.child("service", "hospital-1.yaml").kill()
        demo.until_said("coordinator: round 2 of 2")
        children = demo.children()
        demo.child("fedward-server", "start").kill()
        assert demo.process.wait(timeout=200) == 0, demo.log.read_text()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert not processes_with(str(tmp_path / "work"))
    finally:
        demo.process.kill()
        demo.process.wait()
    (path,) = demo.results.glob("demo-*")
    report = json.loads((path / "metrics.json").read_text())
    assert [row["contributors"] for row in report["rounds"]] == 2 * [["hospital-1", "hospital-2", "hospital-3"]]
    assert len({hospital["epsilon_spent"] for hospital in report["hospitals"]}) == 1
    assert "site died: was ended by SIGKILL" in (path / "logs" / "hospital-1" / "start.log").read_text()
    assert "coordinator: died (was ended by SIGKILL" in demo.log.read_text()
