"""What hospitals of a stage say of one that was started: nothing seen, since a scene sets all of them back in time."""

from __future__ import annotations

from collections.abc import Mapping

from common.freshness_messages import FreshnessAnswer, sign_answer
from common.messages import decode_reply
from scripts.attack_hospitals import Site


def nothing_seen(sites: Mapping[str, Site], hospital: str, hello: bytes) -> tuple[FreshnessAnswer, ...]:
    """The other hospitals' answers, signed with their keys; none if the hospital does not ask.

    Args:
        sites: All hospitals.
        hospital: The one that may have been started.
        hello: A request that it says so in reply to.
    """
    site = sites[hospital]
    manifest = decode_reply(site.hospital.answer(hello), {hospital: site.keys.identity.public_hex}).manifest
    if not manifest.nonce:
        return ()
    return tuple(
        sign_answer(
            FreshnessAnswer(
                run=manifest.run,
                plan=manifest.plan,
                epoch=manifest.epoch,
                nonce=manifest.nonce,
                asker=hospital,
                ledger=manifest.ledger,
                hospital=name,
                seen=(),
            ),
            peer.keys.identity.sign,
        )
        for name, peer in sites.items()
        if name != hospital
    )
