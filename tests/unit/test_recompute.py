"""A sum that is not the unmasked sum of the signed uploads is refused before anything of it is decrypted.

The coordinator signs each lie, holds all uploads and all shares of the round, and hospital-1 is asked to take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from client.advert import MaskSecrets
from client.encrypt import SecretKey
from common.ckks import EncryptedSum, EncryptedVector, add_in_place, encode_sum, encode_upload
from common.ckks_parameters import SEED_BYTES
from common.errors import (
    AggregateMismatch,
    BadSignature,
    FedwardError,
    MalformedMessage,
    SplitViewError,
    TranscriptError,
)
from common.identity import verify
from common.mask_messages import Advert, sign
from common.messages import Request, SignedReply, Transcript
from common.request_frames import REQUEST_MAGIC
from common.transcript import merkle_root
from common.wire import parse_header, signed_bytes
from server.aggregate import Aggregate
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


@dataclass
class Unmasked:
    """Round 1 with three survivors of four, its shares given: what the coordinator can build lies from."""

    federation: SmallFederation
    replies: list[SignedReply]
    honest: Aggregate
    secrets: dict[str, MaskSecrets]
    other: dict[str, MaskSecrets]

    @property
    def transcript(self) -> Transcript:
        """The honest one."""
        assert self.honest.entry.transcript is not None
        return self.honest.entry.transcript

    @property
    def total(self) -> bytes:
        """The honest sum."""
        return self.honest.body[: self.honest.entry.sum_bytes]

    @property
    def uploads(self) -> list[bytes]:
        """What was signed."""
        return [bytes(reply.body) for reply in self.replies]

    def plain(self) -> list[EncryptedVector]:
        """The uploads without masks."""
        return [self.federation.plain(reply, self.secrets) for reply in self.replies]

    def words(self, uploads: Sequence[EncryptedVector], seeds: Sequence[bytes] = ()) -> bytes:
        """A sum of these, with seeds as they are or these."""
        total = np.zeros_like(uploads[0].words)
        for upload in uploads:
            add_in_place(total, upload.words, upload.parameters)
        return encode_sum(EncryptedSum(uploads[0].parameters, total, tuple(seeds or [u.seeds for u in uploads])))

    def sent(
        self, total: bytes | None = None, *, uploads: Sequence[bytes] = (), transcript: Transcript | None = None
    ) -> Aggregate:
        """The honest aggregate with other parts."""
        body = self.total if total is None else total
        entry = self.honest.entry.model_copy(
            update={"transcript": transcript or self.transcript, "sum_bytes": len(body)}
        )
        return Aggregate.held(entry, b"".join([body, *(uploads or self.uploads)]))

    def told(self, **changes: object) -> Aggregate:
        """The honest aggregate with another transcript."""
        return self.sent(transcript=self.transcript.model_copy(update=changes))

    def remasked(self, transcript: Transcript) -> Aggregate:
        """What the signed uploads give with the masks of this transcript taken off."""
        total = self.federation.masked_sum(self.replies)
        place, names = self.federation.place(1), [reply.manifest.hospital for reply in self.replies]
        self.federation.unmask(total, place, names, transcript)
        return self.sent(encode_sum(total), transcript=transcript)


@pytest.fixture(scope="module")
def prepared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Unmasked:
    """Hospital-4 dropped out; all shares were given; the services are stopped."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("unmasked")) as federation:
        coordinator = federation.coordinator
        coordinator.open(1, federation.sites)
        three = {name: federation.sites[name] for name in NAMES[:3]}
        replies, total = coordinator.collect("train", 1, three)
        secrets = federation.secrets(1)
        honest = coordinator.unmask(1, replies, three, total=total)
        federation.opened(2)
        return Unmasked(federation, replies, honest, secrets, federation.secrets(2))


@pytest.fixture
def unmasked(prepared: Unmasked, tmp_path: Path) -> Iterator[Unmasked]:
    """The same with hospital-1 open on files of its own."""
    with SmallFederation.copy_of(prepared.federation.folder, tmp_path, sites=[OURS]) as federation:
        federation.coordinator.run = prepared.federation.coordinator.run
        federation.coordinator.openings = dict(prepared.federation.coordinator.openings)
        yield replace(prepared, federation=federation)


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def one_word(unmasked: Unmasked) -> Aggregate:
    """The very last word of the sum is one more."""
    vectors = unmasked.plain()
    words = vectors[0].words
    words[-1, -1] = (words[-1, -1] + np.uint64(1)) % np.uint64(vectors[0].parameters.modulus)
    return unmasked.sent(unmasked.words(vectors))


def encryption_added(unmasked: Unmasked) -> Aggregate:
    """A fourth encryption is in the sum, under seeds that are there: a change of one's own by a known amount."""
    vectors = unmasked.plain()
    extra = replace(vectors[1], words=np.full_like(vectors[1].words, 1000))
    return unmasked.sent(unmasked.words([*vectors, extra], [bytes(v.seeds) for v in vectors]))


def swapped_seeds(unmasked: Unmasked) -> Aggregate:
    """Two peers' seeds have changed places, and so has nothing else: it would even decrypt."""
    vectors = unmasked.plain()
    return unmasked.sent(unmasked.words(vectors, [vectors[i].seeds for i in (0, 2, 1)]))


def other_seeds(unmasked: Unmasked) -> Aggregate:
    """Seeds that nobody has signed."""
    vectors = unmasked.plain()
    return unmasked.sent(unmasked.words(vectors, [*(v.seeds for v in vectors[:2]), bytes(len(vectors[2].seeds))]))


def fresh_upload(unmasked: Unmasked) -> Aggregate:
    """Hospital-3's upload is replaced by one of whoever has the key, in the sum and in the transcript."""
    vectors, key = unmasked.plain(), unmasked.federation.key
    integers = key.decrypt(
        EncryptedSum(vectors[2].parameters, vectors[2].words, (vectors[2].seeds,)), unmasked.federation.grid
    )
    own = key.encrypt(integers, unmasked.federation.grid)
    return unmasked.sent(unmasked.words([*vectors[:2], own]), uploads=[*unmasked.uploads[:2], encode_upload(own)])


def out_of_ring(unmasked: Unmasked) -> list[bytes]:
    """Uploads of which the second has its first word outside the ring."""
    body = bytearray(unmasked.uploads[1])
    body[:8] = b"\xff" * 8
    return [unmasked.uploads[0], bytes(body), unmasked.uploads[2]]


def other_advert(unmasked: Unmasked, **changes: object) -> tuple[Advert, ...]:
    """The opening's adverts with hospital-2's replaced by another that it has signed."""
    adverts = list(unmasked.transcript.adverts)
    identity = unmasked.federation.member(NAMES[1]).identity
    adverts[1] = sign(adverts[1].model_copy(update=changes), identity.sign)
    return tuple(adverts)


MISMATCHES: dict[str, Callable[[Unmasked], Aggregate]] = {
    "one word": one_word,
    "an encryption added": encryption_added,
    "an upload omitted": lambda u: u.sent(u.words(u.plain()[:2], [bytes(v.seeds) for v in u.plain()])),
    "an upload doubled": lambda u: u.sent(u.words([*u.plain(), u.plain()[1]], [bytes(v.seeds) for v in u.plain()])),
    "an upload doubled for another": lambda u: u.sent(
        u.words([*u.plain()[:2], u.plain()[1]], [bytes(v.seeds) for v in u.plain()])
    ),
    "the masks left on": lambda u: u.sent(encode_sum(u.federation.masked_sum(u.replies))),
    "uploads swapped": lambda u: u.sent(uploads=[u.uploads[i] for i in (0, 2, 1)]),
    "an upload sent twice": lambda u: u.sent(uploads=[u.uploads[i] for i in (0, 1, 1)]),
    "seeds swapped": swapped_seeds,
    "other seeds": other_seeds,
    "an upload that nobody signed": fresh_upload,
    "a bit of an upload": lambda u: u.sent(uploads=[u.uploads[0], flipped(u.uploads[1], 20), u.uploads[2]]),
    "a bit of an upload's seeds": lambda u: u.sent(
        uploads=[*u.uploads[:2], flipped(u.uploads[2], len(u.uploads[2]) - 1)]
    ),
}

REFUSED: dict[str, tuple[Callable[[Unmasked], Aggregate], type[FedwardError]]] = {
    "a self-mask seed of another round": (
        lambda u: u.told(seeds=(*u.transcript.seeds[:2], u.other[NAMES[2]].seed.hex())),
        TranscriptError,
    ),
    "the same, and the sum that it gives": (
        lambda u: u.remasked(
            u.transcript.model_copy(update={"seeds": (*u.transcript.seeds[:2], u.other[NAMES[2]].seed.hex())})
        ),
        TranscriptError,
    ),
    "two self-mask seeds swapped": (
        lambda u: u.told(seeds=tuple(u.transcript.seeds[i] for i in (1, 0, 2))),
        TranscriptError,
    ),
    "a self-mask seed left out": (lambda u: u.told(seeds=u.transcript.seeds[:2]), TranscriptError),
    "a self-mask seed too many": (lambda u: u.told(seeds=(*u.transcript.seeds, "0" * 64)), TranscriptError),
    "a mask key of another round": (lambda u: u.told(mask_secrets=(u.other[NAMES[3]].key.hex(),)), TranscriptError),
    "the same, and the sum that it gives anew": (
        lambda u: u.remasked(u.transcript.model_copy(update={"mask_secrets": (u.other[NAMES[3]].key.hex(),)})),
        TranscriptError,
    ),
    "a mask key left out": (lambda u: u.told(mask_secrets=()), TranscriptError),
    "a survivor's mask key besides": (
        lambda u: u.told(mask_secrets=(*u.transcript.mask_secrets, u.secrets[NAMES[1]].key.hex())),
        TranscriptError,
    ),
    "an advert left out": (lambda u: u.told(adverts=u.transcript.adverts[:3], mask_secrets=()), SplitViewError),
    "adverts in another order": (
        lambda u: u.told(adverts=tuple(u.transcript.adverts[i] for i in (1, 0, 2, 3))),
        SplitViewError,
    ),
    "another advert of hospital-2": (
        lambda u: u.told(adverts=other_advert(u, mask_key=u.transcript.adverts[2].mask_key)),
        SplitViewError,
    ),
    "the next round's adverts": (
        lambda u: u.told(adverts=tuple(full.advert for full in u.federation.coordinator.openings[2].adverts)),
        SplitViewError,
    ),
    "an advert that is not signed": (
        lambda u: u.told(
            adverts=(*u.transcript.adverts[:3], u.transcript.adverts[3].model_copy(update={"signature": "0" * 128}))
        ),
        SplitViewError,
    ),
    "uploads of another size": (
        lambda u: u.sent(
            uploads=[upload[:-1] for upload in u.uploads],
            transcript=u.transcript.model_copy(update={"upload_bytes": u.transcript.upload_bytes - 1}),
        ),
        MalformedMessage,
    ),
    "no uploads": (
        lambda u: Aggregate.held(
            u.honest.entry.model_copy(update={"transcript": u.transcript.model_copy(update={"upload_bytes": 0})}),
            u.total,
        ),
        MalformedMessage,
    ),
    "an upload left out": (lambda u: u.sent(uploads=u.uploads[:2]), MalformedMessage),
    "an upload with a word outside the ring": (lambda u: u.sent(uploads=out_of_ring(u)), MalformedMessage),
}


def offer(unmasked: Unmasked, aggregate: Aggregate) -> bytes:
    """Ask hospital-1 to take it."""
    return unmasked.federation.sites[OURS].answer(unmasked.federation.frame("hello", 0, OURS, send=[aggregate]))


@pytest.fixture
def decryptions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the epoch's key was used on a sum."""
    seen, decrypt = list[int](), SecretKey.decrypt

    def counted(key: SecretKey, *arguments: object) -> object:
        seen.append(1)
        return decrypt(key, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SecretKey, "decrypt", counted)
    return seen


def expect_refused(unmasked: Unmasked, aggregate: Aggregate, error: type[FedwardError], decryptions: list[int]) -> None:
    """Nothing was decrypted or counted, nothing changed; and the honest sum is then taken, with one decryption."""
    federation = unmasked.federation
    before = federation.tag(OURS)
    decryptions.clear()
    with pytest.raises(error):
        offer(unmasked, aggregate)
    assert not decryptions
    assert federation.tag(OURS) == before
    assert federation.storage(OURS).load_state() is None
    assert not list((federation.folder / "federation" / OURS / "state").glob("refused-*"))
    offer(unmasked, unmasked.honest)
    assert len(decryptions) == 1
    assert federation.state(OURS).applied.round == 1


@pytest.mark.parametrize("lie", MISMATCHES)
def test_another_sum_is_refused_undecrypted_and_kept_as_evidence(
    unmasked: Unmasked, decryptions: list[int], lie: str
) -> None:
    """What is kept shows to others what the coordinator signed: survivors with their roots, and the body's digest."""
    aggregate = MISMATCHES[lie](unmasked)
    expect_refused(unmasked, aggregate, AggregateMismatch, decryptions)
    data = (unmasked.federation.run_folder(OURS) / "evidence-1").read_bytes()
    signature, header = bytes.fromhex(data[:128].decode()), data[128:]
    coordinator = unmasked.federation.plan.agreed.coordinator
    verify(coordinator, signature, signed_bytes(REQUEST_MAGIC, header))
    kept = parse_header(header, Request)
    assert kept.aggregates == (aggregate.entry,)
    identities = {h.name: h.identity for h in unmasked.federation.plan.roster}
    for signed, reply in zip(kept.aggregates[0].survivors, unmasked.replies, strict=True):
        signed.check(identities[signed.manifest.hospital])
        assert signed.manifest.root == merkle_root(reply.body, signed.manifest.chunks)
    # Control: the signature is over these bytes and no others.
    with pytest.raises(BadSignature):
        verify(coordinator, signature, signed_bytes(REQUEST_MAGIC, flipped(header, 100)))


@pytest.mark.parametrize("lie", REFUSED)
def test_a_transcript_that_does_not_fit_is_refused_undecrypted(
    unmasked: Unmasked, decryptions: list[int], lie: str
) -> None:
    """Wrong seeds, mask keys, adverts or uploads; each by its own name, and without evidence of a wrong sum."""
    build, error = REFUSED[lie]
    expect_refused(unmasked, build(unmasked), error, decryptions)
    assert not (unmasked.federation.run_folder(OURS) / "evidence-1").exists()


def test_seeds_that_have_changed_places_would_decrypt(unmasked: Unmasked) -> None:
    """Why seeds are compared with the signed uploads: the sum of their expansions does not care about order."""
    vectors, key = unmasked.plain(), unmasked.federation.key
    total = np.zeros_like(vectors[0].words)
    for vector in vectors:
        add_in_place(total, vector.words, vector.parameters)
    orders = [(0, 1, 2), (0, 2, 1)]
    seen = [
        key.decrypt(
            EncryptedSum(vectors[0].parameters, total, tuple(vectors[i].seeds for i in order)), unmasked.federation.grid
        )
        for order in orders
    ]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert len(vectors[0].seeds) == SEED_BYTES * len(total)


def test_the_rebuilt_sum_is_the_one_that_the_shares_gave(unmasked: Unmasked) -> None:
    """The control of what the lies are built from: both ways to unmask give the honest bytes."""
    assert unmasked.words(unmasked.plain()) == unmasked.total
    assert unmasked.remasked(unmasked.transcript) == unmasked.honest
    secrets = unmasked.secrets
    assert unmasked.federation.sum_of(unmasked.replies, secrets=secrets) == unmasked.honest
