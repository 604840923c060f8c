"""Double masks on ciphertext words: what a hospital adds to its upload, and what is taken off the survivors' sum.

With lo < hi the roster positions of two hospitals, lo adds their pairwise mask and hi subtracts it, so that it cancels
in a sum that holds both; each adds its self mask besides. What is left of a sum are the self masks of its hospitals and
their pairwise masks with those that dropped out.

References: Bonawitz et al., 2017, CCS, figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.ckks_parameters import CkksParameters
from common.mask_stream import add_mask, mask_key, subtract_mask
from common.pair_box import pair_secret


@dataclass(frozen=True, slots=True)
class MaskPlace:
    """The attempt at a round that masks are for: all others give other masks."""

    run: str
    plan: str
    epoch: int
    round: int
    attempt: int

    def self_key(self, seed: bytes, position: int) -> bytes:
        """Key of a hospital's self mask."""
        return mask_key(
            seed,
            label="fedward/self/1",
            run=self.run,
            plan=self.plan,
            epoch=self.epoch,
            round_number=self.round,
            attempt=self.attempt,
            low=position,
            high=position,
        )

    def pair_key(self, secret: bytes, one: int, other: int) -> bytes:
        """Key of the mask between two hospitals, whichever of them asks."""
        return mask_key(
            secret,
            label="fedward/pair/1",
            run=self.run,
            plan=self.plan,
            epoch=self.epoch,
            round_number=self.round,
            attempt=self.attempt,
            low=min(one, other),
            high=max(one, other),
        )


def add_own_masks(  # noqa: PLR0913 -- a hospital's two secrets, its place, and its peers
    words: NDArray[np.uint64],
    parameters: CkksParameters,
    *,
    place: MaskPlace,
    position: int,
    seed: bytes,
    mask_secret: bytes,
    peers: Mapping[int, str],
) -> None:
    """Mask an upload, in place.

    Args:
        words: c0 of each ciphertext, shape (chunks, N), uint64, each < q.
        parameters: The CKKS parameters.
        place: Run, round and attempt.
        position: The hospital's own place in the roster.
        seed: Its self-mask seed, 32 bytes.
        mask_secret: Its X25519 mask key, 32 bytes.
        peers: X25519 public key, hex, by roster position, of the others in the opening.

    Raises:
        BadBox: If a peer's key is a point of low order.
    """
    add_mask(words, place.self_key(seed, position), parameters)
    for peer, public_hex in peers.items():
        key = place.pair_key(pair_secret(mask_secret, public_hex), position, peer)
        (add_mask if position < peer else subtract_mask)(words, key, parameters)


@dataclass(frozen=True, slots=True, repr=False)
class Unmask:
    """The streams that are left in the survivors' sum.

    Args:
        added: Keys of those that are in it with a plus, 32 bytes each.
        subtracted: Keys of those that are in it with a minus.
    """

    added: tuple[bytes, ...]
    subtracted: tuple[bytes, ...]

    def apply(self, words: NDArray[np.uint64], parameters: CkksParameters, *, first_chunk: int = 0) -> None:
        """Take the masks off, in place.

        Args:
            words: The sum modulo q of the survivors' masked words, or some chunks of it, shape (chunks, N), uint64.
            parameters: The CKKS parameters.
            first_chunk: Which chunk the first row is.
        """
        for key in self.added:
            subtract_mask(words, key, parameters, first_chunk=first_chunk)
        for key in self.subtracted:
            add_mask(words, key, parameters, first_chunk=first_chunk)


def find_masks(
    place: MaskPlace, *, seeds: Mapping[int, bytes], mask_keys: Mapping[int, str], dropped: Mapping[int, bytes]
) -> Unmask:
    """Which masks are left in the survivors' sum.

    Args:
        place: Run, round and attempt.
        seeds: Self-mask seed of each survivor, by roster position.
        mask_keys: X25519 public key, hex, of each survivor.
        dropped: X25519 secret of each hospital of the opening that did not survive.

    Raises:
        BadBox: If a survivor's key is a point of low order.
    """
    added = [place.self_key(seed, position) for position, seed in seeds.items()]
    subtracted: list[bytes] = []
    for gone, secret in dropped.items():
        for position, public_hex in mask_keys.items():
            key = place.pair_key(pair_secret(secret, public_hex), gone, position)
            # The survivor added it if it comes first in the roster, else it subtracted it.
            (added if position < gone else subtracted).append(key)
    return Unmask(tuple(added), tuple(subtracted))


def remove_masks(  # noqa: PLR0913 -- what a transcript holds
    words: NDArray[np.uint64],
    parameters: CkksParameters,
    *,
    place: MaskPlace,
    seeds: Mapping[int, bytes],
    mask_keys: Mapping[int, str],
    dropped: Mapping[int, bytes],
) -> None:
    """Unmask the survivors' sum, in place; see `find_masks` and `Unmask.apply`."""
    find_masks(place, seeds=seeds, mask_keys=mask_keys, dropped=dropped).apply(words, parameters)
