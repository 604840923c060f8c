"""Every error that fedward raises on purpose.

The tree is split by who must act::

    FedwardError
    ├── OperatorError            whoever typed the command or wrote the file; exit code 2
    │   ├── ConfigError          a YAML file is wrong
    │   │   └── PlanError        the plan asks for something unsound
    │   ├── SecretKeyOnServer    a CKKS secret key, or a hospital's vault or its key, lies where the coordinator runs
    │   ├── AddressInUse         a port is taken
    │   ├── AlreadyExists        a command would overwrite
    │   ├── StoreError           the coordinator's disk refuses or its store is damaged
    │   ├── DeploymentError      a process that must run does not (certificate, node key, child died)
    │   ├── RunPaused            the operator asked the run to stop after a round
    │   └── NobodyContributes    too many hospitals sit a round out; asking again cannot help
    ├── HospitalError            this hospital
    │   ├── DataError            its data folder or index
    │   ├── BudgetExceeded       the charge would pass the cap
    │   ├── LedgerError          the ledger cannot be trusted or written
    │   ├── LedgerRolledBack     peers have seen more of this site than it knows: it runs on an old copy
    │   ├── NotFresh             too few peers have said yet what they have seen of this site since its start
    │   ├── KeyFileError         a key file is missing, open to others, or not a key
    │   ├── KeyMissing           the epoch's CKKS key has not been dealt to this site yet
    │   ├── CheckpointMissing    the run goes on from a model that this site does not hold
    │   ├── EpochClosed          the CKKS key has refused too many aggregates; a new one is due
    │   ├── UnsupportedLayer     a layer cannot be trained under differential privacy
    │   └── SiteStorageError     the site's disk refuses
    ├── PeerError                bytes from elsewhere are refused
    │   ├── MalformedMessage     wrong length, wrong field, a word outside the ring
    │   ├── BadSignature         not signed by the key in the roster
    │   ├── WrongPlan            another plan, run, epoch or parameter set
    │   ├── WrongRound           another round or attempt
    │   ├── EpochExpired         a round under a CKKS key whose time is over
    │   ├── ReplayedMessage      the second, different upload of one hospital for one attempt
    │   ├── TranscriptError      manifests of an aggregate do not fit together, or not with our own
    │   ├── BadBox               a peer's box of shares does not open, or holds other shares than its advert says
    │   ├── BadShare             a share is not the one that was dealt, or the shares do not give what was committed to
    │   ├── SplitViewError       hospitals were shown different openings or survivors of one round
    │   ├── AlreadyRevealed      shares of this round were given for other survivors or another attempt
    │   ├── AggregateMismatch    an aggregate is not the unmasked sum of the uploads in its transcript
    │   ├── UnverifiedChunks     not every chunk of the last sum was recomputed by enough hospitals
    │   ├── CeremonyError        hospitals were dealt different CKKS keys, or a box does not open
    │   ├── CheckpointRefused    a checkpoint is not the model that enough hospitals vouch for
    │   ├── DivergenceError      hospitals hold different models
    │   ├── WeightMismatch       the weight slot is not the sum of the survivors' declared sizes
    │   └── DecryptionError      a value lies off the public grid
    └── LocalProtocolError       our own code called a function outside its contract

Each class has a `code`: the only part of an error that may leave a hospital.
"""

from __future__ import annotations


class FedwardError(Exception):
    """Root of the tree; `str(error)` is one sentence: what was seen, what is allowed, what to do."""

    exit_code = 1

    @property
    def code(self) -> str:
        """Name that may cross the wire; carries no text."""
        return type(self).__name__


class OperatorError(FedwardError):
    """Whoever typed the command or wrote the file must act."""

    exit_code = 2


class ConfigError(OperatorError, ValueError):
    """A YAML file is wrong. Also a ValueError, so that a pydantic validator may raise it."""


class PlanError(ConfigError):
    """The plan asks for something unsound."""


class SecretKeyOnServer(OperatorError):
    """A CKKS secret key, or a hospital's vault or its key, lies where the coordinator runs."""


class AddressInUse(OperatorError):
    """A port is taken."""


class AlreadyExists(OperatorError):
    """The command would overwrite something."""


class StoreError(OperatorError):
    """The coordinator's disk refuses, or its store is damaged."""


class DeploymentError(OperatorError):
    """A process that must run does not."""


class NobodyContributes(OperatorError):
    """So many hospitals sit a round out that asking again cannot help."""


class RunPaused(OperatorError):
    """The operator asked the run to stop after a round."""


class HospitalError(FedwardError):
    """This hospital must act."""

    exit_code = 2


class DataError(HospitalError):
    """The data folder or its index is wrong."""


class BudgetExceeded(HospitalError):
    """The charge would pass the site's cap."""


class LedgerError(HospitalError):
    """The ledger cannot be trusted or written."""


class LedgerRolledBack(HospitalError):
    """Peers have seen more of this site than its ledger or state knows: it runs on an old copy of them."""


class NotFresh(HospitalError):
    """Too few peers have said yet what they have seen of this site since its service was started."""


class KeyFileError(HospitalError):
    """A key file is missing, open to others, or not a key."""


class KeyMissing(HospitalError):
    """The epoch's CKKS key has not been dealt to this site yet."""


class CheckpointMissing(HospitalError):
    """The run goes on from a model that this site does not hold."""


class EpochClosed(HospitalError):
    """The epoch's CKKS key has refused too many aggregates; a new one is due."""


class UnsupportedLayer(HospitalError):
    """A layer cannot be trained under differential privacy."""


class SiteStorageError(HospitalError):
    """The site's disk refuses."""


class PeerError(FedwardError):
    """Bytes from elsewhere are refused."""


class MalformedMessage(PeerError):
    """Wrong length, wrong field, or a word outside the ring."""


class BadSignature(PeerError):
    """Not signed by the key in the roster."""


class WrongPlan(PeerError):
    """Another plan, run, epoch or parameter set."""


class WrongRound(PeerError):
    """Another round or attempt than the one that is open."""


class EpochExpired(PeerError):
    """A round under a CKKS key whose time is over."""


class ReplayedMessage(PeerError):
    """A second, different upload of one hospital for one attempt."""


class TranscriptError(PeerError):
    """Manifests of an aggregate do not fit together, or not with our own."""


class BadBox(PeerError):
    """A peer's box of shares does not open, or holds other shares than its advert says."""


class BadShare(PeerError):
    """A share is not the one that was dealt, or the shares do not give what was committed to."""


class SplitViewError(PeerError):
    """Hospitals were shown different openings or different survivors of one round."""


class AlreadyRevealed(PeerError):
    """Shares of this round were given for other survivors or for another attempt."""


class AggregateMismatch(PeerError):
    """An aggregate is not the unmasked sum of the uploads in its transcript."""


class UnverifiedChunks(PeerError):
    """Not every chunk of the last sum was recomputed by as many hospitals as the plan asks for."""


class CeremonyError(PeerError):
    """Hospitals were dealt different CKKS keys, or a box does not open."""


class CheckpointRefused(PeerError):
    """A checkpoint is not the model that enough hospitals vouch for."""


class DivergenceError(PeerError):
    """Hospitals hold different models."""


class WeightMismatch(PeerError):
    """The weight slot is not the sum of the survivors' declared sizes."""


class DecryptionError(PeerError):
    """A decrypted value lies off the public grid."""


class LocalProtocolError(FedwardError):
    """Our own code called a function outside its contract."""
