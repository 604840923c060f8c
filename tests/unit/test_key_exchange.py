"""The coordinator's part of the key ceremony, with real hospitals on a grid without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from common.errors import KeyMissing
from common.identity import Identity
from common.key_messages import Confirmation, dealer_of, encode_document, sign_document
from common.request_frames import decode_request
from server.history import StoredHistory
from server.mask_store import MaskStore
from server.one_by_one import OneByOneGrid
from server.progress import Progress, ProgressFile
from server.requests import RequestWriter
from server.steps import steps_after
from server.store import Store
from server.strategy import SecureAggregation
from tests.support.in_process_grid import Answer, InProcessGrid, as_server_app
from tests.support.site_keys import forget_key, site_identity
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFederation]:
    """Four hospitals that were never dealt a key, of which three are enough."""
    as_server_app(monkeypatch)
    plan = template(training={"rounds": 2}, cohort={"round_timeout_s": 30.0, "attempts": 1})
    provision_small(tmp_path / "base", plan)
    for name in NAMES:
        home = tmp_path / "base" / "federation" / name
        forget_key(home)
        site_file = home / f"{name}.yaml"
        # Several runs are carried here; the cap pays for one.
        site_file.write_text(site_file.read_text().replace("cap_epsilon: 8.0", "cap_epsilon: 100.0"))
    with SmallFederation.copy_of(tmp_path / "base", tmp_path / "run") as up:
        yield up


def carry(federation: SmallFederation, sites: dict[str, Answer], folder: Path, run: str) -> dict[int, dict[str, str]]:
    """Carry a run with these hospitals connected; what each did, by round."""
    plan = federation.plan
    with closing(Store(folder)) as store, closing(MaskStore(folder, run)) as masks:
        store.begin(run, plan_digest=plan.digest, plan_json="{}", now=1.0)
        identity = Identity.load(federation.folder / "federation" / "coordinator" / "identity.key")
        writer = RequestWriter(plan, run, identity.sign, StoredHistory(store, masks, run))
        steps, grid = steps_after(plan, 0), OneByOneGrid(InProcessGrid(dict(sites)))
        progress = ProgressFile(folder, Progress(run, plan.name, plan.training.rounds))
        strategy = SecureAggregation(
            writer, steps, grid=grid, store=store, masks=masks, progress=progress, connect_timeout_s=0.0
        )
        strategy.start(cast(Grid, grid), ArrayRecord(), num_rounds=len(steps), timeout=plan.cohort.round_timeout_s)
        return {e.round: {o.hospital: o.outcome for o in e.outcomes} for e in store.exchanges(run) if e.kind == "train"}


def answers(federation: SmallFederation, *names: str) -> dict[str, Answer]:
    """The hospitals that are connected."""
    return {name: federation.sites[name].answer for name in names}


def test_a_run_without_a_key_begins_with_the_ceremony(federation: SmallFederation, tmp_path: Path) -> None:
    """No attempt is spent on it: the plan has one."""
    rounds = carry(federation, answers(federation, *NAMES), tmp_path, "a" * 32)
    assert rounds == {1: dict.fromkeys(NAMES, "contributed"), 2: dict.fromkeys(NAMES, "contributed")}


def following(federation: SmallFederation, dealer: str) -> int:
    """The first epoch that another hospital deals."""
    return next(e for e in range(2, 99) if dealer_of(federation.plan.digest, NAMES, epoch=e) != dealer)


def test_a_latecomer_gets_the_key_although_the_dealer_is_away(federation: SmallFederation, tmp_path: Path) -> None:
    """Its sealed box was kept by the coordinator. Before any key was dealt, the next epoch has another dealer."""
    dealer = dealer_of(federation.plan.digest, NAMES, epoch=1)
    late = next(name for name in NAMES if name != dealer)
    others = [name for name in NAMES if name != dealer]
    first = carry(federation, answers(federation, *others), tmp_path, "a" * 32)
    assert first[1] == dict.fromkeys(others, "contributed") | {dealer: "absent"}
    assert federation.sites[late]._keys.held() == (following(federation, dealer),)
    carry(federation, answers(federation, *[n for n in NAMES if n != late]), tmp_path, "b" * 32)
    with pytest.raises(KeyMissing):
        federation.sites[late]._keys.epoch(1)
    rounds = carry(federation, answers(federation, *others), tmp_path, "c" * 32)
    assert rounds[1] == dict.fromkeys(others, "contributed") | {dealer: "absent"}


def test_one_hospital_that_lies_about_its_key_stops_nobody_who_has_it(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """It says in every exchange that it has no key, and confirms one of its own making."""
    dealer = dealer_of(federation.plan.digest, NAMES, epoch=1)
    liar = next(name for name in NAMES if name != dealer)
    carry(federation, answers(federation, *NAMES), tmp_path, "a" * 32)
    plan, identity = federation.plan, site_identity(federation.folder / "federation" / liar)
    asked: list[str] = []

    def lie(frame: bytes) -> bytes:
        kind = decode_request(frame, plan.agreed.coordinator).request.kind
        asked.append(kind)
        if kind not in ("open", "confirm"):
            raise KeyMissing("never heard of it")
        made_up = Confirmation(plan=plan.digest, epoch=plan.agreed.epoch, hospital=liar, key="0" * 64)
        return encode_document(sign_document(made_up, identity.sign))

    rounds = carry(federation, answers(federation, *NAMES) | {liar: lie}, tmp_path, "b" * 32)
    honest = dict.fromkeys([name for name in NAMES if name != liar], "contributed")
    assert rounds == {1: honest | {liar: "failed"}, 2: honest | {liar: "failed"}}
    # Believed three times, and no more.
    assert asked.count("open") == 3
