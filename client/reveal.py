"""Unmasking: gives shares for exactly one set of survivors of a round, whatever is asked later.

For a survivor it gives the share of the self-mask seed, for a hospital that dropped out that of the mask key; both for
one hospital would open that hospital's upload.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from client.member import Member
from client.opening import known_opening
from client.storage import RunStorage
from client.verify import Expectation, check_survivors
from common.errors import AlreadyRevealed, BadBox, TranscriptError, WrongRound
from common.freshness_messages import FreshnessAnswer
from common.mask_messages import SHARE_BYTES, DeliveredAdvert, FullAdvert, Reveal, encode_document, share_digest, sign
from common.messages import Request, survivors_digest
from common.pair_box import open_share, pair_secret

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revealer:
    """One hospital's part in unmasking a round.

    Args:
        member: This hospital.
        storage: Keeps what was revealed.
        expected: What it holds against the coordinator's word about the round.
    """

    member: Member
    storage: RunStorage
    expected: Expectation

    def answer(
        self,
        request: Request,
        next_advert: FullAdvert | None,
        *,
        answers: tuple[FreshnessAnswer, ...] = (),
        nonce: str = "",
    ) -> bytes:
        """Answer an `unmask` request; the answer is on the disk when this returns.

        Args:
            request: A request that was verified.
            next_advert: This hospital's advert for the next round, if it takes part in it.
            answers: What this hospital has seen of those that ask.
            nonce: If it was started and waits for answers itself, its nonce, hex: then it gives no share and fixes
                nothing, so that the same request may get shares later.

        Returns:
            A signed `Reveal`; the same request gets the same bytes.

        Raises:
            AlreadyRevealed: If shares of this round were given for another attempt or other survivors.
            WrongRound: If this site did not answer the attempt, or has answered a later one.
            SplitViewError: If a survivor was shown another opening.
            DivergenceError: If a survivor holds another model.
            TranscriptError: If the survivors are too few, or do not fit the opening or our own upload.
            BadSignature: If a manifest was not signed by its hospital.
            SiteStorageError: If the disk refuses.
        """
        digest = survivors_digest(request.survivors)
        known = self.storage.load_reveal(request.round)
        if known is not None:
            if (known.attempt, known.survivors) != (request.attempt, digest):
                raise AlreadyRevealed(
                    f"round {request.round} was unmasked already, for other survivors or another attempt; a second "
                    "sum of the same updates would give one of them away; refuse it, and stop the run"
                )
            return known.reply
        opening = known_opening(request.round, self.storage)
        own = self.expected.own
        if opening is None or own is None:
            raise WrongRound(
                f"round {request.round} attempt {request.attempt} is to be unmasked, which this site did not take "
                "part in; refuse it"
            )
        names = check_survivors(request.survivors, attempt=request.attempt, expected=self.expected)
        if not set(names) <= set(opening.hospitals):
            raise TranscriptError(f"round {request.round} has survivors that it was not opened with; refuse them")
        gives = own.manifest.role == "contribute" and self.member.hospital in names
        observes = self.member.hospital not in opening.hospitals
        may = (gives or observes) and not nonce
        shares = tuple(
            self._share(one, survived=one.advert.hospital in names, request=request) if may else ""
            for one in opening.delivered
        )
        reveal = Reveal(
            run=request.run,
            plan=request.plan,
            epoch=request.epoch,
            round=request.round,
            attempt=request.attempt,
            hospital=self.member.hospital,
            survivors=digest,
            shares=shares,
            next=next_advert,
            answers=answers,
            nonce=nonce,
        )
        reply = encode_document(sign(reveal, self.member.identity.sign))
        if not nonce:
            self.storage.save_reveal(request.round, attempt=request.attempt, survivors=digest, reply=reply)
        return reply

    def _share(self, one: DeliveredAdvert, *, survived: bool, request: Request) -> str:
        """Our share of a survivor's seed, or of another's mask key; nothing if its dealer sent a bad box."""
        dealer, me = one.advert.hospital, self.member.hospital
        try:
            opened = self._open(one, request)
        except BadBox as error:
            log.warning("round %d: %s; no share is given for it", request.round, error)
            return ""
        of, wanted = ("seed", one.shares.seed) if survived else ("key", one.shares.key)
        share = opened[:SHARE_BYTES] if survived else opened[SHARE_BYTES:]
        if share_digest(share, of=of, dealer=dealer, recipient=me) != wanted:
            log.warning("round %d: the box of %s holds another share than its advert says", request.round, dealer)
            return ""
        return share.hex()

    def _open(self, one: DeliveredAdvert, request: Request) -> bytes:
        dealer, member = one.advert.hospital, self.member
        return open_share(
            bytes.fromhex(one.shares.box),
            shared=pair_secret(member.box, member.plan.roster[member.plan.agreed.position(dealer)].box),
            run=request.run,
            epoch=request.epoch,
            round_number=request.round,
            sender=dealer,
            recipient=member.hospital,
        )
