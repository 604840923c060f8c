"""A round's mask secrets of this hospital, and the advert that commits it to them.

Both are made once and kept, the secrets sealed: a repeated request gets the same bytes, since two adverts of one round
would give two sets of masks for one update.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.member import Member
from client.storage import RunStorage
from common.canonical import canonical_bytes
from common.errors import EpochExpired, SiteStorageError
from common.mask_messages import (
    Advert,
    FullAdvert,
    SealedShares,
    commitment_of,
    decode_document,
    encode_document,
    share_digest,
    shares_root,
    sign,
)
from common.pair_box import pair_secret, public_hex, seal_share
from common.shamir import split_secret

_SECRET_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, repr=False)
class MaskSecrets:
    """The secrets of one round: an X25519 key for the pairwise masks and the seed of the self mask, 32 bytes each."""

    key: bytes
    seed: bytes

    @property
    def public_hex(self) -> str:
        """The mask key's public half."""
        return public_hex(self.key)


@dataclass(frozen=True, slots=True)
class OwnAdvert:
    """A round's secrets and what was announced of them."""

    secrets: MaskSecrets
    full: FullAdvert


def own_advert(member: Member, storage: RunStorage, *, run: str, round_number: int, epoch: int) -> OwnAdvert:
    """The advert of a round: the one that was made before, else a new one that is on the disk when this returns.

    One that was made for another key epoch is replaced, unless the round has been opened: then it may be in use.

    Raises:
        EpochExpired: If the round has been opened under another epoch.
        SiteStorageError: If the disk refuses or its content is damaged.
    """
    known = load_own_advert(member, storage, run=run, round_number=round_number)
    if known is not None and known.full.advert.epoch == epoch:
        return known
    if known is not None and storage.load_opening(round_number) is not None:
        raise EpochExpired(
            f"round {round_number} was opened under key epoch {known.full.advert.epoch}; it ends under it; refuse "
            f"epoch {epoch}"
        )
    fresh = MaskSecrets(key=secrets.token_bytes(_SECRET_BYTES), seed=secrets.token_bytes(_SECRET_BYTES))
    made = OwnAdvert(fresh, _announce(member, fresh, run=run, round_number=round_number, epoch=epoch))
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = AESGCM(member.at_rest).encrypt(nonce, fresh.key + fresh.seed, _place(member, run, round_number))
    storage.save_masks(round_number, nonce + sealed + encode_document(made.full))
    return made


def load_own_advert(member: Member, storage: RunStorage, *, run: str, round_number: int) -> OwnAdvert | None:
    """The advert of a round that was made before, or None.

    Raises:
        SiteStorageError: If the disk refuses or its content is damaged.
    """
    data = storage.load_masks(round_number)
    if data is None:
        return None
    head = _NONCE_BYTES + 2 * _SECRET_BYTES + 16
    try:
        opened = AESGCM(member.at_rest).decrypt(
            data[:_NONCE_BYTES], data[_NONCE_BYTES:head], _place(member, run, round_number)
        )
    except InvalidTag as error:
        raise SiteStorageError(
            f"the mask secrets of round {round_number} are damaged, or of another vault; this site sits this run out; "
            "mend the disk and start a new run"
        ) from error
    return OwnAdvert(
        MaskSecrets(key=opened[:_SECRET_BYTES], seed=opened[_SECRET_BYTES:]), decode_document(data[head:], FullAdvert)
    )


def _announce(member: Member, fresh: MaskSecrets, *, run: str, round_number: int, epoch: int) -> FullAdvert:
    plan, roster = member.plan, member.plan.roster
    seeds = split_secret(fresh.seed, plan.threshold, len(roster))
    keys = split_secret(fresh.key, plan.threshold, len(roster))
    shares = tuple(
        SealedShares(
            seed=share_digest(seed, of="seed", dealer=member.hospital, recipient=peer.name),
            key=share_digest(key, of="key", dealer=member.hospital, recipient=peer.name),
            box=seal_share(
                seed + key,
                shared=pair_secret(member.box, peer.box),
                run=run,
                epoch=epoch,
                round_number=round_number,
                sender=member.hospital,
                recipient=peer.name,
            ).hex(),
        )
        for peer, seed, key in zip(roster, seeds, keys, strict=True)
    )
    advert = Advert(
        run=run,
        plan=plan.digest,
        epoch=epoch,
        round=round_number,
        hospital=member.hospital,
        mask_key=fresh.public_hex,
        commitment=commitment_of(fresh.seed),
        shares_root=shares_root(shares),
    )
    return FullAdvert(advert=sign(advert, member.identity.sign), shares=shares)


def _place(member: Member, run: str, round_number: int) -> bytes:
    return canonical_bytes(["fedward/mask-secrets/1", member.hospital, member.plan.digest, run, round_number])
