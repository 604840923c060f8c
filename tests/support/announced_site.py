"""One open hospital among announced others: rounds around its masks, with manifests that the others' keys sign."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.identity import Identity
from common.mask_messages import DeliveredAdvert, Reveal, decode_document
from common.messages import Manifest, SignedManifest, SignedReply, decode_reply, encode_reply
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


@dataclass
class AnnouncedSite:
    """Hospital-1 and what is sent to it; the others are their files, and do what the test says."""

    federation: SmallFederation

    def begin(self, names: Sequence[str] = NAMES) -> None:
        """A new run, whose first round opens with these hospitals."""
        self.federation.coordinator.switch(secrets.token_hex(16))
        self.federation.opened(1, names)

    @property
    def delivered(self) -> tuple[DeliveredAdvert, ...]:
        """The adverts of round 1 as this hospital gets them."""
        return self.federation.coordinator.openings[1].delivered_to(0)

    def answer(self, frame: bytes) -> bytes:
        """What the site answers."""
        return self.federation.sites[OURS].answer(frame)

    def train(self, number: int = 1, **changes: Any) -> SignedReply:  # noqa: ANN401 -- any field
        """Its reply in a round."""
        return self.federation.reply(self.answer(self.federation.frame("train", number, OURS, **changes)))

    def identity(self, name: str) -> Identity:
        """A hospital's key."""
        return self.federation.member(name).identity

    def signed(self, manifest: Manifest, *, signer: str = "") -> SignedManifest:
        """The manifest, signed by its hospital or another."""
        identity = self.identity(signer or manifest.hospital)
        return decode_reply(encode_reply(manifest, b"", identity.sign), {manifest.hospital: identity.public_hex}).signed

    def survivors(self, ours: SignedReply, names: Sequence[str] = NAMES) -> tuple[SignedManifest, ...]:
        """Our manifest, and what honest others would have signed beside it."""
        return tuple(ours.signed if name == OURS else self.peer(ours, name) for name in names)

    def peer(self, ours: SignedReply, name: str, *, signer: str = "", **changes: Any) -> SignedManifest:  # noqa: ANN401
        """What another hospital signs for an upload in the round of `ours`."""
        chunks = -(-self.federation.plan.upload_values // 2048)
        usual = {"hospital": name, "role": "contribute", "reason": "", "root": secrets.token_hex(32), "chunks": chunks}
        return self.signed(Manifest.model_validate(ours.manifest.model_dump() | usual | changes), signer=signer)

    def unmask(self, survivors: tuple[SignedManifest, ...], **changes: Any) -> bytes:  # noqa: ANN401 -- any field
        """The site's answer to a request for its shares."""
        return self.answer(self.federation.coordinator.unmask_request(survivors, OURS, **changes))

    def reveal(self, survivors: tuple[SignedManifest, ...]) -> Reveal:
        """The same, read and verified."""
        reveal = decode_document(self.unmask(survivors), Reveal)
        reveal.check(self.identity(OURS).public_hex)
        return reveal
