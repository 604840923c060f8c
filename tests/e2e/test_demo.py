"""`fedward demo` as a user runs it: to the end, through two deaths, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from scripts.synthetic import write_synthetic
from tests.support.deployment import command, script, wait_until
from tests.support.processes import arguments, processes_with
from tests.support.small_plan import write_small_plan

NAMES = ["hospital-1", "hospital-2", "hospital-3"]
ROUNDS = 2


@dataclass(frozen=True)
class RunningDemo:
    """A demo in the background; what it says while it runs is in `log`, its report in `out`."""

    process: subprocess.Popen[bytes]
    log: Path
    out: Path

    @classmethod
    def start(cls, folder: Path, words: tuple[str, ...]) -> Self:
        """Temporary files lie in `folder`."""
        log, out = folder / "log", folder / "out"
        with log.open("w") as errors, out.open("w") as output:
            process = subprocess.Popen(  # noqa: S603 -- our own script
                [script(words[0]), *words[1:]],
                stdout=output,
                stderr=errors,
                env=os.environ | {"TMPDIR": str(folder)},
                start_new_session=True,
                cwd=folder,
            )
        return cls(process, log, out)

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


@dataclass(frozen=True)
class Ended:
    """A demo that ended by itself.

    Args:
        words: Its command line.
        demo: What it printed.
        report: What `--json` holds.
        left: Processes that it left behind.
    """

    words: tuple[str, ...]
    demo: RunningDemo
    report: dict[str, Any]
    left: list[int]

    @property
    def results(self) -> Path:
        """The folder of its results."""
        return Path(self.report["results"])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Round 1: a site is killed. Round 2: the coordinator. Nobody does anything about it."""
    folder = tmp_path_factory.mktemp("demo")
    write_synthetic(folder / "images", images_per_class=12, seed=0)
    words = (
        *("fedward", "demo", "--plan", str(write_small_plan(folder / "plan.yaml", rounds=1)), "--rounds", str(ROUNDS)),
        *("--hospitals", str(len(NAMES)), "--data", str(folder / "images"), "--json", str(folder / "report.json")),
        *("--results", str(folder / "results"), "--work", str(folder / "work")),
    )
    demo = RunningDemo.start(folder, words)
    try:
        demo.until_said(f"coordinator: round 1 of {ROUNDS}")
        demo.child("service", "hospital-1.yaml").kill()
        demo.until_said(f"coordinator: round 2 of {ROUNDS}")
        children = demo.children()
        demo.child("fedward-server", "start").kill()
        assert demo.process.wait(timeout=200) == 0, demo.log.read_text()
        _, alive = psutil.wait_procs(children, timeout=5)
        left = [*(process.pid for process in alive), *processes_with(str(folder / "work"))]
    finally:
        demo.process.kill()
        demo.process.wait()
    return Ended(words, demo, json.loads((folder / "report.json").read_text()), left)


def test_the_demo_ends_with_a_model_a_report_and_no_process(ended: Ended) -> None:
    """One command: deal, provision, five processes, one model; nothing else is left behind."""
    report, results, printed = ended.report, ended.results, ended.demo.out.read_text()
    assert [row["round"] for row in report["rounds"]] == list(range(1, ROUNDS + 1))
    for row in report["rounds"]:
        assert 0 <= row["balanced_accuracy"] <= 1
        assert 0 <= row["accuracy"] <= 1
        assert row["seconds"] > 0
        assert row["up_bytes"] > 3 * 7_000
    assert {"name", "epsilon_spent", "epsilon_spent_if_all_others_collude", "epsilon_budget", "delta"} <= set(
        report["hospitals"][0]
    )
    assert all(0 < h["epsilon_spent"] <= h["epsilon_budget"] for h in report["hospitals"])
    assert "synthetic" in printed
    assert "not covered yet" in printed
    assert (results / "model.safetensors").exists()
    assert (results / "metrics.json").exists()
    assert (results / "config" / "hospital-1" / "hospital-1.yaml").exists()
    assert (results / "logs" / "hospital-1" / "site.log").exists()
    assert not list(results.rglob("*.key"))
    assert ended.left == []


def test_a_site_and_the_coordinator_that_are_killed_cost_neither_the_run_nor_budget(ended: Ended) -> None:
    """Each is started again; the round that it died in is answered and paid for once, by all: fewer are no cohort."""
    report = json.loads((ended.results / "metrics.json").read_text())
    assert [row["contributors"] for row in report["rounds"]] == ROUNDS * [NAMES]
    assert len({hospital["epsilon_spent"] for hospital in report["hospitals"]}) == 1
    assert "site died: was ended by SIGKILL" in (ended.results / "logs" / "hospital-1" / "start.log").read_text()
    assert "coordinator: died (was ended by SIGKILL" in ended.demo.log.read_text()


def test_a_second_demo_with_the_same_ledgers_is_refused(ended: Ended) -> None:
    """The first one has spent what the caps allow."""
    again = command(*ended.words, timeout_s=240)
    assert again.returncode == 2
    assert "epsilon" in again.stderr
    assert "> cap" in again.stderr
    assert not processes_with(ended.words[-1])


def test_ctrl_c_stops_every_process(tmp_path: Path) -> None:
    """Ctrl-C while the federation starts: status, one sentence, no orphan, no work folder."""
    results = tmp_path / "results"
    words = (
        "fedward",
        "demo",
        "--plan",
        str(write_small_plan(tmp_path / "plan.yaml", rounds=1)),
        "--hospitals",
        "3",
        "--results",
        str(results),
    )
    demo = RunningDemo.start(tmp_path, words)
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
    assert not results.exists()
