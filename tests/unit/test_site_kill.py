"""Site services that are killed at any moment: charges are never below releases, ledgers verify, all come back."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import parse_settings
from common.plan import Plan
from tests.support.in_process import Coordinator
from tests.support.in_process_grid import as_server_app
from tests.support.killed_sites import KilledSites
from tests.support.killer import Hit
from tests.support.site_nursery import Nursery
from tests.support.small_federation import NAMES, TEMPLATE, SmallFederation, provision_small, template

OURS = NAMES[0]
REQUESTS = 40
"""A run of two training rounds among four hospitals asks at least so many times."""


def provisioned(folder: Path) -> Path:
    """A federation whose hospitals allow spending for many runs."""
    return allowing(folder, template(privacy={"epsilon": 2.0}), metrics="aggregate")


def of_all_kinds(folder: Path) -> Path:
    """One that takes statistics, trains twice, and closes with noisy counts: each of them is charged."""
    content: dict[str, Any] = {
        **TEMPLATE,
        "model": {"kind": "lite0-head", "image_size": 64, "views": 1, "projection": 16, "seed": 0},
        "privacy": {**TEMPLATE["privacy"], "epsilon": 2.0, "mean_share": 0.12},
    }
    return allowing(folder, parse_settings(yaml.safe_dump(content), Plan, source="plan"), metrics="final-dp")


def allowing(folder: Path, plan: Plan, *, metrics: str) -> Path:
    """A federation with a plan, and caps that no test reaches."""
    provision_small(folder, plan, metrics=metrics)
    for name in NAMES:
        path = folder / "federation" / name / f"{name}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        content["privacy"]["cap_epsilon"] = 1000.0
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where services come from."""
    with Nursery() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    as_server_app(monkeypatch)


def carry_runs(sites: KilledSites, *, runs: int, kills: int) -> dict[str, object]:
    """Runs with `kills` deaths each, checked after each of them, and one more without; what was seen."""
    began, tries = time.monotonic(), Counter[int]()
    for number in range(1, runs + 1):
        run = secrets.token_hex(16)
        tries[sites.go(run, kills=kills, requests=REQUESTS)] += 1
        sites.check()
        assert sites.last_tags(run) == {("observed", "")}
        sys.stderr.write(f"{number} runs, {len(sites.killer.hits)} kills, {time.monotonic() - began:.0f} s\n")
    run = secrets.token_hex(16)
    sites.go(run, kills=0, requests=REQUESTS)
    sites.check()
    rounds = list(range(1, sites.plan.last_round + 1))
    assert sites.contributed(run) == dict.fromkeys(NAMES, rounds)
    hits = sites.killer.hits
    released = {name: Counter(kind for _, _, kind in keys) for name, keys in sites.releases.needed.items()}
    return {
        "runs": runs,
        "kills": len(hits),
        "during": Counter(hit.during for hit in hits),
        "after_request": Counter(hit.kind for hit in hits),
        "tries": tries,
        "released": released,
        "charged": {name: sites.charges(name) for name in NAMES},
        "uploads": sum(map(len, sites.releases.integers.values())),
        "refusals": {f"{kind} {code}": n for (kind, code), n in sites.refusals.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def test_sites_that_are_killed_charge_what_they_release_and_come_back(tmp_path: Path, nursery: Nursery) -> None:
    """Real services with real ledgers, masks and encryption, killed some times in one run."""
    with KilledSites(provisioned(tmp_path), nursery) as sites:
        carry_runs(sites, runs=1, kills=3)
        assert len(sites.killer.hits) >= 3
        # A round each in two runs of two: who was killed may have sat one of the first run out, and paid nothing then.
        assert all(2 <= sites.charges(name)["train"] <= 4 for name in NAMES)


def test_statistics_and_noisy_counts_are_charged_before_they_leave(tmp_path: Path, nursery: Nursery) -> None:
    """As training is, under kills; the run without kills releases and charges every kind at every hospital."""
    with KilledSites(of_all_kinds(tmp_path), nursery) as sites:
        carry_runs(sites, runs=1, kills=2)
        assert len(sites.killer.hits) >= 2
        for name in NAMES:
            least = {"stat": 1, "train": 2, "eval": 1}
            assert all(least[kind] <= count <= 2 * least[kind] for kind, count in sites.charges(name).items())
            assert sites.charges(name).keys() == least.keys()


def test_statistics_and_counts_without_a_charge_are_seen(tmp_path: Path, nursery: Nursery) -> None:
    """The control: ledgers whose charges are not on the disk."""
    with KilledSites(of_all_kinds(tmp_path), nursery, flaw="forgets-charges") as sites:
        sites.go(secrets.token_hex(16), kills=0, requests=REQUESTS)
        with pytest.raises(AssertionError, match="hospital-1 released without a charge: eval, stat, train, train"):
            sites.check()


def reported_kills(sites: KilledSites, *, runs: int) -> list[Hit]:
    """Carry runs with five kills each and print what was seen; the kills."""
    sys.stderr.write(json.dumps(carry_runs(sites, runs=runs, kills=5)) + "\n")
    return sites.killer.hits


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_forty_kills_in_eight_runs_with_all_kinds_of_charges(tmp_path: Path, nursery: Nursery) -> None:
    """Statistics, training and noisy counts."""
    with KilledSites(of_all_kinds(tmp_path), nursery) as sites:
        hits = reported_kills(sites, runs=8)
    assert len(hits) >= 40
    assert {hit.kind for hit in hits} >= {"stat", "train", "unmask"}


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_two_hundred_kills_in_forty_runs(tmp_path: Path, nursery: Nursery) -> None:
    """At moments spread over all that a site does, its start included."""
    with KilledSites(provisioned(tmp_path), nursery) as sites:
        hits = reported_kills(sites, runs=40)
    assert len(hits) >= 200
    assert {hit.during for hit in hits} == {"answering", "waiting", "starting"}
    assert {hit.kind for hit in hits} >= {"hello", "keys", "train", "unmask", "eval"}


def three_attempts(sites: KilledSites) -> None:
    """Ask hospital-1 for its update in three attempts, and kill it after each."""
    federation = SmallFederation(sites.folder, sites.plan, Coordinator(sites.plan, sites.identity))
    federation.opened(1)
    answer, replies = partial(sites.answer, OURS), []
    for attempt in range(3):
        federation.freshen(OURS, answer)
        frame = federation.frame("train", 1, OURS, attempt=attempt)
        replies.append(answer(frame))
        assert federation.reply(replies[-1]).body
        assert {answer(frame) for _ in range(9)} == {replies[-1]}
        sites.restart(OURS)
        assert answer(federation.frame("train", 1, OURS, attempt=attempt)) == replies[-1]
    assert len(set(replies)) == 3
    # An earlier attempt: its bytes are still there.
    assert answer(federation.frame("train", 1, OURS, attempt=0)) == replies[0]


def test_a_round_that_is_asked_for_again_and_again_is_charged_once(tmp_path: Path, nursery: Nursery) -> None:
    """Through the socket: ten times the same bytes, also of a service that was killed; three attempts, one charge."""
    with KilledSites(provisioned(tmp_path), nursery, names=[OURS]) as sites:
        three_attempts(sites)
        assert sites.charges(OURS) == {"train": 1}
        sites.check()  # the three held the same integers


@pytest.mark.parametrize(
    ("flaw", "seen"),
    [("forgets-charges", "released without a charge: train"), ("trains-again", "3 different updates left")],
)
def test_a_site_that_releases_too_much_is_seen(tmp_path: Path, nursery: Nursery, flaw: str, seen: str) -> None:
    """The control: a ledger whose charges are not on the disk, and a site that trains again under a standing charge."""
    with KilledSites(provisioned(tmp_path), nursery, flaw=flaw, names=[OURS]) as sites:
        with contextlib.suppress(AssertionError):
            three_attempts(sites)
        with pytest.raises(AssertionError, match=seen):
            sites.check()
