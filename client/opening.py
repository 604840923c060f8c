"""The opening of a round: whose adverts it has, checked and fixed before anything is uploaded under it.

The masks of two openings of one round open two sums of the same updates, and their difference is one hospital's update.
So a site keeps the first opening that it sees and takes no other for that round, in whatever attempt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from client.advert import OwnAdvert, load_own_advert
from client.member import Member
from client.storage import RunStorage
from common.canonical import canonical_bytes
from common.ckks import EncryptedVector
from common.errors import LocalProtocolError, SiteStorageError, SplitViewError, TranscriptError
from common.mask_messages import Advert, DeliveredAdvert, identity_of, opening_digest
from common.masks import MaskPlace, add_own_masks
from common.messages import Request


@dataclass(frozen=True, slots=True)
class Opening:
    """What a round was opened with.

    Args:
        delivered: The adverts in roster order, each with this hospital's sealed shares.
        own: This hospital's secrets, if the advert that it made of them is among them.
    """

    delivered: tuple[DeliveredAdvert, ...]
    own: OwnAdvert | None

    @property
    def adverts(self) -> tuple[Advert, ...]:
        """The adverts alone."""
        return tuple(one.advert for one in self.delivered)

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Who is in it, in roster order."""
        return tuple(one.advert.hospital for one in self.delivered)

    @property
    def digest(self) -> str:
        """What all hospitals compare."""
        return opening_digest(self.adverts)

    def mask(self, vector: EncryptedVector, member: Member, *, run: str, attempt: int) -> None:
        """Add this hospital's masks to its upload, in place.

        Args:
            vector: The upload, freshly encrypted.
            member: This hospital, which is in the opening.
            run: The run.
            attempt: The attempt of the round.

        Raises:
            LocalProtocolError: If this hospital is not in the opening.
        """
        if self.own is None:
            raise LocalProtocolError("an upload for a round that opens without this hospital's advert")
        advert, agreed = self.own.full.advert, member.plan.agreed
        add_own_masks(
            vector.words,
            vector.parameters,
            place=MaskPlace(run, advert.plan, advert.epoch, advert.round, attempt),
            position=member.position,
            seed=self.own.secrets.seed,
            mask_secret=self.own.secrets.key,
            peers={agreed.position(one.hospital): one.mask_key for one in self.adverts if one != advert},
        )


def open_round(request: Request, member: Member, storage: RunStorage) -> Opening:
    """Check what the coordinator opens a round with, and fix it.

    Args:
        request: A `train` or `eval` request that was verified.
        member: This hospital.
        storage: Keeps the first opening of each round.

    Returns:
        The opening; it is on the disk.

    Raises:
        SplitViewError: If the round was opened with other adverts before.
        TranscriptError: If too few hospitals are in it, or it is not in roster order, or holds an advert of another
            round.
        BadSignature: If an advert was not signed by its hospital.
        MalformedMessage: If it comes with other shares than were signed.
        SiteStorageError: If the disk refuses.
    """
    _check(request, member)
    own = load_own_advert(member, storage, run=request.run, round_number=request.round)
    # Another advert of ours is from before this site lost its disk: its secrets are gone, so it sits the round out.
    known_here = own is not None and any(one.advert == own.full.advert for one in request.adverts)
    opening = Opening(request.adverts, own if known_here else None)
    known = storage.load_opening(request.round)
    if known is None:
        storage.save_opening(request.round, canonical_bytes([one.model_dump(mode="json") for one in opening.delivered]))
    elif _read(known, request.round).digest != opening.digest:
        raise SplitViewError(
            f"round {request.round} was opened with other adverts before; two openings would give two sums of the "
            "same updates; refuse it, and stop the run"
        )
    return opening


def known_opening(round_number: int, storage: RunStorage) -> Opening | None:
    """The opening that was fixed for a round, or None; without our own secrets.

    Raises:
        SiteStorageError: If the disk refuses or its content is damaged.
    """
    data = storage.load_opening(round_number)
    return None if data is None else _read(data, round_number)


def _check(request: Request, member: Member) -> None:
    plan = member.plan
    names = [one.advert.hospital for one in request.adverts]
    if names != [hospital.name for hospital in plan.roster if hospital.name in set(names)]:
        raise TranscriptError("an opening's adverts are not of distinct hospitals in roster order; refuse it")
    needed = max(member.least, plan.threshold)
    if len(names) < needed:
        raise TranscriptError(
            f"round {request.round} opens with {len(names)} hospitals; at least {needed} are allowed; refuse it"
        )
    for one in request.adverts:
        advert = one.advert
        seen = (advert.run, advert.plan, advert.epoch, advert.round)
        if seen != (request.run, plan.digest, request.epoch, request.round):
            raise TranscriptError(f"the advert of {advert.hospital} is not one of round {request.round}; refuse it")
        public_hex = identity_of(advert.hospital, member.identities)
        one.check(public_hex, position=member.position, hospitals=len(plan.roster))


def _read(data: bytes, round_number: int) -> Opening:
    try:
        return Opening(tuple(DeliveredAdvert.model_validate(one) for one in json.loads(data)), None)
    except ValueError as error:
        raise SiteStorageError(
            f"the opening of round {round_number} on the disk is damaged; this site sits this run out; mend the disk "
            "and start a new run"
        ) from error
