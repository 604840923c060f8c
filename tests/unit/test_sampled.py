"""Sampled verification: each chunk of a sum is recomputed by several hospitals, and nothing is revealed before that.

The hospitals have no data; their signatures, masks and checks are the real ones, and so is the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import client.recompute
import client.sampled
from common.ckks import PRESETS, decode_sum, decode_upload, encode_sum
from common.errors import DeploymentError
from common.identity import Identity
from common.messages import REPLY_MAGIC, AggregateEntry, Request, SignedManifest, decode_reply, encode_reply
from common.plan import Plan
from common.verdicts import assigned_chunks
from server.aggregate import Aggregate
from server.strategy import SecureAggregation
from tests.support.in_process_grid import as_server_app
from tests.support.whole_run import WholeRun, trivial_run

NAMES = tuple(f"hospital-{k}" for k in range(1, 6))
ROUNDS = 3
VALUES = 20_000
PARAMETERS = PRESETS["compact"]
CHUNKS = -(-(VALUES + 1) // PARAMETERS.values_per_chunk)


def make_run(folder: Path, *, verification: str = "sampled", attempts: int = 2) -> WholeRun:
    """Five hospitals of which four are needed, one of them a colluder's."""
    return trivial_run(
        folder, NAMES, rounds=ROUNDS, verification=verification, attempts=attempts, trainable_parameters=VALUES
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WholeRun:
    """A run that verifies by samples."""
    as_server_app(monkeypatch)
    return make_run(tmp_path)


def plain_sum(run: WholeRun, round_number: int) -> NDArray[np.uint64]:
    """What the survivors of a round uploaded, before their masks, added by numpy."""
    bodies = [(run.folder / name / f"upload-{round_number}.bin").read_bytes() for name in run.ended(round_number)]
    words = [decode_upload(body, CHUNKS, PARAMETERS).words for body in bodies]
    return np.asarray(np.stack(words).sum(axis=0) % PARAMETERS.modulus)


def sum_at(run: WholeRun, name: str, round_number: int) -> NDArray[np.uint64]:
    """The sum that a hospital has applied."""
    entry = AggregateEntry.model_validate_json((run.folder / name / f"aggregate-{round_number}.json").read_text())
    body = (run.folder / name / f"aggregate-{round_number}.bin").read_bytes()
    return decode_sum(body, CHUNKS, len(entry.survivors), PARAMETERS).words


def another_chunk(aggregate: Aggregate, chunk: int) -> Aggregate:
    """The sum with one word of one chunk changed."""
    total = decode_sum(aggregate.body, CHUNKS, len(aggregate.entry.survivors), PARAMETERS)
    words = total.words.copy()
    words[chunk, 17] = (words[chunk, 17] + np.uint64(1)) % np.uint64(PARAMETERS.modulus)
    return Aggregate.held(aggregate.entry, encode_sum(replace(total, words=words)))


def altering(round_number: int, chunk: int) -> Callable[[SecureAggregation], None]:
    """A coordinator that stores another sum for a round."""

    def lie(strategy: SecureAggregation) -> None:
        save = strategy._store.save

        def saving(run: str, exchange: Any, aggregate: Aggregate | None) -> None:  # noqa: ANN401
            if aggregate is not None and aggregate.entry.survivors and exchange.round == round_number:
                aggregate = another_chunk(aggregate, chunk)
            save(run, exchange, aggregate)

        strategy._store.save = saving  # type: ignore[method-assign]

    return lie


def asking_anyway(strategy: SecureAggregation) -> None:
    """A coordinator that asks for shares and results whether there are verdicts or not."""
    strategy._verify.complete = lambda *_: True  # type: ignore[method-assign]


def test_an_honest_run_gives_the_sums_of_full_verification(run: WholeRun) -> None:
    """Every hospital has applied exactly the sum of what the survivors uploaded, and no exchange but one was added."""
    run.go()
    for number in range(1, ROUNDS + 1):
        wanted = plain_sum(run, number)
        assert all(np.array_equal(sum_at(run, name, number), wanted) for name in NAMES)
    assert [(one.kind, one.round) for one in run.exchanges() if one.kind == "verify"] == [("verify", ROUNDS + 1)]
    assert run.errors == []


def test_every_hospital_recomputes_its_share_and_nobody_gets_a_whole_upload(run: WholeRun) -> None:
    """The records that go out hold every chunk as often as there are verifiers, and the uploads stay away."""
    run.go()
    checks = {name: one.check for name, one, _ in run.requests if one.kind == "train" and one.round == 2 and one.check}
    assert set(checks) == set(NAMES)
    record = PARAMETERS.chunk_bytes + 64
    sent = sum(check.record_bytes for check in checks.values())
    assert sent > run.plan.verifiers * CHUNKS * record * len(run.ended(1))
    assert max(check.record_bytes for check in checks.values()) < CHUNKS * record * len(run.ended(1)) * 0.7


def test_full_verification_sends_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the tests above: a plan below the limit runs without checks, verdicts or a further exchange."""
    as_server_app(monkeypatch)
    run = make_run(tmp_path, verification="auto")
    run.go()
    assert run.plan.verification == "full"
    assert not any(one.check or one.verdicts or one.kind == "verify" for _, one, _ in run.requests)


def test_an_altered_chunk_is_caught_by_its_verifiers_and_nothing_more_is_revealed(run: WholeRun) -> None:
    """Whoever recomputes the chunk refuses and gives no verdict; nobody unmasks the next round."""
    run.lie = altering(1, chunk=3)
    with pytest.raises(DeploymentError):
        run.go()
    caught = {name for number, name, code in run.refusals("train") if code == "AggregateMismatch"}
    check = next(one.check for _, one, _ in run.requests if one.check is not None)
    shares = assigned_chunks(
        check.sample, check.present, hospitals=len(NAMES), chunks=CHUNKS, verifiers=run.plan.verifiers
    )
    assert {NAMES[position] for position, own in shares.items() if 3 in own} <= caught
    assert run.asked("unmask", 2) == []


@pytest.mark.parametrize("colluder", NAMES[:2])
def test_a_colluder_among_the_verifiers_cannot_hide_an_altered_chunk(
    run: WholeRun, monkeypatch: pytest.MonkeyPatch, colluder: str
) -> None:
    """It gives its word for everything; each chunk has one verifier more than there are colluders."""
    blind(monkeypatch, colluder)
    run.lie = altering(1, chunk=3)
    with pytest.raises(DeploymentError):
        run.go()
    assert run.asked("unmask", 2) == []
    assert not any(name == colluder for _, name, _ in run.refusals("train"))


def test_without_verifiers_an_altered_chunk_passes(run: WholeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with as many verifiers as colluders less one, none, the next rounds are unmasked and the run ends."""
    monkeypatch.setattr(Plan, "verifiers", 0)
    run.lie = altering(1, chunk=3)
    run.go()
    assert not np.array_equal(sum_at(run, NAMES[0], 1), plain_sum(run, 1))
    assert len(run.asked("unmask", 2)) == len(NAMES)


def test_hospitals_refuse_to_unmask_without_all_verdicts(run: WholeRun) -> None:
    """One that shares the chunks gives no verdict, and the coordinator asks for shares all the same."""
    run.before, run.lie = failing(NAMES[4], "train", 2), asking_anyway
    run.go()
    assert run.ended(2) == ()
    refused = {name for number, name, code in run.refusals("unmask") if (number, code) == (2, "UnverifiedChunks")}
    assert set(NAMES[:4]) <= refused
    assert len(run.ended(3)) == len(NAMES)


def test_no_results_are_written_before_the_last_sum_is_verified(run: WholeRun) -> None:
    """A coordinator that leaves the last exchange out gets no manifest of `finish`."""
    run.lie = asking_anyway
    run.go()
    assert {name for _, name, code in run.refusals("finish") if code == "UnverifiedChunks"} == set(NAMES)


FORGERIES: dict[str, tuple[Callable[[SignedManifest], SignedManifest | None], str]] = {
    "omitted": (lambda _: None, "UnverifiedChunks"),
    "another sum": (
        lambda signed: with_verdict(signed, sample="0" * 64),
        "UnverifiedChunks",
    ),
    "in another's name": (lambda signed: with_hospital(signed, NAMES[0]), "BadSignature"),
    "fewer share the chunks": (lambda signed: with_verdict(signed, present=(0, 1)), "BadSignature"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_and_omitted_verdicts_are_refused(run: WholeRun, name: str) -> None:
    """The last sum's verdicts, of which the coordinator changes one: no hospital finishes."""
    forge, code = FORGERIES[name]

    def lie(strategy: SecureAggregation) -> None:
        verification = type("Lying", (type(strategy._verification),), {"verdicts": property(forged)})
        strategy._verification.__class__ = verification

    def forged(verification: Any) -> tuple[SignedManifest, ...]:  # noqa: ANN401
        honest = super(type(verification), verification).verdicts
        changed = forge(honest[-1]) if honest else None
        return (*honest[:-1], *([changed] if changed else []))

    run.lie = lie
    run.go()
    assert {hospital for _, hospital, seen in run.refusals("finish") if seen == code} == set(NAMES)


def test_other_verifiers_than_the_hash_gives_are_refused(run: WholeRun) -> None:
    """A coordinator that has hospitals recompute other chunks than theirs gets no verdict."""

    def lie(strategy: SecureAggregation) -> None:
        own = strategy._verification._own
        strategy._verification._own = lambda last, present, position: own(  # type: ignore[method-assign]
            last, present, (position + 1) % len(NAMES)
        )

    run.lie = lie
    with pytest.raises(DeploymentError):
        run.go()
    assert {code for _, _, code in run.refusals("train")} <= {"MalformedMessage", "AggregateMismatch"}
    assert run.asked("unmask", 2) == []


def test_missing_verifiers_are_replaced_before_unmasking(run: WholeRun) -> None:
    """One hospital fails in round 2: the others recompute its chunks, and only these, and the round completes."""
    run.before = failing(NAMES[4], "train", 2)
    run.go()
    assert set(run.ended(2)) == set(NAMES[:4])
    first = {name: one.check for name, one, _ in run.requests if (one.kind, one.round) == ("train", 2) and one.check}
    again = {name: one.check for name, one, _ in run.requests if (one.kind, one.round) == ("verify", 2) and one.check}
    assert set(again) == set(NAMES[:4])
    assert all(check.known == (0, 1, 2, 3, 4) and check.present == (0, 1, 2, 3) for check in again.values())
    extra = sum(check.record_bytes for check in again.values())
    assert extra == pytest.approx(first[NAMES[4]].record_bytes, rel=0.02)


@pytest.mark.parametrize("present", [(0,), (0, 1), (0, 2**39)], ids=["too few", "without it", "nobody"])
def test_a_hospital_that_signs_a_verdict_of_nobody_stops_no_run(run: WholeRun, present: tuple[int, ...]) -> None:
    """Round and sample are right, so that it is looked at; the others recompute its chunks."""
    liar, honest = NAMES[4], run.sites[NAMES[4]]
    identity = Identity.load(run.folder / liar / "identity.key")

    def lying(frame: bytes | memoryview) -> bytes:
        answer = honest(frame)
        if not answer.startswith(REPLY_MAGIC):
            return answer
        reply = decode_reply(answer, {h.name: h.identity for h in run.plan.roster})
        verdict = reply.manifest.verdict
        if verdict is None:
            return answer
        changed = reply.manifest.model_copy(update={"verdict": verdict.model_copy(update={"present": present})})
        return encode_reply(changed, bytes(reply.body), identity.sign)

    run.sites = {**run.sites, liar: lying}
    run.go()
    assert all(np.array_equal(sum_at(run, NAMES[0], n), plain_sum(run, n)) for n in range(1, ROUNDS + 1))


def test_a_round_without_all_verdicts_is_skipped_and_the_next_goes_on(run: WholeRun) -> None:
    """No hospital answers `verify` in round 2: nothing is revealed; in round 3 the chunks are shared anew."""
    fails, silent = failing(NAMES[4], "train", 2), failing("", "verify", 2)

    def before(request: Request) -> None:
        fails(request)
        silent(request)

    run.before = before
    run.go()
    assert run.ended(2) == ()
    assert run.asked("unmask", 2) == []
    assert len(run.ended(3)) == len(NAMES)
    assert all(np.array_equal(sum_at(run, name, 3), plain_sum(run, 3)) for name in NAMES)


def test_a_coordinator_that_is_killed_asks_for_the_verdicts_again(run: WholeRun) -> None:
    """It forgets who said what; the hospitals do not."""

    def dying(strategy: SecureAggregation) -> None:
        def ask_for(round_number: int, survivors: tuple[SignedManifest, ...]) -> None:
            if round_number == 2:
                raise KeyboardInterrupt
            real(round_number, survivors)

        real = strategy._masks.ask_for
        strategy._masks.ask_for = ask_for  # type: ignore[method-assign]

    run.lie = dying
    with pytest.raises(KeyboardInterrupt):
        run.go()
    run.lie = lambda _: None
    run.go()
    for number in range(1, ROUNDS + 1):
        assert all(np.array_equal(sum_at(run, name, number), plain_sum(run, number)) for name in NAMES)


def blind(monkeypatch: pytest.MonkeyPatch, *colluders: str) -> None:
    """Have some hospitals give their word unseen."""
    recompute = client.recompute.recompute_chunks

    def seeing(*args: Any, member: Any, **rest: Any) -> None:  # noqa: ANN401 -- as it is called
        if member.hospital not in colluders:
            recompute(*args, member=member, **rest)

    monkeypatch.setattr(client.sampled, "recompute_chunks", seeing)


def failing(hospital: str, kind: str, round_number: int) -> Callable[[Request], None]:
    """A hospital, or all, that cannot answer something."""

    def before(request: Request) -> None:
        if (request.kind, request.round) == (kind, round_number) and hospital in ("", request.hospital):
            raise DeploymentError("away")

    return before


def with_verdict(signed: SignedManifest, **changes: Any) -> SignedManifest:  # noqa: ANN401 -- any field
    """A manifest with another verdict, under the old signature."""
    verdict = signed.manifest.verdict
    assert verdict is not None
    changed = signed.manifest.model_copy(update={"verdict": verdict.model_copy(update=changes)})
    return signed.model_copy(update={"manifest": changed})


def with_hospital(signed: SignedManifest, hospital: str) -> SignedManifest:
    """A manifest in another's name."""
    return signed.model_copy(update={"manifest": signed.manifest.model_copy(update={"hospital": hospital})})
