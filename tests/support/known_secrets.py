"""What only the hospitals of a test's federation know: the mask secrets on their disks, and the epoch's key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.advert import MaskSecrets, load_own_advert, own_advert
from client.encrypt import SecretKey
from client.member import Member
from client.round import Hospital
from client.storage import RunStorage
from client.vault import BOX, IDENTITY
from common.ckks import PRESETS, EncryptedSum, EncryptedVector, add_in_place, decode_upload, encode_sum
from common.freshness_messages import FreshnessAnswer, OpenNonce, sign_answer
from common.grid import Grid
from common.identity import Identity
from common.mask_stream import add_mask, subtract_mask
from common.masks import MaskPlace, remove_masks
from common.messages import AggregateEntry, SignedReply, Transcript, decode_reply
from common.pair_box import pair_secret
from common.plan import Plan
from server.aggregate import Aggregate
from server.masked_round import Opening
from tests.support.in_process import Coordinator
from tests.support.site_keys import site_vault


class KnownSecrets:
    """Reads and unmasks what no single party can; `folder` holds the files of all hospitals, `sites` the open ones."""

    folder: Path
    plan: Plan
    coordinator: Coordinator
    sites: dict[str, Hospital]

    @property
    def grid(self) -> Grid:
        """The plan's grid."""
        return next(iter(self.sites.values()))._contributor.grid

    def run_folder(self, name: str) -> Path:
        """Where a site keeps the current run."""
        return self.folder / "federation" / name / "state" / "runs" / self.coordinator.run

    def storage(self, name: str) -> RunStorage:
        """What a site keeps of the current run."""
        return RunStorage(self.run_folder(name), plan=self.plan.digest)

    @property
    def key(self) -> SecretKey:
        """The epoch's CKKS key, which every hospital holds."""
        return next(iter(self.sites.values()))._keys.epoch(self.plan.agreed.epoch).ckks

    def member(self, name: str) -> Member:
        """A hospital's secrets, from its own files."""
        vault = site_vault(self.folder / "federation" / name)
        identity = Identity.from_seed(vault.require(IDENTITY))
        return Member(self.plan, name, identity, vault.require(BOX), self.plan.min_cohort)

    def freshen(self, name: str, answer: Callable[[bytes], bytes] | None = None) -> None:
        """Have an open site, or what `answer` reaches, answered by the others, whose keys sign: nothing seen."""
        coordinator = self.coordinator
        frame = coordinator.sign(b"", kind="hello", round=0, hospital=name)
        told = answer(frame) if answer else self.sites[name].answer(frame)
        hello = decode_reply(told, {h.name: h.identity for h in self.plan.roster}).manifest
        coordinator.desk.note(name, hello.nonce, ledger=hello.ledger)
        for asked in coordinator.desk.nonces_for("", "keys"):
            for one in self.nothing_seen(asked):
                coordinator.desk.take((one,), one.hospital, epoch=one.epoch)

    def nothing_seen(self, asked: OpenNonce) -> list[FreshnessAnswer]:
        """What the others sign of a hospital that asks."""
        return [self.signed_answer(asked, h.name) for h in self.plan.roster if h.name != asked.hospital]

    def signed_answer(self, asked: OpenNonce, peer: str, **changes: Any) -> FreshnessAnswer:  # noqa: ANN401 -- any field
        """What one hospital signs of another."""
        usual: dict[str, Any] = {
            "run": self.coordinator.run,
            "plan": self.plan.digest,
            "epoch": self.plan.agreed.epoch,
            "nonce": asked.nonce,
            "asker": asked.hospital,
            "ledger": asked.ledger,
            "hospital": peer,
            "seen": (),
        }
        return sign_answer(FreshnessAnswer(**usual | changes), self.member(peer).identity.sign)

    def opened(self, round_number: int, names: Sequence[str] = ()) -> Opening:
        """Fix a round's opening with these hospitals, whether they are open or not."""
        known, run = self.coordinator.adverts.setdefault(round_number, {}), self.coordinator.run
        for name in names or [hospital.name for hospital in self.plan.roster]:
            if name not in known:
                made = own_advert(
                    self.member(name),
                    self.storage(name),
                    run=run,
                    round_number=round_number,
                    epoch=self.plan.agreed.epoch,
                )
                known[name] = made.full
        return self.coordinator.open(round_number, {})

    def secrets(self, round_number: int, names: Sequence[str] = ()) -> dict[str, MaskSecrets]:
        """The mask secrets of a round that is not over, from the hospitals' own disks."""
        found = {}
        for name in names or [hospital.name for hospital in self.plan.roster]:
            run = self.coordinator.run
            own = load_own_advert(
                self.member(name),
                self.storage(name),
                run=run,
                round_number=round_number,
            )
            assert own is not None
            found[name] = own.secrets
        return found

    def place(self, round_number: int, *, attempt: int = 0) -> MaskPlace:
        """What the masks of an attempt are for."""
        run, plan = self.coordinator.run, self.plan
        return MaskPlace(run, plan.digest, plan.agreed.epoch, round_number, attempt)

    def decrypted(self, reply: SignedReply) -> NDArray[np.int64]:
        """The integers in one upload, with what only its hospital knows; its round must not be over."""
        plain = self.plain(reply, self.secrets(reply.manifest.round, [reply.manifest.hospital]))
        return self.key.decrypt(EncryptedSum(plain.parameters, plain.words, (plain.seeds,)), self.grid)

    def plain(self, reply: SignedReply, secrets: Mapping[str, MaskSecrets]) -> EncryptedVector:
        """The ciphertexts of a reply without their masks."""
        manifest, upload, position = reply.manifest, self.upload(reply), self.plan.agreed.position
        own, at = secrets[manifest.hospital], position(manifest.hospital)
        place = self.place(manifest.round, attempt=manifest.attempt)
        opening = self.coordinator.openings[manifest.round]
        assert opening.digest == manifest.opening
        subtract_mask(upload.words, place.self_key(own.seed, at), upload.parameters)
        for full in opening.adverts:
            if (peer := position(full.advert.hospital)) != at:
                pair = place.pair_key(pair_secret(own.key, full.advert.mask_key), at, peer)
                (subtract_mask if at < peer else add_mask)(upload.words, pair, upload.parameters)
        return upload

    def upload(self, reply: SignedReply) -> EncryptedVector:
        """The ciphertexts of a reply, masked as they were sent."""
        return decode_upload(reply.body, reply.manifest.chunks, PRESETS[self.plan.encryption.preset])

    def masked_sum(self, replies: Sequence[SignedReply]) -> EncryptedSum:
        """The sum of just these uploads, whatever they hold."""
        uploads = [self.upload(reply) for reply in replies]
        words = np.zeros_like(uploads[0].words)
        for upload in uploads:
            add_in_place(words, upload.words, upload.parameters)
        return EncryptedSum(uploads[0].parameters, words, tuple(upload.seeds for upload in uploads))

    def transcript(
        self, round_number: int, names: Sequence[str], secrets: Mapping[str, MaskSecrets], *, upload_bytes: int
    ) -> Transcript:
        """What verifies a sum of these survivors."""
        adverts = tuple(full.advert for full in self.coordinator.openings[round_number].adverts)
        return Transcript(
            adverts=adverts,
            seeds=tuple(secrets[name].seed.hex() for name in names),
            mask_secrets=tuple(secrets[a.hospital].key.hex() for a in adverts if a.hospital not in names),
            upload_bytes=upload_bytes,
        )

    def unmask(self, total: EncryptedSum, place: MaskPlace, names: Sequence[str], transcript: Transcript) -> None:
        """Take the masks of these survivors off a sum, in place."""
        position, keys = self.plan.agreed.position, {a.hospital: a.mask_key for a in transcript.adverts}
        gone = [a.hospital for a in transcript.adverts if a.hospital not in names]
        remove_masks(
            total.words,
            total.parameters,
            place=place,
            seeds={position(n): bytes.fromhex(seed) for n, seed in zip(names, transcript.seeds, strict=True)},
            mask_keys={position(name): keys[name] for name in names},
            dropped={position(n): bytes.fromhex(key) for n, key in zip(gone, transcript.mask_secrets, strict=True)},
        )

    def sum_of(self, replies: Sequence[SignedReply], *, secrets: Mapping[str, MaskSecrets]) -> Aggregate:
        """The unmasked sum of just these uploads with its transcript, whatever models they start from."""
        first, names = replies[0].manifest, [reply.manifest.hospital for reply in replies]
        transcript = self.transcript(first.round, names, secrets, upload_bytes=len(replies[0].body))
        total = self.masked_sum(replies)
        self.unmask(total, self.place(first.round, attempt=first.attempt), names, transcript)
        body = encode_sum(total)
        entry = AggregateEntry(
            round=first.round,
            attempt=first.attempt,
            survivors=tuple(reply.signed for reply in replies),
            sum_bytes=len(body),
            transcript=transcript,
            witnesses=(),
        )
        return Aggregate.held(entry, b"".join([body, *(reply.body for reply in replies)]))
