"""`fedward demo` as a user runs it: to the end, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from scripts.synthetic import write_synthetic
from tests.support.deployment import command, script, wait_until

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
    assert {"name", "epsilon_spent", "epsilon_budget", "delta"} <= set(report["hospitals"][0])
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


def test_ctrl_c_stops_every_process(small_plan: Path, tmp_path: Path) -> None:
    """Ctrl-C while the federation starts: status, one sentence, no orphan, no work folder."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        demo = subprocess.Popen(  # noqa: S603 -- our own script
            [script("fedward"), "demo", "--plan", str(small_plan), "--hospitals", "3"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            cwd=tmp_path,
        )

    def reads_data() -> bool:
        assert demo.poll() is None, (tmp_path / "log").read_text()
        return "reading data" in (tmp_path / "log").read_text()

    wait_until(reads_data, timeout_s=120, what="hospitals read data")
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) > 5
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=90) != 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    output = (tmp_path / "log").read_text()
    assert "stopped by SIGINT" in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("fedward-*"))


def processes_with(text: str) -> list[int]:
    """Processes whose command line names `text`."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if text in " ".join(process.info["cmdline"] or []) and process.pid != os.getpid()
    ]
