"""What has left hospitals, as only they can read it: which charges it needs, and whether it is ever two things."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.advert import load_own_advert
from client.keys import open_keys
from client.opening import Opening, known_opening
from client.storage import RunStorage
from common.ckks import PRESETS, EncryptedSum, EncryptedVector, decode_upload
from common.grid import grid_of
from common.messages import SignedReply
from common.plan import Plan
from common.site_config import load_site
from tests.support.site_keys import site_vault


@dataclass
class Releases:
    """Every upload that left a hospital, by hospital, run and round: what it held without masks and encryption.

    `config` gives a hospital's site file. `needed` are the charges that must stand: of statistics and training always,
    of a closing round where it held noisy counts.
    """

    plan: Plan
    config: Callable[[str], Path]
    integers: dict[tuple[str, str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    frames: dict[tuple[str, str, int, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    needed: dict[str, set[tuple[str, int, str]]] = field(default_factory=lambda: defaultdict(set))

    def note(self, reply: SignedReply, frame: bytes) -> None:
        """Take what a hospital has answered; its round is still open."""
        manifest = reply.manifest
        if not reply.body:
            return  # an observer may say another reason the next time: nothing has left
        place = (manifest.hospital, manifest.run, manifest.round)
        integers = self._integers(reply)
        if manifest.kind != "eval" or self._holds_noisy_counts(manifest.hospital, integers):
            self.needed[manifest.hospital].add((manifest.run, manifest.round, manifest.kind))
        self.frames[*place, manifest.attempt].add(hashlib.sha256(frame).digest())
        self.integers[place].append(hashlib.sha256(integers.tobytes()).digest())

    def check_same(self) -> None:
        """All uploads of a round hold the same integers, and all answers to an attempt are the same bytes.

        Raises:
            AssertionError: If not.
        """
        for place, given in self.integers.items():
            assert len(set(given)) == 1, f"{place}: {len(set(given))} different updates left under one charge"
        for attempt, frames in self.frames.items():
            assert len(frames) == 1, f"{attempt}: {len(frames)} different replies to one attempt"

    def _holds_noisy_counts(self, hospital: str, integers: NDArray[np.int64]) -> bool:
        parameters, used = self.plan.agreed.trainable_parameters, self.plan.upload_values
        is_noisy = load_site(self.config(hospital)).privacy.metrics == "final-dp"
        return is_noisy and bool(integers[parameters + 1 : used].any())

    def _integers(self, reply: SignedReply) -> NDArray[np.int64]:
        """What an upload holds, by what only its hospital knows."""
        manifest, parameters = reply.manifest, PRESETS[self.plan.encryption.preset]
        site = load_site(self.config(manifest.hospital))
        storage = RunStorage(site.state / "runs" / manifest.run, plan=self.plan.digest)
        keys = open_keys(site, site_vault(self.config(manifest.hospital).parent), self.plan)
        fixed = known_opening(manifest.round, storage)
        own = load_own_advert(keys.member, storage, run=manifest.run, round_number=manifest.round)
        assert fixed is not None
        upload = decode_upload(reply.body, manifest.chunks, parameters)
        masks = EncryptedVector(parameters, np.zeros_like(upload.words), upload.seeds)
        Opening(fixed.delivered, own).mask(masks, keys.member, run=manifest.run, attempt=manifest.attempt)
        modulus = np.uint64(parameters.modulus)
        words = (upload.words + (modulus - masks.words)) % modulus
        plain = EncryptedSum(parameters, words, (upload.seeds,))
        return np.asarray(keys.epoch(manifest.epoch).ckks.decrypt(plain, grid_of(self.plan)))
