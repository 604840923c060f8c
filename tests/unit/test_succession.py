"""A run goes on after a hospital was revoked, or with one more: real hospitals and the real coordinator, no network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from client.encrypt import SecretKey
from client.hpke import unseal
from client.key_ceremony import epoch_key_name
from client.vault import BOX, Vault
from common.ckks import PRESETS, EncryptedSum, chunks_for, decode_sum
from common.errors import CeremonyError, ConfigError, DecryptionError, OperatorError, PlanError, RunPaused
from common.identity import Identity
from common.key_messages import Deal, box_purpose, decode_document
from common.plan import Plan
from scripts.agree import agree
from scripts.succeed import admit_nodes, succeed
from server.store import Store
from tests.support.cards import make_card
from tests.support.carried_run import CarriedRun, carried_run, store_updates
from tests.support.flower_federation import environment
from tests.support.in_process_grid import as_server_app
from tests.support.site_keys import site_vault
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template
from tests.support.stored_sums import stored_sums
from tests.support.successors import newcomer, succession

ROUNDS, LAST = 4, 2
REVOKED, STAY, NEW = NAMES[1], (NAMES[0], *NAMES[2:]), "hospital-5"


@pytest.fixture(autouse=True)
def server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process send messages."""
    as_server_app(monkeypatch)


SHARED: dict[str, dict[str, Any]] = {"privacy": {"mode": "distributed"}, "encryption": {"preset": "precise"}}


@pytest.mark.parametrize("changes", [{}, SHARED], ids=["local", "distributed"])
@pytest.mark.parametrize(("before", "after"), [(5, 4), (6, 5), (4, 5), (4, 3), (3, 6)])
def test_the_next_plan_is_the_one_that_provision_would_make_for_its_hospitals(
    changes: dict[str, dict[str, Any]], before: int, after: int
) -> None:
    """In both modes: the numbers of the cohort, and the bound that hangs on them. Largest hospitals leave and join."""
    wanted, coordinator = template(training={"rounds": ROUNDS}, **changes), Identity.generate()
    cards = [make_card(f"hospital-{k}", declared_units=10 * k) for k in range(1, max(before, after) + 1)]
    plan = agree(wanted, cards[:before], coordinator)
    leaving = [card.name for card in cards[after:before]]
    following = succeed(plan, run="b" * 32, last_round=LAST, leaving=leaving, joining=cards[before:after])
    fresh = agree(wanted, cards[:after], coordinator)
    assert (following.cohort, following.encryption) == (fresh.cohort, fresh.encryption)
    assert following.encryption.update_norm_bound != plan.encryption.update_norm_bound or not changes


@pytest.fixture(scope="module")
def provisioned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals, in mode `local` unless told otherwise."""
    base, changes = tmp_path_factory.mktemp("base"), getattr(request, "param", {})
    cohort = {"round_timeout_s": 30.0, "attempts": 2}
    provision_small(base, template(training={"rounds": ROUNDS}, cohort=cohort, **changes))
    return base


@pytest.fixture
def paused(provisioned: Path, tmp_path: Path) -> Iterator[CarriedRun]:
    """Their run, paused after two of four rounds."""
    with carried_run(provisioned, tmp_path, rounds=ROUNDS) as run:

        def ask() -> None:
            with closing(Store(run.folder)) as store:
                store.ask_pause(run.run)

        run.at = {LAST: ask}
        with pytest.raises(RunPaused, match=f"paused after round {LAST}, .* {', '.join(NAMES)} hold its model"):
            run.go()
        yield run


def sum_of(run: CarriedRun, number: int) -> EncryptedSum:
    """A round's aggregate."""
    parameters = PRESETS[run.plan.encryption.preset]
    with closing(Store(run.folder)) as store:
        (one,) = stored_sums(store, run.run, number, number)
    return decode_sum(one.body, chunks_for(run.plan.upload_values, parameters), len(one.entry.survivors), parameters)


def models(federation: SmallFederation) -> set[bytes]:
    """The hospitals' models."""
    return {federation.state(name).optimiser.parameters.tobytes() for name in federation.sites}


@pytest.mark.parametrize("provisioned", [{}, SHARED], indirect=True, ids=["local", "distributed"])
def test_the_others_go_on_without_a_revoked_hospital_from_the_model_they_have(
    paused: CarriedRun, tmp_path: Path
) -> None:
    """Its rounds keep their numbers and its rows; a round is trained once."""
    before = paused.federation.state(STAY[0])
    with succession(paused.federation, tmp_path / "next", last_round=LAST, leaving=[REVOKED]) as after:
        store_updates(after, STAY, range(LAST + 1, ROUNDS + 1))
        run = CarriedRun(after, paused.folder)
        run.connect(*STAY)
        run.go()
        assert sorted(run.epochs()) == [3, 4, 5]
        assert [run.outcomes(name) for name in STAY] == [dict.fromkeys((3, 4, 5), "contributed")] * 3
        assert len(models(after)) == 1
        assert sorted(after.storage(STAY[0]).rounds()) == [1, 2, 3, 4, 5]
        home = after.folder / "federation" / STAY[0]
        metrics = json.loads((home / "results" / run.run / "metrics.json").read_text())
        assert [row["round"] for row in metrics["rounds"]] == [1, 2, 3, 4]
        assert (home / "state" / "runs" / paused.run / "finished").exists()
        assert before.applied.round == LAST
        assert not any(r.kind in ("checkpoint", "restore") for _, r in run.seen)


def test_the_vault_of_a_revoked_hospital_opens_nothing_of_later_rounds(paused: CarriedRun, tmp_path: Path) -> None:
    """With its real vault: neither the new deal nor a new sum. Controls: the old sum, and a hospital that stays."""
    old, old_grid = paused.plan, paused.federation.grid
    with succession(paused.federation, tmp_path / "next", last_round=LAST, leaving=[REVOKED]) as after:
        store_updates(after, STAY, range(LAST + 1, ROUNDS + 1))
        run = CarriedRun(after, paused.folder)
        run.connect(*STAY)
        run.go()
        home = after.folder / "federation"
        revoked, stays = site_vault(home / REVOKED), site_vault(home / STAY[0])
        parameters, grid, plan = PRESETS[old.encryption.preset], after.grid, after.plan
        with closing(Store(paused.folder)) as store:
            data = store.deal(plan.digest, plan.agreed.epoch)
        assert data is not None
        deal = decode_document(data, Deal)
        assert REVOKED not in deal.boxes

        def opens(vault: Vault) -> list[str]:
            return [to for to in deal.boxes if _opens(deal, to, vault)]

        assert opens(revoked) == []
        assert opens(stays) == [STAY[0]]
        keys = [name for name in revoked.names() if name.startswith("ckks/")]
        assert keys == [epoch_key_name(old.digest, 1)]
        key = SecretKey.from_bytes(revoked.require(keys[0]), parameters)
        old_sum, new_sum = sum_of(paused, LAST), sum_of(run, LAST + 1)
        assert np.abs(key.decrypt(old_sum, old_grid)).max() > 0
        with pytest.raises(DecryptionError):
            key.decrypt(new_sum, grid)
        new_key = SecretKey.from_bytes(stays.require(epoch_key_name(plan.digest, plan.agreed.epoch)), parameters)
        assert np.abs(new_key.decrypt(new_sum, grid)).max() > 0


def _opens(deal: Deal, to: str, vault: Vault) -> bool:
    info = box_purpose(plan_digest=deal.plan, epoch=deal.epoch, dealer=deal.hospital, to=to)
    try:
        return bool(unseal(bytes.fromhex(deal.boxes[to]), box_secret=vault.require(BOX), info=info))
    except CeremonyError:
        return False


def test_a_hospital_that_joins_late_gets_the_model_sealed(paused: CarriedRun, tmp_path: Path) -> None:
    """It comes a round after the others, whose model has moved on meanwhile: sealed model, then the missed rounds."""
    card = newcomer(paused.federation, NEW)
    with succession(paused.federation, tmp_path / "next", last_round=LAST, joining=[card]) as after:
        store_updates(after, (*NAMES, NEW), range(LAST + 1, ROUNDS + 1))
        run = CarriedRun(after, paused.folder)
        run.connect(*NAMES)
        run.at = {4: lambda: run.connect(NEW)}
        run.go()
        assert [name for name, r in run.seen if r.kind == "restore"] == [NEW]
        assert len(models(after)) == 1
        assert sorted(after.storage(NEW).rounds()) == [3, 4, 5]
        assert set(after.sites) == {*NAMES, NEW}


def test_the_organiser_refuses_what_is_unsound(paused: CarriedRun) -> None:
    """Two of three cannot hide each other's update; nobody leaves twice."""
    plan, run = paused.plan, paused.run
    smaller = succeed(plan, run=run, last_round=LAST, leaving=[REVOKED])
    with pytest.raises(PlanError, match="seen 2 hospitals; at least 3"):
        succeed(smaller, run=run, last_round=LAST, leaving=[STAY[0]])
    with pytest.raises(OperatorError, match=f"seen {REVOKED}, the plan names"):
        succeed(smaller, run=run, last_round=LAST, leaving=[REVOKED])
    with pytest.raises(OperatorError, match="nobody leaves and nobody joins"):
        succeed(plan, run=run, last_round=LAST)
    with pytest.raises(ConfigError, match="at most 3 is allowed, else there is nothing left to train"):
        succeed(plan, run=run, last_round=ROUNDS, leaving=[REVOKED])


def test_what_provision_chose_is_chosen_anew_and_the_rest_stays(paused: CarriedRun) -> None:
    """Four hospitals unmask with three, three of them too; the total of rounds is the same."""
    plan = paused.plan
    after = succeed(plan, run=paused.run, last_round=LAST, leaving=[REVOKED])
    assert (after.threshold, after.min_cohort, after.training.rounds) == (3, 3, ROUNDS)
    assert after.agreed.epoch == plan.agreed.epoch + 1
    assert [h.name for h in after.roster] == list(STAY)
    wider = plan.model_copy(update={"encryption": plan.encryption.model_copy(update={"update_norm_bound": 123.0})})
    assert succeed(wider, run=paused.run, last_round=LAST, leaving=[REVOKED]).update_norm_bound == 123.0


def test_only_gateways_of_the_new_plan_may_connect(paused: CarriedRun) -> None:
    """The coordinator's file is replaced whole."""
    after = succeed(paused.plan, run=paused.run, last_round=LAST, leaving=[REVOKED])
    file = paused.federation.folder / "federation" / "coordinator" / "server.yaml"
    assert REVOKED in file.read_text()
    admit_nodes(after, file)
    assert [node["name"] for node in yaml.safe_load(file.read_text())["nodes"]] == list(STAY)


def test_the_command_admits_a_hospital_that_made_its_keys_with_the_command(provisioned: Path, tmp_path: Path) -> None:
    """`fedward-client keygen`, `fedward join`, `fedward-client approve`, as an organiser and a site do it."""
    root, out, home = tmp_path / "federation", tmp_path / "next", tmp_path / "site"
    shutil.copytree(provisioned, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "shards" / NAMES[3], tmp_path / "shards" / NEW)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program, *rest = words
        argv = [str(Path(sys.executable).parent / program), *rest]
        return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, timeout=120)  # noqa: S603

    made = run("fedward-client", "keygen", NEW, "--site", str(home), "--units", "8")
    assert made.returncode == 0, made.stderr
    config = ("--config", str(root / "coordinator" / "server.yaml"), "--out", str(out))
    where = ("--plan", str(root / "plan.yaml"), "--run", "a" * 32)
    wrong = run("fedward", "join", str(home / "nobody.card.yaml"), *where, "--round", "1", *config)
    assert (wrong.returncode, out.exists()) == (2, False)
    assert "Traceback" not in wrong.stderr
    done = run("fedward", "join", str(home / f"{NEW}.card.yaml"), *where, "--round", "1", *config)
    assert done.returncode == 0, done.stderr
    assert f"goes on after round 1 with {len(NAMES) + 1} hospitals" in done.stdout
    assert f"{NEW} (new): fingerprint" in done.stdout
    plan = Plan.model_validate(yaml.safe_load((out / "plan.yaml").read_text(encoding="utf-8")))
    assert [hospital.name for hospital in plan.roster] == [*NAMES, NEW]
    kit = ("approve", str(out / "kits" / f"{NEW}.kit.zip"), "--site", str(home), "--digest", plan.digest)
    approved = run("fedward-client", *kit, "--data", str(tmp_path / "shards" / NEW), "--cap-epsilon", "8")
    assert approved.returncode == 0, approved.stderr
    assert "the others send it the model, sealed" in approved.stdout
    listed = yaml.safe_load((root / "coordinator" / "server.yaml").read_text(encoding="utf-8"))["nodes"]
    assert NEW in {node["name"] for node in listed}
