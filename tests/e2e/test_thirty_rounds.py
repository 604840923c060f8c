"""Thirty rounds over Flower, in a third of which a random hospital is killed and started again."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from common.ckks import PRESETS, chunks_for, decode_sum, decode_upload
from common.config import load_settings
from common.plan import Plan
from tests.support.flower_federation import Federation, environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

NAMES = tuple(f"hospital-{k}" for k in range(1, 6))
ROUNDS, KILLS = 30, 10
# Whole hospitals wait until Flower has forgotten their old connection, for over a minute; services come back at once.
WHOLE = 2
LONGEST_ROUND_S = 300.0


@dataclass
class Finished:
    """The run's federation, what it printed, and whom the test killed in which round."""

    federation: Federation
    summary: dict[str, Any] = field(default_factory=dict)
    killed: list[tuple[int, str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """The chance is seeded; where in its work a hospital dies is up to the machine."""
    federation = Federation(
        tmp_path_factory.mktemp("thirty"), NAMES, rounds=ROUNDS, attempts=3, round_timeout_s=60.0, patience_s=600.0
    )
    federation.write()
    for name in NAMES:
        # Flower refuses a node that died for over a minute; its supervisor must not give up before.
        path = federation.folder / name / "site.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"connect_timeout_s": 180.0}))
    done = Finished(federation)
    chance = random.Random(20261122)  # noqa: S311 -- chooses whom to kill
    rounds = sorted(chance.sample(range(2, ROUNDS), KILLS))
    whole = set(chance.sample(rounds, WHOLE))
    try:
        federation.start_all()
        with (federation.folder / "run.out").open("w") as out, (federation.folder / "run.err").open("w") as err:
            argv = [sys.executable, "-m", "server", "run", str(federation.plan_file), "--json"]
            argv += ["--config", str(federation.server_file)]
            run = subprocess.Popen(argv, env=environment(), stdout=out, stderr=err)  # noqa: S603 -- our own command
        federation.processes["run"] = run
        for number in rounds:
            reach(federation, number)
            time.sleep(chance.uniform(0.0, 1.5))
            name = chance.choice(NAMES)
            kill(federation, name, whole=number in whole)
            done.killed.append((number, name, "whole" if number in whole else "service"))
        assert run.wait(timeout=LONGEST_ROUND_S * 3) == 0, (federation.folder / "run.err").read_text()
        federation.processes.pop("run")
        done.summary = json.loads((federation.folder / "run.out").read_text())
        yield done
    finally:
        federation.close()


def reach(federation: Federation, number: int) -> None:
    """Wait until the coordinator is in a round, or behind it."""
    wait_until(lambda: round_of(federation) >= number, f"round {number}", timeout_s=LONGEST_ROUND_S)


def round_of(federation: Federation) -> int:
    """The round that the coordinator is in."""
    found = list((federation.server_file.parent / "work" / "runs").glob("*/progress.json"))
    try:
        return int(json.loads(found[0].read_text())["round"]) if found else 0
    except (OSError, ValueError):
        return 0


def kill(federation: Federation, name: str, *, whole: bool) -> None:
    """SIGKILL to a hospital's service, which its supervisor starts again, or to all that it is."""
    supervisor = psutil.Process(federation.processes[name].pid)
    family = supervisor.children(recursive=True)
    if not whole:
        for process in family:
            # A ClientApp may end between two lines here.
            with contextlib.suppress(psutil.NoSuchProcess):
                if "serve" in process.cmdline():
                    process.kill()
        return
    federation.stop(name, signal.SIGKILL)
    psutil.wait_procs(family, timeout=20)
    federation.start_hospital(name)


def test_every_completed_round_is_the_integer_sum_of_its_survivors(finished: Finished) -> None:
    """Modulo q, word by word; the hospitals kept what they masked and what they got. Skipped rounds have no sum."""
    plan = load_settings(finished.federation.plan_file, Plan)
    parameters, folder = PRESETS[plan.encryption.preset], finished.federation.folder
    chunks, summed = chunks_for(plan.upload_values, parameters), 0
    for number in range(1, ROUNDS + 1):
        holder = next((folder / n for n in NAMES if (folder / n / f"aggregate-{number}.bin").exists()), None)
        if holder is None:
            continue
        entry = json.loads((holder / f"aggregate-{number}.json").read_text())
        names = [survivor["manifest"]["hospital"] for survivor in entry["survivors"]]
        total = decode_sum((holder / f"aggregate-{number}.bin").read_bytes(), chunks, len(names), parameters)
        vectors = [
            decode_upload((folder / name / f"upload-{number}.bin").read_bytes(), chunks, parameters) for name in names
        ]
        expected = sum(vector.words.astype(object) for vector in vectors) % parameters.modulus
        np.testing.assert_array_equal(total.words.astype(object), expected)
        summed += 1
    skipped = sum("is skipped" in line for line in serverapp_log(finished.federation))
    sys.stdout.write(f"{summed} rounds summed, {skipped} skipped; killed: {finished.killed}\n")
    assert summed + skipped == ROUNDS
    assert summed >= ROUNDS - KILLS


def test_all_hospitals_end_alike(finished: Finished) -> None:
    """The chain over all rounds is these hospitals' model, and so their state tag."""
    states = {(finished.federation.folder / name / "applied.json").read_text() for name in NAMES}
    assert len(states) == 1
    assert json.loads(states.pop())["round"] == ROUNDS
    assert len(finished.killed) == KILLS


def serverapp_log(federation: Federation) -> list[str]:
    """What the ServerApp said."""
    (run,) = (federation.server_file.parent / "work" / "runs").iterdir()
    return [line for path in sorted(Path(run).glob("serverapp.log*")) for line in path.read_text().splitlines()]
