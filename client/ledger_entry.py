"""One line of the privacy ledger: what it says, its place in the hash chain, and its signature."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from client.accountant import PrivacyEvent
from client.ledger_file import RESTORE
from common.canonical import canonical_bytes, sha256_hex
from common.errors import BadSignature, LedgerError, LocalProtocolError
from common.identity import Identity, verify

Kind = Literal["train", "eval", "stat"]
Account = Literal["train", "eval"]
Mode = Literal["local", "distributed"]
Row = tuple[int, str, int, str, str, str, str]
"""An entry as it is stored: sequence, run, round, kind, body, hash, signature."""
# As many as no federation has; it keeps the epsilon of one share finite wherever that of all shares is.
_MOST_SHARES = 1000


@dataclass(frozen=True, slots=True)
class Charge:
    """What is asked to be charged; (run, round, kind) names it, and is charged once.

    Attributes:
        run: Identifier of the run.
        round_number: Round of the run, >= 0.
        kind: `train` and `stat` are charged to the training account, `eval` to that of the held-out units.
        plan_hash: Digest of the plan, hex.
        units_digest: HMAC of the set of units, hex; a changed set continues the same spending.
        held_out_rule: Digest of what decides which units are held out, hex; see `paying`.
        event: Steps of the mechanism.
        clip: Largest norm of one unit's part in what the noise is added to, in the units in which it travels: C of the
            plan for `train`, and for `stat`, whose features travel with that norm; 1 for counts. The sensitivity, which
            sigma counts in, is this and what rounding adds.
        mode: Who adds the noise; `local` is the full noise of this hospital.
        shares: How many equal shares of noise, of as many honest hospitals, make up the noise of `event`; 1 in `local`,
            2 to 1000 in `distributed`.

    Raises:
        LocalProtocolError: If mode and shares contradict each other.
    """

    run: str
    round_number: int
    kind: Kind
    plan_hash: str
    units_digest: str
    held_out_rule: str
    event: PrivacyEvent
    clip: float
    mode: Mode
    shares: int

    def __post_init__(self) -> None:
        allowed = {"local": self.shares == 1, "distributed": 2 <= self.shares <= _MOST_SHARES}
        if not (isinstance(self.shares, int) and allowed.get(self.mode, False)):
            raise LocalProtocolError(
                f"a charge has mode {self.mode} and {self.shares} shares of noise; local with 1 share and distributed "
                f"with 2 to {_MOST_SHARES} are allowed"
            )

    @property
    def key(self) -> tuple[str, int, str]:
        """What is charged once."""
        return self.run, self.round_number, self.kind

    @property
    def account(self) -> Account:
        """The account that pays."""
        return "eval" if self.kind == "eval" else "train"

    @property
    def event_alone(self) -> PrivacyEvent:
        """What stays if all other hospitals collude: they know the noise that they added, one share is left."""
        return replace(self.event, sigma=self.event.sigma / math.sqrt(self.shares))


def paying(charges: Sequence[Charge], account: Account) -> list[Charge]:
    """The charges that may have met one and the same unit of an account.

    Under one held-out rule a unit is trained on or held out, never both, so each account pays for itself. Where rules
    differ between plans a unit may have been on both sides: then every account pays for everything.

    Args:
        charges: All charges of a ledger.
        account: Whose units.
    """
    one_rule = len({charge.held_out_rule for charge in charges}) <= 1
    return [charge for charge in charges if not one_rule or charge.account == account]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A charge as it stands in the ledger.

    Attributes:
        sequence: 1, 2, ... without gaps.
        source: Name of the data source.
        charge: What was charged.
        epsilon: Of the charge's account, after it, at `delta`; what each charge's mode promises.
        epsilon_alone: The same if all other hospitals collude; not less, and equal where no share was charged.
        delta: The cap's delta at that time.
        time: Seconds since 1970, never decreasing.
        previous: Hash of the entry before, or of the source and site for the first.
        hash: SHA-256 of all the above, hex.
        signature: Ed25519 of the hash by the site's identity key, hex.
    """

    sequence: int
    source: str
    charge: Charge
    epsilon: float
    epsilon_alone: float
    delta: float
    time: float
    previous: str
    hash: str = ""
    signature: str = ""

    @property
    def body(self) -> bytes:
        """Canonical JSON of all that is hashed; what only mode `distributed` says is left out where it says nothing."""
        values = asdict(self)
        del values["hash"], values["signature"]
        # Else ledgers from before that mode would no longer hash to what they say, and their spending would be lost.
        if self.charge.shares == 1:
            del values["charge"]["shares"]
        if self.epsilon_alone == self.epsilon:
            del values["epsilon_alone"]
        return canonical_bytes(values)

    @property
    def row(self) -> Row:
        """The entry as it is stored, once it is sealed."""
        return (self.sequence, *self.charge.key, self.body.decode("ascii"), self.hash, self.signature)

    def sealed(self, identity: Identity) -> LedgerEntry:
        """The entry with its hash and the site's signature."""
        digest = _hash(self.body)
        return replace(self, hash=digest, signature=identity.sign(_signed(digest)).hex())


def parse_entry(body: str, digest: str, *, signature: str, public_key: str) -> LedgerEntry:
    """Read one stored entry, signed under `public_key` (64 hex digits).

    Raises:
        LedgerError: If hash, signature or content is wrong.
    """
    try:
        values = json.loads(body)
        charge = {"shares": 1} | values.pop("charge")
        values.setdefault("epsilon_alone", values["epsilon"])
        event = PrivacyEvent(**charge.pop("event"))
        entry = LedgerEntry(**values, charge=Charge(**charge, event=event), hash=digest, signature=signature)
        if _hash(entry.body) != digest:
            raise LedgerError(
                f"ledger entry {entry.sequence} does not hash to what it says, so it was altered; {RESTORE}"
            )
        verify(public_key, bytes.fromhex(signature), _signed(digest))
    except BadSignature as error:
        raise LedgerError(
            f"a ledger entry is not signed by this site's identity key; name its own ledger and key, or {RESTORE}"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, LocalProtocolError) as error:
        raise LedgerError(f"a ledger entry cannot be read, so the file is damaged; {RESTORE}") from error
    return entry


def _hash(body: bytes) -> str:
    return sha256_hex(b"fedward/ledger-entry/1", body)


def _signed(digest: str) -> bytes:
    return b"fedward/ledger-signature/1" + bytes.fromhex(digest)
