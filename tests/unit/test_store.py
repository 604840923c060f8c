"""The coordinator's store survives kills and full disks, and says so."""

from __future__ import annotations

import functools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from common.config import parse_settings
from common.errors import ConfigError, StoreError
from common.plan import Plan
from common.request_frames import decode_request
from common.wire import header_bytes
from server.aggregate import Aggregate, skipped
from server.database import VERSION, Database
from server.history import StoredHistory
from server.mask_store import MaskStore
from server.requests import RequestWriter
from server.steps import Rounds, Step, steps_after
from server.store import Exchange, Outcome, Store
from tests.support.cards import make_rows
from tests.support.flower_federation import REPOSITORY
from tests.support.masked_sites import MaskedSites
from tests.support.replies import NAMES, Hospitals
from tests.support.stored_sums import stored_sums

RUN = "a" * 32


@functools.cache
def aggregate(round_number: int) -> Aggregate:
    """A real aggregate of three hospitals."""
    with tempfile.TemporaryDirectory() as folder:
        return MaskedSites(Path(folder)).ended(round_number, NAMES[:3]).aggregate


@pytest.fixture
def small_plan() -> Plan:
    """An agreed plan of two rounds and a closing evaluation."""
    content = yaml.safe_load((REPOSITORY / "configs" / "plans" / "skin9.yaml").read_text())
    content["training"]["rounds"] = 2
    content["privacy"]["mean_share"] = 0.0
    content["encryption"]["update_norm_bound"] = 1.0
    content["cohort"] |= {"threshold": 3, "min_cohort": 3}
    roster = make_rows(NAMES)
    content["federation"] = {"coordinator": "0" * 64, "epoch": 1, "trainable_parameters": 100, "hospitals": roster}
    return parse_settings(yaml.safe_dump(content), Plan, source="plan")


def exchange(round_number: int) -> Exchange:
    """What two hospitals did in a round."""
    outcomes = (
        Outcome("hospital-1", "contributed", "", 100, 10, 1.5),
        Outcome("hospital-2", "observed", "BudgetExceeded", 50, 10, 1.0),
    )
    return Exchange(round_number, 0, "train", 4.25, outcomes)


def begin(folder: Path) -> Store:
    """A store with one running run."""
    store = Store(folder)
    store.begin(RUN, plan_digest="b" * 64, plan_json="{}", now=1000.0)
    return store


def test_what_was_saved_is_read_back_after_reopening(tmp_path: Path) -> None:
    """Byte for byte: hospitals hash the aggregate."""
    store = begin(tmp_path)
    saved = aggregate(1)
    store.save(RUN, exchange(1), saved)
    store.close()
    again = Store(tmp_path)
    assert stored_sums(again, RUN, 1, 1) == (saved,)
    assert again.exchanges(RUN) == (exchange(1),)
    assert again.last_complete_round(RUN) == 1


def test_a_saved_round_survives_a_kill_at_once(tmp_path: Path) -> None:
    """The transaction is on the disk when `save` returns, without a clean close."""
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from tests.unit.test_store import aggregate, begin, exchange, RUN\n"
        "store = begin(Path(sys.argv[1])); store.save(RUN, exchange(1), aggregate(1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(REPOSITORY)], check=False)  # noqa: S603
    assert done.returncode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.last_complete_round(RUN) == 1
    assert len(stored_sums(store, RUN, 1, 1)[0].body) == stored_sums(store, RUN, 1, 1)[0].entry.body_bytes


def test_a_full_disk_is_one_sentence_and_loses_no_earlier_round(tmp_path: Path) -> None:
    """A file size limit stands for the disk: the kernel refuses to grow the file."""
    store = begin(tmp_path)
    store.save(RUN, exchange(1), aggregate(1))
    size = store.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        with pytest.raises(StoreError, match="free disk space") as caught:
            store.save(RUN, exchange(2), aggregate(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert "\n" not in str(caught.value)
    assert store.last_complete_round(RUN) == 1
    # With space again the same store goes on.
    store.save(RUN, exchange(2), aggregate(2))
    assert store.last_complete_round(RUN) == 2


def test_a_run_is_resumed_with_its_own_plan_only(tmp_path: Path) -> None:
    """Another plan under the same run id would mix two histories."""
    store = begin(tmp_path)
    store.end(RUN, "stopped", reason="too few hospitals")
    with pytest.raises(ConfigError, match="another plan"):
        store.begin(RUN, plan_digest="c" * 64, plan_json="{}", now=2000.0)
    store.begin(RUN, plan_digest="b" * 64, plan_json="{}", now=2000.0)
    known = store.run(RUN)
    assert known is not None
    assert (known.state, known.reason, known.started) == ("running", "", 1000.0)
    store.end(RUN, "finished", reason="")
    with pytest.raises(ConfigError, match="is finished"):
        store.begin(RUN, plan_digest="b" * 64, plan_json="{}", now=3000.0)


def test_a_skipped_round_is_over_and_has_an_entry_without_a_body(tmp_path: Path) -> None:
    """A run goes on behind it, and hospitals are told of it."""
    store = begin(tmp_path)
    store.save(RUN, exchange(1), aggregate(1))
    store.save(RUN, exchange(2), skipped(2, 1))
    assert store.last_complete_round(RUN) == 2
    assert stored_sums(store, RUN, 1, 2) == (aggregate(1), skipped(2, 1))
    assert [body for _, body in store.sizes(RUN, 1, 2)] == [len(aggregate(1).body), 0]


def test_a_file_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Its entries would be read as something else. The control is the version that is written now."""
    begin(tmp_path).close()
    Store(tmp_path).close()
    path = tmp_path / "store.db"
    openers: tuple[Callable[[], Database], ...] = (
        lambda: Store(tmp_path),
        lambda: MaskStore(tmp_path, RUN),
        lambda: Database(tmp_path, schema=""),
    )
    for version in (0, VERSION - 1, VERSION + 1):
        with closing(sqlite3.connect(path)) as raw:
            raw.execute(f"PRAGMA user_version={version}")
        before = path.read_bytes()
        for opens in openers:
            with pytest.raises(StoreError, match=f"another version of fedward .seen {version}, {VERSION} is allowed"):
                opens()
        assert path.read_bytes() == before


def test_a_missing_round_is_an_error(tmp_path: Path) -> None:
    """A gap would reach the hospitals as a broken chain."""
    store = begin(tmp_path)
    store.save(RUN, exchange(2), aggregate(2))
    with pytest.raises(StoreError, match="holds 1 of the rounds 1 to 2"):
        stored_sums(store, RUN, 1, 2)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    """Not a traceback of SQLite."""
    (tmp_path / "store.db").write_bytes(os.urandom(8192))
    with pytest.raises(StoreError, match="store refuses"):
        Store(tmp_path)


def test_each_hospital_gets_the_rounds_that_it_misses(tmp_path: Path, small_plan: Plan) -> None:
    """Byte for byte as they are stored; normally one aggregate."""
    store = begin(tmp_path)
    for number in (1, 2, 3):
        store.save(RUN, exchange(number), aggregate(number))
    identity = next(iter(Hospitals().identities.values()))
    history = StoredHistory(store, MaskStore(tmp_path, RUN), RUN)
    writer = RequestWriter(small_plan, RUN, identity.sign, history)
    missing = {"hospital-1": Rounds(3, 3), "hospital-2": Rounds(4, 3), "hospital-3": Rounds(1, 3)}
    frames = dict(writer.write(Step("train", 4), attempt=0, rounds=missing))
    assert set(frames) == set(missing)
    for name, frame in frames.items():
        signed = decode_request(frame, identity.public_hex)
        assert signed.request.hospital == name
        stored = stored_sums(store, RUN, *missing[name])
        assert [entry.round for entry in signed.request.aggregates] == [a.entry.round for a in stored]
        assert [bytes(body) for body in signed.aggregate_bodies()] == [a.body for a in stored]


def test_sizes_are_those_of_what_is_sent(tmp_path: Path) -> None:
    """Pages are cut by them without reading the bodies."""
    store = begin(tmp_path)
    for number in (1, 2, 3):
        store.save(RUN, exchange(number), aggregate(number))
    stored = stored_sums(store, RUN, 2, 3)
    assert store.sizes(RUN, 2, 3) == tuple((len(header_bytes(a.entry)), len(a.body)) for a in stored)


def test_a_resumed_run_starts_behind_its_last_complete_round(small_plan: Plan) -> None:
    """Hospitals keep what they applied; nothing is charged twice."""
    assert [(s.kind, s.round) for s in steps_after(small_plan, 0)] == [
        ("hello", 0),
        ("train", 1),
        ("train", 2),
        ("eval", 3),
        ("finish", 4),
    ]
    assert [(s.kind, s.round) for s in steps_after(small_plan, 2)] == [("hello", 0), ("eval", 3), ("finish", 4)]
    assert [(s.kind, s.round) for s in steps_after(small_plan, 3)] == [("hello", 0), ("finish", 4)]
