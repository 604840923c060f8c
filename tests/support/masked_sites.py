"""Hospitals that mask, sign and reveal with the real code, on random words of the ring: no data, training or CKKS."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from client.advert import own_advert
from client.hpke import box_public_hex
from client.member import Member
from client.opening import known_opening, open_round
from client.reveal import Revealer
from client.storage import RunStorage
from client.verify import Expectation
from common.card import sign_card
from common.ckks import EncryptedVector, encode_upload
from common.config import parse_settings
from common.identity import Identity
from common.mask_messages import BOX_BYTES, FullAdvert, encode_document, shares_root, sign
from common.messages import (
    NOTHING_APPLIED,
    Applied,
    Manifest,
    Request,
    SignedManifest,
    Transcript,
    decode_reply,
    encode_reply,
)
from common.node_key import write_node_key
from common.pair_box import public_hex
from common.plan import Plan
from common.transcript import EMPTY_CHAIN, merkle_root
from server.admit import OpenExchange, admit
from server.aggregate import Aggregate, RunningSum
from server.ask import expected_answer
from server.masked_round import Opening, Unmasking
from server.steps import Step
from tests.support.flower_federation import REPOSITORY
from tests.support.replies import CHUNKS, NAMES, PARAMETERS, RUN, random_words

# As many values as fill CHUNKS ciphertexts.
TRAINABLE_PARAMETERS = 4500


@dataclass(frozen=True)
class Ended:
    """A round that was unmasked: its sum, what verifies it, its uploads, and the words before the masks."""

    aggregate: Aggregate
    transcript: Transcript
    uploads: dict[str, bytes]
    words: dict[str, NDArray[np.uint64]]

    @property
    def plain_sum(self) -> NDArray[np.uint64]:
        """The survivors' words, added by numpy in 64 bits."""
        return np.asarray(np.stack(list(self.words.values())).sum(axis=0) % np.uint64(PARAMETERS.modulus))


@dataclass
class MaskedSites:
    """Four hospitals of one plan, of which three are needed, and the coordinator's view of them."""

    folder: Path
    rounds: int = 6
    attempts: int = 2
    round_timeout_s: float = 5.0
    page_kib: int = 4096
    whole_kib: int = 16_384
    coordinator: Identity = field(default_factory=Identity.generate)
    identities: dict[str, Identity] = field(default_factory=lambda: {name: Identity.generate() for name in NAMES})
    boxes: dict[str, bytes] = field(default_factory=lambda: {name: secrets.token_bytes(32) for name in NAMES})

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan = self._agree()

    def member(self, name: str) -> Member:
        """A hospital in its roster."""
        return Member(self.plan, name, self.identities[name], self.boxes[name], self.plan.needed)

    def storage(self, name: str) -> RunStorage:
        """What it keeps of the run."""
        return RunStorage(self.folder / name / "runs" / RUN, plan=self.plan.digest)

    def advert(self, name: str, round_number: int) -> FullAdvert:
        """What it announces for a round."""
        return own_advert(self.member(name), self.storage(name), run=RUN, round_number=round_number, epoch=1).full

    def deal_badly(self, liar: str, round_number: int, *, about: str) -> None:
        """Have a hospital announce another `commitment` or `mask_key` than its shares give, or seal junk in each `box`.

        All is as it signed it.
        """
        full = self.advert(liar, round_number)
        if about == "box":
            junk = tuple(one.model_copy(update={"box": secrets.token_hex(BOX_BYTES)}) for one in full.shares)
            full = full.model_copy(update={"shares": junk})
            other = {"shares_root": shares_root(junk)}
        else:
            other = {about: {"commitment": "9" * 64, "mask_key": public_hex(secrets.token_bytes(32))}[about]}
        advert = sign(full.advert.model_copy(update=other), self.identities[liar].sign)
        storage = self.storage(liar)
        kept, told = storage.load_masks(round_number), encode_document(self.advert(liar, round_number))
        assert kept is not None
        lie = encode_document(full.model_copy(update={"advert": advert}))
        storage.save_masks(round_number, kept.removesuffix(told) + lie)

    def opening(self, round_number: int, names: Sequence[str] = NAMES) -> Opening:
        """A round's opening with some of them."""
        return Opening(tuple(self.advert(name, round_number) for name in names))

    def expected(self, opening: Opening, *, attempt: int = 0) -> OpenExchange:
        """What the coordinator takes as an upload."""
        step = Step("train", opening.adverts[0].advert.round)
        return expected_answer(self.plan, RUN, step, attempt=attempt, epoch=1, opening=opening.digest)

    def request(self, kind: str, round_number: int, name: str, **changes: Any) -> Request:  # noqa: ANN401 -- any field
        """A request that was verified."""
        fields: dict[str, Any] = {
            "kind": kind,
            "run": RUN,
            "plan": self.plan.digest,
            "epoch": 1,
            "round": round_number,
            "attempt": 0,
            "hospital": name,
            "aggregates": (),
            "adverts": (),
            "survivors": (),
            "body_sha256": hashlib.sha256(b"").hexdigest(),
        }
        return Request(**fields | changes)

    def upload(  # noqa: PLR0913 -- what an upload depends on
        self,
        name: str,
        opening: Opening,
        words: NDArray[np.uint64],
        *,
        attempt: int = 0,
        applied: Applied | None = None,
        tag: str = "",
    ) -> bytes:
        """The frame of a hospital's masked upload; one that is not in the opening observes.

        Args:
            name: The hospital.
            opening: What the round is opened with.
            words: Before the masks, shape (CHUNKS, N); left alone.
            attempt: Of the round.
            applied: What its model rests on; None: all rounds before were skipped.
            tag: State tag, if not that of `applied`.
        """
        number, member = opening.adverts[0].advert.round, self.member(name)
        delivered = opening.delivered_to(member.position)
        request = self.request("train", number, name, attempt=attempt, adverts=delivered)
        opened = open_round(request, member, self.storage(name))
        applied, body = applied or after_skips(number - 1), b""
        if opened.own is not None:
            # Seeds are fresh in each encryption; here they tell whose they are, and stay the same in a rerun.
            seeds = bytes([NAMES.index(name), attempt, number]).ljust(64, b".") * CHUNKS
            vector = EncryptedVector(PARAMETERS, words.copy(), seeds)
            opened.mask(vector, member, run=RUN, attempt=attempt)
            body = encode_upload(vector)
        manifest = self._manifest(request, body, applied=applied, opening=opened.digest, tag=tag)
        frame = encode_reply(manifest, body, member.identity.sign)
        self.storage(name).save_reply(number, attempt, frame)
        return frame

    def reveal(self, name: str, survivors: tuple[SignedManifest, ...], *, following: FullAdvert | None = None) -> bytes:
        """What a hospital answers to `unmask`."""
        place, storage, member = survivors[0].manifest, self.storage(name), self.member(name)
        opening, own = known_opening(place.round, storage), storage.load_reply(place.round, place.attempt)
        expected = Expectation(
            member=member,
            run=RUN,
            epoch=1,
            state_tag=tag_of(place.applied),
            applied=place.applied,
            opening=opening.digest if opening else None,
            revealed=None,
            own=decode_reply(own, member.identities) if own else None,
            revealed_before="",
        )
        request = self.request("unmask", place.round, name, attempt=place.attempt, survivors=survivors)
        return Revealer(member, storage, expected).answer(request, following)

    def collected(
        self, opening: Opening, words: dict[str, NDArray[np.uint64]], *, applied: Applied | None = None
    ) -> tuple[RunningSum, dict[str, bytes]]:
        """The uploads of these hospitals, admitted and added in this order, and their bodies."""
        total, uploads = RunningSum(PARAMETERS), dict[str, bytes]()
        for name, own in words.items():
            frame = self.upload(name, opening, own, applied=applied)
            admitted = admit(frame, name, expected=self.expected(opening), seen={})
            assert admitted is not None
            assert admitted.upload is not None
            total.add(admitted.signed, admitted.upload)
            uploads[name] = bytes(admitted.body)
        return total, uploads

    def unmasking(self, opening: Opening, total: RunningSum, *, revealing: Sequence[str] | None = None) -> Unmasking:
        """The shares for the largest group, from its members unless others are named."""
        unmasking = Unmasking(self.plan, RUN, opening, total.survivors(NAMES))
        for name in unmasking.names if revealing is None else revealing:
            unmasking.take(self.reveal(name, unmasking.survivors), name)
        return unmasking

    def ended(
        self,
        round_number: int,
        survivors: Sequence[str] = NAMES,
        *,
        opened: Sequence[str] = NAMES,
        applied: Applied | None = None,
    ) -> Ended:
        """A whole round of random words."""
        words = {name: random_words(100 * round_number + NAMES.index(name)) for name in survivors}
        opening = self.opening(round_number, opened)
        total, uploads = self.collected(opening, words, applied=applied)
        aggregate, transcript = total.unmasked(self.unmasking(opening, total))
        return Ended(aggregate, transcript, uploads, words)

    def _manifest(self, request: Request, body: bytes, *, applied: Applied, opening: str, tag: str) -> Manifest:
        return Manifest(
            kind=request.kind,
            run=RUN,
            plan=self.plan.digest,
            epoch=1,
            round=request.round,
            attempt=request.attempt,
            hospital=request.hospital,
            role="contribute" if body else "observe",
            reason="",
            parameters=PARAMETERS.digest(),
            opening=opening,
            revealed="",
            state_tag=tag or tag_of(applied),
            applied=applied,
            ledger_sequence=request.round,
            ledger_head=EMPTY_CHAIN,
            ledger=EMPTY_CHAIN,
            nonce="",
            chunks=CHUNKS if body else 0,
            root=merkle_root(body, CHUNKS) if body else "",
        )

    def _agree(self) -> Plan:
        content = yaml.safe_load((REPOSITORY / "configs" / "plans" / "skin9.yaml").read_text(encoding="utf-8"))
        content["training"]["rounds"] = self.rounds
        content["privacy"]["mean_share"] = 0.0
        content["encryption"]["update_norm_bound"] = 1.0
        content["metrics"]["released"] = "none"
        content["cohort"] |= {"threshold": 3, "min_cohort": 3}
        content["cohort"] |= {"round_timeout_s": self.round_timeout_s, "attempts": self.attempts}
        content["cohort"] |= {"page_kib": self.page_kib, "whole_kib": self.whole_kib}
        roster = []
        for name, identity in self.identities.items():
            (self.folder / name).mkdir(exist_ok=True)
            node, box = write_node_key(self.folder / name / "node.key"), box_public_hex(self.boxes[name])
            card = sign_card(identity, name=name, box=box, node=node, declared_units=100)
            roster.append(card.model_dump(mode="json"))
        content["federation"] = {
            "coordinator": self.coordinator.public_hex,
            "epoch": 1,
            "trainable_parameters": TRAINABLE_PARAMETERS,
            "hospitals": roster,
        }
        return parse_settings(yaml.safe_dump(content), Plan, source="plan")


def tag_of(applied: Applied) -> str:
    """The state tag: there is no model but the chain."""
    return hashlib.sha256(applied.chain.encode()).hexdigest()


def after_skips(rounds: int) -> Applied:
    """What a model rests on after that many rounds that were all skipped."""
    applied = NOTHING_APPLIED
    for _ in range(rounds):
        applied = applied.followed_by("")
    return applied
