"""Whether this site is fresh: since its start enough peers have said what they saw of it, none more than it knows.

A site that runs on an old copy of its files would charge, train and answer once more for rounds that it has answered
already. Its peers keep what it has signed. So until they have been heard, it takes up rounds and contributes nothing.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from hashlib import sha256

from client.ledger import Ledger
from client.ledger_chain import Chain, head_at
from client.member import Member
from client.peers_seen import UPLOADING, PeersSeen
from client.storage import RunStorage
from common.errors import LedgerRolledBack, MalformedMessage, NotFresh, ReplayedMessage, WrongPlan
from common.freshness_messages import FreshnessAnswer, OpenNonce, sign_answer
from common.mask_messages import identity_of
from common.messages import Manifest, Request, SignedManifest, decode_reply

log = logging.getLogger(__name__)


class Freshness:
    """What peers have said to this start of the site service, and what this site says to theirs.

    Guarantees:
        Once a peer has shown more than this site knows, no charge and no share leaves while that is so, in no run and
        after no restart: what was shown is kept.
    """

    def __init__(self, member: Member, ledger: Ledger, seen: PeersSeen) -> None:
        self._member, self._ledger, self._seen = member, ledger, seen
        # The nonces derive from it: a request alone takes no memory.
        self._start = secrets.token_bytes(32)
        self._answered: dict[str, set[str]] = {}

    @property
    def ledger(self) -> str:
        """Which ledger this site charges: hash of source and site, hex."""
        return ledger_name(self._ledger)

    @property
    def needed(self) -> int:
        """How many peers must answer: of so many, one does not collude."""
        return self._member.plan.cohort.assumed_colluders + 1

    def nonce(self, run: str) -> str:
        """What this site asks its peers in a run, hex; empty once enough have answered."""
        return "" if self.is_fresh(run) else self._nonce(run)

    def learn(self, request: Request) -> None:
        """Remember, durably, what a request shows of the other hospitals.

        Raises:
            SiteStorageError: If the disk refuses.
        """
        shown = [*request.survivors, *(one for entry in request.aggregates for one in entry.survivors)]
        shown += [one for entry in request.aggregates for one in entry.witnesses]
        if shown:
            own = self._member.hospital
            self._seen.note((one for one in shown if one.manifest.hospital != own), self._member.identities)

    def answers(self, request: Request) -> tuple[FreshnessAnswer, ...]:
        """This site's answers to the nonces in a request.

        Raises:
            BadSignature: If a nonce is said to be of a stranger.
            SiteStorageError: If the disk refuses.
        """
        return tuple(self._answer(one, request) for one in request.nonces if one.hospital != self._member.hospital)

    def take(self, request: Request, storage: RunStorage, *, applied: int) -> None:
        """Take the answers in a request.

        Args:
            request: A request that was verified.
            storage: What this site keeps of the run.
            applied: The last round that it has applied or skipped.

        Raises:
            BadSignature: If an answer, or what it shows, was not signed by whom it names.
            WrongPlan: If one is for another hospital, ledger, run, plan or a later epoch, or of this site to itself.
            MalformedMessage: If it shows no manifests.
            SiteStorageError: If the disk refuses.
        """
        for answer in request.answers:
            try:
                shown = self._read(answer, request)
            except ReplayedMessage as error:
                # Also an honest coordinator sends it, if this site was started again in between.
                log.warning("%s", error)
                continue
            if any(self._is_news(one, request.run, storage, applied=applied) for one in shown):
                self._seen.note(shown, self._member.identities)
                log.error("%s has seen more of this site than it knows: this is an old copy", answer.hospital)
            self._answered.setdefault(request.run, set()).add(answer.hospital)

    def is_fresh(self, run: str) -> bool:
        """Whether enough peers have answered in a run."""
        return len(self._answered.get(run, ())) >= self.needed

    def check_copy(self, run: str, storage: RunStorage, *, applied: int) -> None:
        """Raise if a peer has shown that this site runs on an old copy: it may neither charge nor announce nor reveal.

        Args:
            run: The run.
            storage: What this site keeps of it.
            applied: The last round of it that it has applied or skipped.

        Raises:
            LedgerRolledBack: If so.
            SiteStorageError: If the disk refuses.
        """
        for shown in self._seen.of(self._member.identity.public_hex, run=run, ledger=self.ledger):
            signed = self._own(shown)
            manifest = signed.manifest
            if self._is_news(signed, run, storage, applied=applied):
                raise LedgerRolledBack(
                    f"peers have seen ledger entry {manifest.ledger_sequence} and round {manifest.round} attempt "
                    f"{manifest.attempt} of run {manifest.run[:8]}… signed by this site, which has {applied} rounds "
                    f"and {self._ledger.sequence()} entries: it runs on an old copy; restore a backup of ledger and "
                    "state folder that has them, or retire this data source"
                )

    def check(self, run: str) -> None:
        """Raise NotFresh if too few peers have answered in a run yet."""
        if not self.is_fresh(run):
            raise NotFresh(
                f"{len(self._answered.get(run, ()))} of {self.needed} peers have said what they saw of this site since "
                "its service was started; it observes until then"
            )

    def _nonce(self, run: str) -> str:
        return hmac.digest(self._start, bytes.fromhex(run), sha256).hex()

    def _answer(self, asked: OpenNonce, request: Request) -> FreshnessAnswer:
        identity = identity_of(asked.hospital, self._member.identities)
        answer = FreshnessAnswer(
            run=request.run,
            plan=request.plan,
            epoch=request.epoch,
            nonce=asked.nonce,
            asker=asked.hospital,
            ledger=asked.ledger,
            hospital=self._member.hospital,
            seen=self._seen.of(identity, run=request.run, ledger=asked.ledger),
        )
        return sign_answer(answer, self._member.identity.sign)

    def _read(self, answer: FreshnessAnswer, request: Request) -> tuple[SignedManifest, ...]:
        """What an answer shows of this site."""
        own, peer = self._member.hospital, answer.hospital
        answer.check(identity_of(peer, self._member.identities))
        seen = (answer.run, answer.plan, answer.asker, answer.ledger)
        # It may have been given before a change of the key: the nonce says that it is of this start.
        if peer == own or seen != (request.run, request.plan, own, self.ledger) or answer.epoch > request.epoch:
            raise WrongPlan(f"an answer of {peer} is none to this site in this run and plan; refuse it")
        if answer.nonce != self._nonce(request.run):
            raise ReplayedMessage(f"{peer} answers another nonce than that of this start; its answer counts nothing")
        return tuple(self._own(one) for one in answer.seen)

    def _own(self, shown: str) -> SignedManifest:
        """A manifest that is said to be this site's own."""
        return read_shown(shown, hospital=self._member.hospital, identity=self._member.identity.public_hex)

    def _is_news(self, signed: SignedManifest, run: str, storage: RunStorage, *, applied: int) -> bool:
        """Whether this site has signed something that it does not know."""
        manifest = signed.manifest
        if lacks_entry(self._ledger, manifest):
            return True
        if manifest.run != run or manifest.round <= applied or manifest.kind not in UPLOADING:
            return False
        sent = storage.load_reply(manifest.round, manifest.attempt)
        return sent is None or decode_reply(sent, self._member.identities).signed != signed


def ledger_name(ledger: Chain) -> str:
    """Which ledger it is, among those of one site: hash of source and site, hex."""
    entries = ledger.entries()
    return entries[0].previous if entries else ledger.head()


def lacks_entry(ledger: Chain, manifest: Manifest) -> bool:
    """Whether a manifest of this site names an entry of this ledger that is not in it."""
    if manifest.ledger != ledger_name(ledger):
        return False
    number, head = manifest.ledger_sequence, manifest.ledger_head
    return head != (head_at(ledger.entries(), number) if number else manifest.ledger)


def read_shown(shown: str, *, hospital: str, identity: str) -> SignedManifest:
    """A manifest as answers show it.

    Args:
        shown: A frame, hex.
        hospital: Whose it must be.
        identity: That hospital's public key, hex.

    Raises:
        BadSignature: If that hospital did not sign it.
        MalformedMessage: If it is none, or more than a manifest.
    """
    reply = decode_reply(bytes.fromhex(shown), {hospital: identity})
    if reply.body:
        raise MalformedMessage("an answer shows more than a manifest; refuse it")
    return reply.signed
