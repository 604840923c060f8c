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

from client.advert import MaskSecrets
from common.ckks import EncryptedSum, add_in_place, encode_sum
from common.errors import (
    AggregateMismatch,
    BadSignature,
    DecryptionError,
    DivergenceError,
    EpochClosed,
    FedwardError,
    MalformedMessage,
    SplitViewError,
    TranscriptError,
    WeightMismatch,
    WrongRound,
)
from common.identity import Identity
from common.messages import (
    NOTHING_APPLIED,
    AggregateEntry,
    Applied,
    Manifest,
    SignedManifest,
    SignedReply,
    decode_reply,
    encode_reply,
)
from common.packing import pack_into
from common.transcript import aggregate_root
from server.aggregate import Aggregate, skipped
from tests.support.in_process import light
from tests.support.site_keys import site_identity
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


@dataclass
class Trained:
    """Hospital-1 after its upload for round 1, and all that is known of it: uploads, the honest sum, mask secrets.

    No shares were given yet, so that this hospital takes any survivors that verify.
    """

    federation: SmallFederation
    replies: list[SignedReply]
    honest: Aggregate
    secrets: dict[str, MaskSecrets]

    def identity(self, name: str) -> Identity:
        """A hospital's key: for what only the hospital itself, or a thief of its key, could sign."""
        return site_identity(self.federation.folder / "federation" / name)

    def ask(self, *aggregates: Aggregate, kind: str = "train", round_number: int = 2) -> bytes:
        """Hospital-1's answer to the next round's request with these aggregates."""
        frame = self.federation.frame(kind, round_number, OURS, send=aggregates)
        return self.federation.sites[OURS].answer(frame)

    def built(self, manifests: Sequence[int], uploads: Sequence[int], *, seeds: Sequence[int] = ()) -> Aggregate:
        """An aggregate with the manifests of some hospitals and the unmasked sum of others' uploads, by index."""
        signed = tuple(self.replies[i].signed for i in manifests)
        vectors = [self.federation.plain(self.replies[i], self.secrets) for i in uploads]
        words = np.zeros_like(vectors[0].words)
        for vector in vectors:
            add_in_place(words, vector.words, vector.parameters)
        shown = [self.replies[i] for i in seeds or uploads]
        total = EncryptedSum(vectors[0].parameters, words, tuple(self.federation.upload(one).seeds for one in shown))
        return self.with_sum(signed, encode_sum(total), uploads=[bytes(one.body) for one in shown])

    def with_sum(
        self,
        survivors: tuple[SignedManifest, ...],
        body: bytes,
        *,
        uploads: Sequence[bytes] = (),
        **changes: Any,  # noqa: ANN401 -- any field
    ) -> Aggregate:
        """An aggregate of round 1 with this sum; with the honest uploads, if no others are named."""
        names = [signed.manifest.hospital for signed in survivors]
        size = len(self.replies[0].body)
        known = {name: self.secrets.get(name, self.secrets[OURS]) for name in (*names, *NAMES)}
        transcript = self.federation.transcript(1, names, known, upload_bytes=size)
        entry = AggregateEntry(
            round=1, attempt=0, survivors=survivors, sum_bytes=len(body), transcript=transcript, witnesses=()
        )
        sent = uploads or [bytes(reply.body) for reply in self.replies]
        return Aggregate.held(entry.model_copy(update=changes), body + b"".join(sent))

    def with_manifest(self, index: int, *, signer: str = "", **changes: Any) -> Aggregate:  # noqa: ANN401 -- any field
        """The honest sum, with one manifest changed and signed anew; without `signer` it keeps its old signature."""
        old = self.replies[index].signed
        manifest = Manifest.model_validate(old.manifest.model_dump() | changes)
        signed = self.signed(manifest, signer) if signer else SignedManifest(manifest=manifest, signature=old.signature)
        survivors = tuple(signed if i == index else reply.signed for i, reply in enumerate(self.replies))
        return self.with_sum(survivors, self.honest.body[: self.honest.entry.sum_bytes])

    def signed(self, manifest: Manifest, signer: str) -> SignedManifest:
        """The manifest with a hospital's signature."""
        identity = self.identity(signer)
        return decode_reply(encode_reply(manifest, b"", identity.sign), {manifest.hospital: identity.public_hex}).signed

    def shifted(self, value: int) -> Aggregate:
        """The honest sum plus a constant in NTT form: a polynomial whose constant coefficient is `value`."""
        vectors = [self.federation.plain(reply, self.secrets) for reply in self.replies]
        words = np.full_like(vectors[0].words, value)
        for vector in vectors:
            add_in_place(words, vector.words, vector.parameters)
        total = EncryptedSum(vectors[0].parameters, words, tuple(vector.seeds for vector in vectors))
        return self.with_sum(tuple(reply.signed for reply in self.replies), encode_sum(total))

    def vouched(self, aggregate: Aggregate, *, after: Applied = NOTHING_APPLIED) -> Aggregate:
        """The same without a transcript, on the word of three hospitals: only they, or thieves of their keys, lie so.

        What is checked behind the recomputation is seen only where that is passed by.
        """
        bare = light(aggregate)
        applied = after.followed_by(aggregate_root(bare.body))
        manifests = [reply.manifest.model_copy(update={"round": 2, "applied": applied}) for reply in self.replies[1:]]
        witnesses = tuple(self.signed(manifest, manifest.hospital) for manifest in manifests)
        return Aggregate.held(bare.entry.model_copy(update={"witnesses": witnesses}), bare.body)


@pytest.fixture(scope="module")
def prepared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All four hospitals have uploaded, and announced masks for the next rounds; their services are stopped."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("trained")) as federation:
        replies, _ = federation.coordinator.collect("train", 1, federation.sites)
        for number in (2, 3):
            federation.opened(number)
        secrets = federation.secrets(1)
        return Trained(federation, replies, federation.sum_of(replies, secrets=secrets), secrets)


def copy_of(prepared: Trained, folder: Path, sites: Sequence[str]) -> Trained:
    """The same with these hospitals open on files of their own."""
    federation = SmallFederation.copy_of(prepared.federation.folder, folder, sites=sites)
    federation.coordinator.run = prepared.federation.coordinator.run
    federation.coordinator.openings = dict(prepared.federation.coordinator.openings)
    return replace(prepared, federation=federation)


@pytest.fixture
def trained(prepared: Trained, tmp_path: Path) -> Iterator[Trained]:
    """The same with hospital-1 open on files of its own."""
    copied = copy_of(prepared, tmp_path, [OURS])
    with copied.federation:
        yield copied


def last_word(trained: Trained, value: int) -> Aggregate:
    """The honest sum with its very last word replaced."""
    vectors = [trained.federation.plain(reply, trained.secrets) for reply in trained.replies]
    parameters = vectors[0].parameters
    words = vectors[0].words.copy()
    for vector in vectors[1:]:
        add_in_place(words, vector.words, parameters)
    words[-1, -1] = value
    honest = trained.honest.body[: trained.honest.entry.sum_bytes]
    records = np.frombuffer(honest, np.uint8).reshape(len(words), -1).copy()
    records[:, : parameters.chunk_bytes] = 0
    pack_into(records, words, parameters)
    return trained.with_sum(trained.honest.entry.survivors, records.tobytes())


def honest_sum(trained: Trained, **changes: Any) -> Aggregate:  # noqa: ANN401 -- any field
    """The honest aggregate under an entry that says something else."""
    sent = trained.honest.body[: trained.honest.entry.sum_bytes]
    return trained.with_sum(trained.honest.entry.survivors, sent, **changes)


def resized(trained: Trained, change: Callable[[bytes], bytes]) -> Aggregate:
    """The honest aggregate with another number of bytes in its sum."""
    body = change(trained.honest.body[: trained.honest.entry.sum_bytes])
    return trained.with_sum(trained.honest.entry.survivors, body)


LIES: dict[str, tuple[Callable[[Trained], Aggregate], type[FedwardError]]] = {
    "one upload alone": (lambda t: t.built([1], [1]), TranscriptError),
    "fewer than min_cohort": (lambda t: t.built([0, 1], [0, 1]), TranscriptError),
    "a hospital twice": (lambda t: t.built([0, 1, 1, 2], [0, 1, 1, 2]), TranscriptError),
    "not in roster order": (lambda t: t.built([1, 0, 2], [1, 0, 2]), TranscriptError),
    "one upload under all manifests": (lambda t: t.built([0, 1, 2], [1, 1, 1]), TranscriptError),
    "another's upload three times": (lambda t: t.built([1, 2, 3], [1, 1, 1]), TranscriptError),
    "words of one upload, seeds of all": (lambda t: t.built([0, 1, 2, 3], [0], seeds=[0, 1, 2, 3]), AggregateMismatch),
    "a survivor's words left out": (lambda t: t.built([0, 1, 2, 3], [0, 1, 2], seeds=[0, 1, 2, 3]), AggregateMismatch),
    "a survivor's seeds left out": (lambda t: t.built([0, 1, 2, 3], [0, 1, 2]), MalformedMessage),
    "another's upload for a survivor": (lambda t: t.built([0, 1, 3], [0, 1, 2]), AggregateMismatch),
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
        TranscriptError,
    ),
    "another opening": (lambda t: t.with_manifest(2, signer=NAMES[2], opening="f" * 64), SplitViewError),
    "no opening": (lambda t: t.with_manifest(2, signer=NAMES[2], opening=""), SplitViewError),
    "the round after the next": (lambda t: honest_sum(t, round=2), WrongRound),
    "an attempt that was not": (lambda t: honest_sum(t, attempt=1), TranscriptError),
    "no transcript and nobody's word": (lambda t: light(t.honest), TranscriptError),
    "one byte less": (lambda t: resized(t, lambda body: body[:-1]), MalformedMessage),
    "one byte more": (lambda t: resized(t, lambda body: body + b"x"), MalformedMessage),
    "no body": (lambda t: resized(t, lambda _: b""), MalformedMessage),
    "a word outside the ring": (lambda t: last_word(t, 536813569), MalformedMessage),
    "another word": (lambda t: last_word(t, 5), AggregateMismatch),
    "off the grid": (lambda t: t.shifted(100_000), AggregateMismatch),
}

# What three hospitals vouch for is not recomputed; the checks behind that are their own line.
VOUCHED_LIES: dict[str, tuple[Callable[[Trained], Aggregate], type[FedwardError]]] = {
    "words of one upload, seeds of all": (lambda t: t.built([0, 1, 2, 3], [0], seeds=[0, 1, 2, 3]), DecryptionError),
    "a survivor's words left out": (lambda t: t.built([0, 1, 2, 3], [0, 1, 2], seeds=[0, 1, 2, 3]), DecryptionError),
    "another's upload for a survivor": (lambda t: t.built([0, 1, 3], [0, 1, 2]), WeightMismatch),
    "another word": (lambda t: last_word(t, 5), DecryptionError),
    "off the grid": (lambda t: t.shifted(100_000), DecryptionError),
    "our upload left out": LIES["our upload left out"],
    "our upload hidden": LIES["our upload hidden"],
    "another manifest of ours": LIES["another manifest of ours"],
    "another model": LIES["another model"],
    "another history": (LIES["another history"][0], DivergenceError),
    "fewer than min_cohort": LIES["fewer than min_cohort"],
    "another opening": LIES["another opening"],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_substituted_aggregate_is_refused_and_changes_nothing(trained: Trained, lie: str) -> None:
    """After the refusal the honest aggregate is still taken, so one hostile message ends nothing for a site."""
    build, error = LIES[lie]
    expect_refused(trained, build(trained), error)


@pytest.mark.parametrize("lie", VOUCHED_LIES)
def test_the_word_of_other_hospitals_replaces_no_check(trained: Trained, lie: str) -> None:
    """Even `t` of them get nothing past the manifests, the grid and the weight."""
    build, error = VOUCHED_LIES[lie]
    expect_refused(trained, trained.vouched(build(trained)), error)


def expect_refused(trained: Trained, aggregate: Aggregate, error: type[FedwardError]) -> None:
    """Nothing changes, and the honest aggregate is taken afterwards."""
    before = trained.federation.tag(OURS)
    with pytest.raises(error):
        trained.ask(aggregate)
    assert trained.federation.tag(OURS) == before
    assert trained.federation.storage(OURS).load_state() is None
    assert trained.federation.charges(OURS) == 1
    trained.ask(trained.honest)
    assert trained.federation.state(OURS).applied.round == 1
    assert trained.federation.charges(OURS) == 2


@pytest.mark.parametrize("members", [[0, 1, 2, 3], [0, 1, 2], [1, 2, 3]])
def test_an_honest_sum_is_taken_whoever_dropped_out(trained: Trained, members: list[int]) -> None:
    """The control of what `built` and `vouched` build; also for a hospital whose upload came too late."""
    trained.ask(trained.built(members, members))
    assert trained.federation.state(OURS).applied.round == 1


def test_an_honest_sum_is_taken_on_the_word_of_others(trained: Trained) -> None:
    """The control of the lies that three hospitals vouch for."""
    trained.ask(trained.vouched(trained.honest))
    assert trained.federation.state(OURS).applied.round == 1


def test_the_decryption_margin_alone_would_let_a_doubled_upload_pass(trained: Trained) -> None:
    """Why the seeds are compared: twice one ciphertext decrypts to twice its integers, right on the grid."""
    upload = trained.federation.plain(trained.replies[1], trained.secrets)
    doubled = upload.words.copy()
    add_in_place(doubled, upload.words, upload.parameters)
    key, grid = trained.federation.key, trained.federation.grid
    seen = key.decrypt(EncryptedSum(upload.parameters, doubled, (upload.seeds, upload.seeds)), grid)
    np.testing.assert_array_equal(seen, 2 * trained.federation.decrypted(trained.replies[1]))


def test_an_applied_round_has_one_aggregate(trained: Trained) -> None:
    """The same again is skipped, another one is refused; its manifests cannot stand for the next round either."""
    trained.ask(trained.honest)
    before = trained.federation.tag(OURS)
    trained.ask(trained.honest)
    for other in (trained.built([0, 1, 2], [0, 1, 2]), skipped(1, 0)):
        with pytest.raises(TranscriptError, match="another outcome of round 1"):
            trained.ask(other)
    replayed = honest_sum(trained, round=2)
    with pytest.raises(TranscriptError, match="has applied other rounds"):
        trained.ask(trained.honest, replayed, kind="eval", round_number=3)
    vouched = trained.vouched(replayed, after=trained.federation.state(OURS).applied)
    with pytest.raises(TranscriptError, match="not one of round 2"):
        trained.ask(trained.honest, vouched, kind="eval", round_number=3)
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
            trained.ask(trained.vouched(trained.shifted(value)))
        trained.federation.reopen(OURS)
    for aggregate in (trained.vouched(trained.shifted(100_003)), trained.honest):
        with pytest.raises(EpochClosed):
            trained.ask(aggregate)
    # What needs no decryption still goes: the site says where it stands.
    assert trained.federation.tag(OURS)


def test_split_views_are_seen_one_round_later(prepared: Trained, tmp_path: Path) -> None:
    """Hospital-1 gets another sum of round 1 than the rest: both pass, then nobody takes round 2 with both in it."""
    trained = copy_of(prepared, tmp_path, NAMES)
    with trained.federation as federation:
        views = [trained.built([0, 1, 2], [0, 1, 2]), *[trained.honest] * 3]
        replies = [
            federation.reply(federation.sites[name].answer(federation.frame("train", 2, name, send=[view])))
            for name, view in zip(NAMES, views, strict=True)
        ]
        tags = [reply.manifest.state_tag for reply in replies]
        assert tags[0] != tags[1] == tags[2] == tags[3]
        secrets = federation.secrets(2)
        mixed, alike = (federation.sum_of(chosen, secrets=secrets) for chosen in (replies, replies[1:]))
        for name, view in zip(NAMES, views, strict=True):
            # No shares are given for it, and it is not taken whoever gave them.
            with pytest.raises(DivergenceError):
                federation.sites[name].answer(federation.coordinator.unmask_request(mixed.entry.survivors, name))
            with pytest.raises(TranscriptError):
                federation.sites[name].answer(federation.frame("eval", 3, name, send=[view, mixed]))
        # Control: those who hold one model go on together, and only they.
        for name in NAMES[1:]:
            federation.sites[name].answer(federation.coordinator.unmask_request(alike.entry.survivors, name))
            federation.sites[name].answer(federation.frame("eval", 3, name, send=[trained.honest, alike]))
        with pytest.raises(TranscriptError):
            federation.sites[OURS].answer(federation.frame("eval", 3, OURS, send=[views[0], alike]))
