"""A site that is killed at any point: no charge that was acknowledged is ever lost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from client.ledger import Ledger
from client.ledger_cap import Cap
from common.identity import Identity

ROOT = Path(__file__).parents[2]

CHARGER = """
import sys, pathlib
from client.accountant import PrivacyEvent
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_entry import Charge
from common.identity import Identity
folder = pathlib.Path(sys.argv[1])
ledger = Ledger(folder / "ledger.sqlite", hospital="h", source="skin", cap=Cap(1e3, 1e-5),
                     identity=Identity.load(folder / "key"))
number = ledger.sequence()
while True:
    number += 1
    asked = Charge(kind="train", run="r", round_number=number, plan_hash="aa", event=PrivacyEvent(1.0, 50.0, 1),
                   clip=1.0, units_digest="bb", held_out_rule="ee", mode="local", shares=1)
    entry = ledger.charge(asked)
    sys.stdout.write(f"{entry.sequence} {entry.hash}\\n")
    sys.stdout.flush()
"""


def charge_until_killed(folder: Path, acknowledgements: int) -> list[str]:
    """Run the charger, kill it with SIGKILL after some lines; the lines that it wrote, whole ones only."""
    command = [sys.executable, "-c", CHARGER, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own code
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
    return [line.strip() for line in lines if line.endswith("\n")]


def check_survival(folder: Path, kills: int) -> None:
    """Kill again and again on one ledger; after each kill every acknowledged entry stands."""
    identity = Identity.generate()
    identity.save(folder / "key")
    acknowledged: list[str] = []
    for kill in range(kills):
        new = charge_until_killed(folder, 1 + kill % 5)
        assert new
        acknowledged += new
        ledger = Ledger(folder / "ledger.sqlite", hospital="h", source="skin", cap=Cap(1e3, 1e-5), identity=identity)
        with contextlib.closing(ledger):
            standing = {f"{entry.sequence} {entry.hash}" for entry in ledger.entries()}
            assert standing.issuperset(acknowledged)
            assert len(standing) <= len(acknowledged) + kill + 1


def test_a_killed_site_loses_no_acknowledged_charge(tmp_path: Path) -> None:
    """At most the one charge in flight stands beyond those: charges are never below releases."""
    check_survival(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills_lose_no_acknowledged_charge(tmp_path: Path) -> None:
    """The same, often enough to hit every point of a commit."""
    check_survival(tmp_path, 200)
