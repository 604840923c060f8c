"""A round's masks as the coordinator sees them: the opening that it sends, and the shares that take the masks off."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from common.errors import BadShare, MalformedMessage, WrongRound
from common.mask_messages import (
    DeliveredAdvert,
    FullAdvert,
    Reveal,
    commitment_of,
    decode_document,
    identity_of,
    opening_digest,
    share_digest,
)
from common.masks import MaskPlace, Unmask, find_masks
from common.messages import SignedManifest, Transcript, survivors_digest
from common.pair_box import KEY_BYTES, pair_secret, public_hex
from common.plan import Plan
from common.shamir import combine_shares

log = logging.getLogger(__name__)

_ANY_SECRET = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Opening:
    """The adverts that a round is opened with, in roster order: fixed once it was sent to anybody."""

    adverts: tuple[FullAdvert, ...]

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Who is in it."""
        return tuple(one.advert.hospital for one in self.adverts)

    @property
    def digest(self) -> str:
        """What all hospitals compare."""
        return opening_digest([one.advert for one in self.adverts])

    def delivered_to(self, position: int) -> tuple[DeliveredAdvert, ...]:
        """The adverts for the hospital at this place of the roster."""
        return tuple(one.delivered_to(position) for one in self.adverts)


def read_advert(  # noqa: PLR0913 -- bytes, and all that they must be for
    data: bytes, hospital: str, *, plan: Plan, run: str, round_number: int, epoch: int
) -> FullAdvert:
    """Check an advert that a hospital sent.

    Raises:
        MalformedMessage: If it is none, or its shares are not those it signed, or no secret can be shared with its key.
        BadSignature: If this hospital did not sign it.
        WrongRound: If it is for another run, plan, epoch or round.
    """
    full = decode_document(data, FullAdvert)
    return check_advert(full, hospital, plan=plan, run=run, round_number=round_number, epoch=epoch)


def check_advert(  # noqa: PLR0913 -- see `read_advert`
    full: FullAdvert, hospital: str, *, plan: Plan, run: str, round_number: int, epoch: int
) -> FullAdvert:
    """The same for one that came in another message."""
    advert = full.advert
    seen = (advert.hospital, advert.run, advert.plan, advert.epoch, advert.round)
    if seen != (hospital, run, plan.digest, epoch, round_number):
        raise WrongRound(f"an advert of {hospital} is not one of round {round_number} of this run; refuse it")
    full.check(identity_of(hospital, {one.name: one.identity for one in plan.roster}), hospitals=len(plan.roster))
    # With a key that all others must refuse, no round that it opens would get an upload.
    pair_secret(_ANY_SECRET, advert.mask_key)
    return full


@dataclass(slots=True)
class Unmasking:
    """The shares that hospitals reveal for one set of survivors.

    Args:
        plan: The plan.
        run: The run.
        opening: What the round was opened with.
        survivors: The signed manifests of those whose uploads are in the sum, in roster order.
        liars: Hospitals whose shares, all good, do not give what they announced.
        blanks: Per dealer the hospitals that gave shares of others and none of it: its box did not open for them.
    """

    plan: Plan
    run: str
    opening: Opening
    survivors: tuple[SignedManifest, ...]
    liars: set[str] = field(default_factory=set)
    blanks: dict[str, set[str]] = field(default_factory=dict)
    _shares: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The survivors."""
        return tuple(signed.manifest.hospital for signed in self.survivors)

    def take(self, data: bytes, hospital: str) -> Reveal:
        """Take one hospital's reveal.

        Args:
            data: Bytes from the network.
            hospital: The name under which the node that sent them is registered.

        Returns:
            The reveal; its shares are kept.

        Raises:
            MalformedMessage: If it is none, or has not one share or blank for each hospital of the opening.
            BadSignature: If this hospital did not sign it.
            WrongRound: If it is for another round, attempt or survivors.
            BadShare: If a share is not the one that this hospital was dealt; none of its shares is kept.
        """
        reveal = decode_document(data, Reveal)
        if reveal.hospital != hospital:
            raise WrongRound(f"the node of {hospital} brought the shares of {reveal.hospital}; refuse them")
        reveal.check(identity_of(hospital, {one.name: one.identity for one in self.plan.roster}))
        place = self.survivors[0].manifest
        seen = (reveal.run, reveal.plan, reveal.epoch, reveal.round, reveal.attempt, reveal.survivors)
        wanted = (place.run, place.plan, place.epoch, place.round, place.attempt, survivors_digest(self.survivors))
        if seen != wanted:
            raise WrongRound(f"{hospital} reveals shares for another round, attempt or survivors; refuse them")
        if len(reveal.shares) != len(self.opening.adverts):
            raise MalformedMessage(f"{hospital} reveals {len(reveal.shares)} shares; one per hospital of the opening")
        self._keep(reveal)
        return reveal

    @property
    def blamed(self) -> frozenset[str]:
        """Dealers that dealt badly beyond doubt: of whom more hospitals have nothing than there may be colluders."""
        doubt = self.plan.cohort.assumed_colluders
        return frozenset(self.liars | {dealer for dealer, without in self.blanks.items() if len(without) > doubt})

    @property
    def is_enough(self) -> bool:
        """Whether the shares are enough to take every mask off."""
        return all(len(self._shares.get(name, {})) >= self.plan.threshold for name in self.opening.hospitals)

    def transcript(self, upload_bytes: int) -> Transcript:
        """The secrets that the shares give.

        Args:
            upload_bytes: Size of each survivor's upload.

        Raises:
            BadShare: If the shares of a hospital's secret do not give what it committed itself to; names it.
            LocalProtocolError: If there are not enough.
        """
        secrets = {one.advert.hospital: self._secret(one) for one in self.opening.adverts}
        return Transcript(
            adverts=tuple(one.advert for one in self.opening.adverts),
            seeds=tuple(secrets[name].hex() for name in self.names),
            mask_secrets=tuple(secrets[name].hex() for name in self.opening.hospitals if name not in self.names),
            upload_bytes=upload_bytes,
        )

    def masks(self, transcript: Transcript) -> Unmask:
        """What is left in the survivors' sum."""
        place, names = self.survivors[0].manifest, self.names
        keys = {one.advert.hospital: one.advert.mask_key for one in self.opening.adverts}
        gone = [name for name in self.opening.hospitals if name not in names]
        return find_masks(
            MaskPlace(place.run, place.plan, place.epoch, place.round, place.attempt),
            seeds=self._by_position(names, transcript.seeds),
            mask_keys={self.plan.agreed.position(name): keys[name] for name in names},
            dropped=self._by_position(gone, transcript.mask_secrets),
        )

    def _keep(self, reveal: Reveal) -> None:
        recipient, good, without = reveal.hospital, dict[str, bytes](), set[str]()
        position = self.plan.agreed.position(recipient)
        for one, share in zip(self.opening.adverts, reveal.shares, strict=True):
            dealer, sealed = one.advert.hospital, one.shares[position]
            if not share:
                without.add(dealer)
                continue
            of, wanted = ("seed", sealed.seed) if dealer in self.names else ("key", sealed.key)
            data = bytes.fromhex(share)
            if share_digest(data, of=of, dealer=dealer, recipient=recipient) != wanted:
                raise BadShare(f"{recipient} reveals another share of {dealer} than it was dealt; refuse its shares")
            good[dealer] = data
        for dealer, data in good.items():
            self._shares.setdefault(dealer, {})[position] = data
        # A hospital that gives no share at all was left out, or is not asked to.
        for dealer in without if good else ():
            self.blanks.setdefault(dealer, set()).add(recipient)

    def _secret(self, one: FullAdvert) -> bytes:
        dealer = one.advert.hospital
        secret = combine_shares(self._shares.get(dealer, {}), self.plan.threshold)
        survived = dealer in self.names
        fits = commitment_of(secret) == one.advert.commitment if survived else public_hex(secret) == one.advert.mask_key
        if not fits:
            self.liars.add(dealer)
            raise BadShare(f"the shares that {dealer} dealt do not give what it announced; it must be repaired")
        return secret

    def _by_position(self, names: Sequence[str], secrets: Sequence[str]) -> Mapping[int, bytes]:
        return {
            self.plan.agreed.position(name): bytes.fromhex(secret) for name, secret in zip(names, secrets, strict=True)
        }
