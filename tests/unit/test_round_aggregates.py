"""A coordinator that hands out something else than the sum: refused, the state unchanged, the honest sum still taken.

The coordinator signs all of it, and has every hospital's genuine manifests and uploads to build from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ckks import EncryptedSum, add_in_place, encode_sum
from common.errors import (
    BadSignature,
    DecryptionError,
    DivergenceError,
    EpochClosed,
    FedwardError,
    MalformedMessage,
    TranscriptError,
    WeightMismatch,
    WrongRound,
)
from common.identity import Identity
from common.messages import AggregateEntry, Applied, Manifest, SignedManifest, SignedReply, decode_reply, encode_reply
from common.packing import pack_into
from server.aggregate import Aggregate
from tests.support.site_keys import site_identity
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS = NAMES[0]


@dataclass
class Trained:
    """Hospital-1 after its upload for round 1, and what the coordinator holds: all replies, and the honest sum."""

    federation: SmallFederation
    replies: list[SignedReply]
    honest: Aggregate

    def identity(self, name: str) -> Identity:
        """A hospital's key: for what only the hospital itself, or a thief of its key, could sign."""
        return site_identity(self.federation.folder / "federation" / name)

    def ask(self, *aggregates: Aggregate, kind: str = "train", round_number: int = 2) -> bytes:
        """Hospital-1's answer to the next round's request with these aggregates."""
        frame = self.federation.frame(kind, round_number, OURS, send=aggregates)
        return self.federation.sites[OURS].answer(frame)

    def built(self, manifests: Sequence[int], uploads: Sequence[int], *, seeds: Sequence[int] = ()) -> Aggregate:
        """An aggregate with the manifests of some hospitals and the uploads of others, by index."""
        signed = tuple(self.replies[i].signed for i in manifests)
        vectors = [self.federation.upload(self.replies[i]) for i in uploads]
        words = np.zeros_like(vectors[0].words)
        for vector in vectors:
            add_in_place(words, vector.words, vector.parameters)
        chosen = tuple(self.federation.upload(self.replies[i]).seeds for i in seeds or uploads)
        return self.with_body(signed, encode_sum(EncryptedSum(vectors[0].parameters, words, chosen)))

    def with_body(self, survivors: tuple[SignedManifest, ...], body: bytes, **changes: Any) -> Aggregate:  # noqa: ANN401 -- any field
        """An aggregate of round 1 with this body."""
        entry = AggregateEntry(round=1, attempt=0, survivors=survivors, body_bytes=len(body))
        return Aggregate(entry.model_copy(update=changes), body)

    def with_manifest(self, index: int, *, signer: str = "", **changes: Any) -> Aggregate:  # noqa: ANN401 -- any field
        """The honest sum, with one manifest changed and signed anew; without `signer` it keeps its old signature."""
        old = self.replies[index].signed
        manifest = Manifest.model_validate(old.manifest.model_dump() | changes)
        signed = SignedManifest(manifest=manifest, signature=old.signature)
        if signer:
            frame = encode_reply(manifest, b"", self.identity(signer).sign)
            signed = decode_reply(frame, {manifest.hospital: self.identity(signer).public_hex}).signed
        survivors = tuple(signed if i == index else reply.signed for i, reply in enumerate(self.replies))
        return self.with_body(survivors, self.honest.body)

    def shifted(self, value: int) -> Aggregate:
        """The honest sum plus a constant in NTT form: a polynomial whose constant coefficient is `value`."""
        vectors = [self.federation.upload(reply) for reply in self.replies]
        words = np.full_like(vectors[0].words, value)
        for vector in vectors:
            add_in_place(words, vector.words, vector.parameters)
        total = EncryptedSum(vectors[0].parameters, words, tuple(vector.seeds for vector in vectors))
        return self.with_body(tuple(reply.signed for reply in self.replies), encode_sum(total))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All four hospitals have uploaded; their services are stopped."""
    base = tmp_path_factory.mktemp("base")
    provision_small(base, template())
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("trained")) as federation:
        replies = federation.train(1)
    return Trained(federation, replies, federation.coordinator.aggregates[0])


@pytest.fixture
def trained(prepared: Trained, tmp_path: Path) -> Iterator[Trained]:
    """The same with hospital-1 open on files of its own."""
    with SmallFederation.copy_of(prepared.federation.folder, tmp_path, sites=[OURS]) as federation:
        federation.coordinator.run = prepared.federation.coordinator.run
        yield replace(prepared, federation=federation)


def last_word(trained: Trained, value: int) -> Aggregate:
    """The honest sum with its very last word replaced."""
    vectors = [trained.federation.upload(reply) for reply in trained.replies]
    parameters = vectors[0].parameters
    words = vectors[0].words.copy()
    for vector in vectors[1:]:
        add_in_place(words, vector.words, parameters)
    words[-1, -1] = value
    records = np.frombuffer(trained.honest.body, np.uint8).reshape(len(words), -1).copy()
    records[:, : parameters.chunk_bytes] = 0
    pack_into(records, words, parameters)
    return trained.with_body(trained.honest.entry.survivors, records.tobytes())


LIES: dict[str, tuple[Callable[[Trained], Aggregate], type[FedwardError]]] = {
    "one upload alone": (lambda t: t.built([1], [1]), TranscriptError),
    "fewer than min_cohort": (lambda t: t.built([0, 1], [0, 1]), TranscriptError),
    "a hospital twice": (lambda t: t.built([0, 1, 1, 2], [0, 1, 1, 2]), TranscriptError),
    "not in roster order": (lambda t: t.built([1, 0, 2], [1, 0, 2]), TranscriptError),
    "one upload under all manifests": (lambda t: t.built([0, 1, 2], [1, 1, 1]), TranscriptError),
    "another's upload three times": (lambda t: t.built([1, 2, 3], [1, 1, 1]), TranscriptError),
    "words of one upload, seeds of all": (lambda t: t.built([0, 1, 2, 3], [0], seeds=[0, 1, 2, 3]), DecryptionError),
    "a survivor's words left out": (lambda t: t.built([0, 1, 2, 3], [0, 1, 2], seeds=[0, 1, 2, 3]), DecryptionError),
    "a survivor's seeds left out": (lambda t: t.built([0, 1, 2, 3], [0, 1, 2]), MalformedMessage),
    "another's upload for a survivor": (lambda t: t.built([0, 1, 3], [0, 1, 2]), WeightMismatch),
    "our upload left out": (lambda t: t.built([0, 1, 2], [1, 2, 3]), TranscriptError),
    "our upload hidden": (lambda t: t.built([1, 2, 3], [0, 1, 2]), TranscriptError),
    "our upload in another's place": (lambda t: t.built([0, 1, 2], [1, 0, 2]), TranscriptError),
    "our manifest altered": (lambda t: t.with_manifest(0, ledger_sequence=7), BadSignature),
    "another manifest of ours": (lambda t: t.with_manifest(0, signer=OURS, ledger_sequence=7), TranscriptError),
    "a manifest altered": (lambda t: t.with_manifest(2, ledger_sequence=7), BadSignature),
    "a manifest signed by another": (lambda t: t.with_manifest(2, signer=NAMES[3]), BadSignature),
    "a stranger": (lambda t: t.with_manifest(3, signer=NAMES[3], hospital="hospital-9"), TranscriptError),
    "a manifest of another run": (lambda t: t.with_manifest(2, signer=NAMES[2], run="f" * 32), TranscriptError),
    "a manifest of another plan": (lambda t: t.with_manifest(2, signer=NAMES[2], plan="f" * 64), TranscriptError),
    "a manifest of another epoch": (lambda t: t.with_manifest(2, signer=NAMES[2], epoch=2), TranscriptError),
    "a manifest of another round": (lambda t: t.with_manifest(2, signer=NAMES[2], round=2), TranscriptError),
    "a manifest of another attempt": (lambda t: t.with_manifest(2, signer=NAMES[2], attempt=1), TranscriptError),
    "a manifest of another kind": (lambda t: t.with_manifest(2, signer=NAMES[2], kind="eval"), TranscriptError),
    "an observer's manifest": (lambda t: t.with_manifest(2, signer=NAMES[2], role="observe"), TranscriptError),
    "other parameters": (lambda t: t.with_manifest(2, signer=NAMES[2], parameters="f" * 64), TranscriptError),
    "another model": (lambda t: t.with_manifest(2, signer=NAMES[2], state_tag="f" * 64), DivergenceError),
    "another history": (
        lambda t: t.with_manifest(2, signer=NAMES[2], applied=Applied(round=0, root="", chain="f" * 64)),
        DivergenceError,
    ),
    "the round after the next": (
        lambda t: t.with_body(t.honest.entry.survivors, t.honest.body, round=2),
        WrongRound,
    ),
    "an attempt that was not": (
        lambda t: t.with_body(t.honest.entry.survivors, t.honest.body, attempt=1),
        TranscriptError,
    ),
    "one byte less": (lambda t: t.with_body(t.honest.entry.survivors, t.honest.body[:-1]), MalformedMessage),
    "one byte more": (lambda t: t.with_body(t.honest.entry.survivors, t.honest.body + b"x"), MalformedMessage),
    "no body": (lambda t: t.with_body(t.honest.entry.survivors, b""), MalformedMessage),
    "a word outside the ring": (lambda t: last_word(t, 536813569), MalformedMessage),
    "another word": (lambda t: last_word(t, 5), DecryptionError),
    "off the grid": (lambda t: t.shifted(100_000), DecryptionError),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_substituted_aggregate_is_refused_and_changes_nothing(trained: Trained, lie: str) -> None:
    """After the refusal the honest aggregate is still taken, so one hostile message ends nothing for a site."""
    before = trained.federation.tag(OURS)
    build, error = LIES[lie]
    with pytest.raises(error):
        trained.ask(build(trained))
    assert trained.federation.tag(OURS) == before
    assert trained.federation.storage(OURS).load_state() is None
    assert trained.federation.charges(OURS) == 1
    trained.ask(trained.honest)
    assert trained.federation.state(OURS).applied.round == 1
    assert trained.federation.charges(OURS) == 2


@pytest.mark.parametrize("members", [[0, 1, 2, 3], [0, 1, 2], [1, 2, 3]])
def test_an_honest_sum_is_taken_whoever_dropped_out(trained: Trained, members: list[int]) -> None:
    """The control of what `built` builds; also for a hospital whose upload came too late."""
    trained.ask(trained.built(members, members))
    assert trained.federation.state(OURS).applied.round == 1


def test_the_decryption_margin_alone_would_let_a_doubled_upload_pass(trained: Trained) -> None:
    """Why the seeds are compared: twice one ciphertext decrypts to twice its integers, right on the grid."""
    upload = trained.federation.upload(trained.replies[1])
    doubled = upload.words.copy()
    add_in_place(doubled, upload.words, upload.parameters)
    key, grid = trained.federation.sites[OURS]._keys.epoch().ckks, trained.federation.grid
    seen = key.decrypt(EncryptedSum(upload.parameters, doubled, (upload.seeds, upload.seeds)), grid)
    np.testing.assert_array_equal(seen, 2 * trained.federation.decrypted(trained.replies[1]))


def test_an_applied_round_has_one_aggregate(trained: Trained) -> None:
    """The same again is skipped, another one is refused; its manifests cannot stand for the next round either."""
    trained.ask(trained.honest)
    before = trained.federation.tag(OURS)
    trained.ask(trained.honest)
    with pytest.raises(TranscriptError, match="another aggregate of round 1"):
        trained.ask(trained.built([0, 1, 2], [0, 1, 2]))
    replayed = trained.with_body(trained.honest.entry.survivors, trained.honest.body, round=2)
    with pytest.raises(TranscriptError, match="not one of round 2"):
        trained.ask(trained.honest, replayed, kind="eval", round_number=3)
    assert trained.federation.tag(OURS) == before


def test_a_site_may_ask_for_more_hospitals_than_the_plan(trained: Trained) -> None:
    """Its own min_cohort counts; with all four it goes on."""
    trained.federation.close(OURS)
    trained.federation.change_site(OURS, min_cohort=4)
    trained.federation.open(OURS)
    with pytest.raises(TranscriptError, match="at least 4"):
        trained.ask(trained.built([0, 1, 2], [0, 1, 2]))
    trained.ask(trained.honest)


def test_refusals_after_decryption_are_few_and_are_remembered(trained: Trained) -> None:
    """Unlimited answers to `is this near the grid?` would give the key's noise, and then the key, away."""
    for value in (100_000, 100_000, 100_001, 100_000, 100_002):
        with pytest.raises(DecryptionError):
            trained.ask(trained.shifted(value))
        trained.federation.reopen(OURS)
    for aggregate in (trained.shifted(100_003), trained.honest):
        with pytest.raises(EpochClosed):
            trained.ask(aggregate)
    # What needs no decryption still goes: the site says where it stands.
    assert trained.federation.tag(OURS)


def test_split_views_are_seen_one_round_later(prepared: Trained, tmp_path: Path) -> None:
    """Hospital-1 gets another sum of round 1 than the rest: both pass, then nobody takes round 2 with both in it."""
    with SmallFederation.copy_of(prepared.federation.folder, tmp_path) as federation:
        federation.coordinator.run = prepared.federation.coordinator.run
        trained = replace(prepared, federation=federation)
        views = [trained.built([0, 1, 2], [0, 1, 2]), *[trained.honest] * 3]
        identities = {h.name: h.identity for h in federation.plan.roster}
        replies = [
            decode_reply(federation.sites[name].answer(federation.frame("train", 2, name, send=[view])), identities)
            for name, view in zip(NAMES, views, strict=True)
        ]
        tags = [reply.manifest.state_tag for reply in replies]
        assert tags[0] != tags[1] == tags[2] == tags[3]
        mixed = federation.sum_of(replies, round_number=2)
        for name, view in zip(NAMES, views, strict=True):
            with pytest.raises(DivergenceError):
                federation.sites[name].answer(federation.frame("eval", 3, name, send=[view, mixed]))
        # Control: those who hold one model go on together, and only they.
        alike = federation.sum_of(replies[1:], round_number=2)
        for name in NAMES[1:]:
            federation.sites[name].answer(federation.frame("eval", 3, name, send=[trained.honest, alike]))
        with pytest.raises(DivergenceError):
            federation.sites[OURS].answer(federation.frame("eval", 3, OURS, send=[views[0], alike]))
