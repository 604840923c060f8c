"""What a site refuses around masks, with real adverts; each refusal is followed by the honest message, which passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.storage import RunStorage
from common.errors import (
    AlreadyRevealed,
    BadSignature,
    DivergenceError,
    FedwardError,
    MalformedMessage,
    SiteStorageError,
    SplitViewError,
    TranscriptError,
    WrongRound,
)
from common.mask_messages import (
    DeliveredAdvert,
    FullAdvert,
    SealedShares,
    decode_document,
    share_digest,
    shares_root,
    sign,
)
from common.messages import NOTHING_APPLIED, SignedManifest, SignedReply
from common.pair_box import open_share, pair_secret, seal_share
from server.aggregate import skipped
from server.masked_round import Opening
from tests.support.announced_site import OURS, AnnouncedSite
from tests.support.small_federation import NAMES, SmallFederation


class Killed(BaseException):
    """Stands for the death of the process: nothing in the site catches it."""


@dataclass
class PowerSwitch:
    """Lets a number of flushes to the disk happen, then cuts the power instead of the next one."""

    left: int = 10**9
    flush = staticmethod(os.fsync)

    def __call__(self, descriptor: int) -> None:
        """In place of `os.fsync`."""
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.flush(descriptor)


@pytest.fixture(scope="module")
def opened_site(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnnouncedSite]:
    """Hospital-1 with budget for many runs; each test has a run of its own."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("site"), sites=[]) as federation:
        federation.change_site(OURS, cap_epsilon=1000.0)
        federation.open(OURS)
        yield AnnouncedSite(federation)


@pytest.fixture
def site(opened_site: AnnouncedSite) -> AnnouncedSite:
    """The same in a new run, whose first round opens with all four."""
    opened_site.begin()
    return opened_site


def storage(site: AnnouncedSite) -> RunStorage:
    """What the site keeps of the run."""
    return site.federation.storage(OURS)


def resigned(site: AnnouncedSite, at: int, *, signer: str = "", **changes: Any) -> tuple[DeliveredAdvert, ...]:  # noqa: ANN401
    """The opening with one advert changed and signed anew."""
    one = site.delivered[at]
    advert = sign(one.advert.model_copy(update=changes), site.identity(signer or one.advert.hospital).sign)
    return replaced(site, at, advert=advert)


def replaced(site: AnnouncedSite, at: int, **changes: Any) -> tuple[DeliveredAdvert, ...]:  # noqa: ANN401 -- any field
    """The opening with other parts in one place."""
    adverts = list(site.delivered)
    adverts[at] = adverts[at].model_copy(update=changes)
    return tuple(adverts)


def of_round_2(site: AnnouncedSite) -> tuple[DeliveredAdvert, ...]:
    """The opening with hospital-2's advert of the next round."""
    other = site.federation.opened(2).delivered_to(0)[1]
    return (site.delivered[0], other, *site.delivered[2:])


def of_another_run(site: AnnouncedSite) -> tuple[DeliveredAdvert, ...]:
    """The opening with hospital-2's advert of another run."""
    honest, run = site.delivered, site.federation.coordinator.run
    site.begin()
    other = site.delivered[1]
    site.federation.coordinator.switch(run)
    return (honest[0], other, *honest[2:])


def chosen(*indices: int) -> Callable[[AnnouncedSite], tuple[DeliveredAdvert, ...]]:
    """An opening of these adverts."""
    return lambda site: tuple(site.delivered[index] for index in indices)


OPENINGS: dict[str, tuple[Callable[[AnnouncedSite], tuple[DeliveredAdvert, ...]], type[FedwardError]]] = {
    "nobody": (chosen(), TranscriptError),
    "too few": (chosen(0, 1), TranscriptError),
    "one twice": (chosen(0, 1, 1, 2, 3), TranscriptError),
    "one three times": (chosen(0, 0, 0), TranscriptError),
    "not in roster order": (chosen(1, 0, 2, 3), TranscriptError),
    "a stranger": (lambda s: resigned(s, 3, signer=NAMES[3], hospital="hospital-9"), TranscriptError),
    "the next round's advert": (of_round_2, TranscriptError),
    "another run's advert": (of_another_run, TranscriptError),
    "another plan's advert": (lambda s: resigned(s, 1, plan="f" * 64), TranscriptError),
    "another epoch's advert": (lambda s: resigned(s, 1, epoch=2), TranscriptError),
    "signed by another": (lambda s: resigned(s, 1, signer=NAMES[2]), BadSignature),
    "not signed": (
        lambda s: replaced(s, 1, advert=s.delivered[1].advert.model_copy(update={"signature": "0" * 128})),
        BadSignature,
    ),
    "a mask key of the coordinator's": (
        lambda s: replaced(s, 1, advert=s.delivered[1].advert.model_copy(update={"mask_key": "9" + "0" * 63})),
        BadSignature,
    ),
    "another recipient's shares": (
        lambda s: (s.delivered[0], s.federation.coordinator.openings[1].delivered_to(1)[1], *s.delivered[2:]),
        MalformedMessage,
    ),
    "another recipient's shares on our path": (
        lambda s: replaced(s, 1, shares=s.federation.coordinator.openings[1].adverts[1].shares[2]),
        MalformedMessage,
    ),
    "another dealer's shares": (lambda s: replaced(s, 1, shares=s.delivered[2].shares), MalformedMessage),
    "a cut path": (lambda s: replaced(s, 1, path=s.delivered[1].path[:-1]), MalformedMessage),
    "a longer path": (lambda s: replaced(s, 1, path=(*s.delivered[1].path, "0" * 64)), MalformedMessage),
}


@pytest.mark.parametrize("lie", OPENINGS)
def test_an_unsound_opening_is_refused_before_anything_is_charged(site: AnnouncedSite, lie: str) -> None:
    """Nothing is fixed by it either: the honest opening is still taken."""
    charged, (build, error) = site.federation.charges(OURS), OPENINGS[lie]
    adverts = build(site)
    with pytest.raises(error):
        site.train(adverts=adverts)
    assert site.federation.charges(OURS) == charged
    assert storage(site).load_opening(1) is None
    assert site.train().manifest.role == "contribute"
    assert site.federation.charges(OURS) == charged + 1


def test_a_round_has_one_opening_in_all_its_attempts(site: AnnouncedSite) -> None:
    """The masks of two openings open two sums of one update; their difference is a hospital's."""
    first = site.train()
    other = tuple(site.delivered[:3])
    for attempt in (0, 1):
        with pytest.raises(SplitViewError):
            site.train(adverts=other, attempt=attempt)
    site.federation.reopen(OURS)
    with pytest.raises(SplitViewError):
        site.train(adverts=other, attempt=1)
    # Control: the first opening, again and in another attempt; and in another round the other one.
    assert site.train() == first
    again = site.train(attempt=1)
    assert (again.manifest.role, again.manifest.opening) == ("contribute", first.manifest.opening)
    site.begin(NAMES[:3])
    assert site.train().manifest.role == "contribute"


def test_an_opening_that_was_refused_for_an_observer_is_fixed_too(site: AnnouncedSite) -> None:
    """An observer gives shares: it must not do so for two openings."""
    assert site.train(adverts=site.delivered[1:]).manifest.role == "observe"
    with pytest.raises(SplitViewError):
        site.train(attempt=1)


def test_a_hospital_that_is_not_in_the_opening_observes_and_gives_shares(site: AnnouncedSite) -> None:
    """It helps to take the masks off; it is charged nothing, and announces masks for the next round."""
    charged = site.federation.charges(OURS)
    site.begin(NAMES[1:])
    reply = site.train()
    assert (reply.manifest.role, reply.manifest.reason, reply.body) == ("observe", "", b"")
    assert site.federation.charges(OURS) == charged
    survivors = tuple(site.peer(reply, name) for name in NAMES[1:])
    reveal = site.reveal(survivors)
    assert [bool(share) for share in reveal.shares] == [True] * 3
    assert reveal.next is not None
    assert reveal.next.advert.round == 2


def test_a_site_whose_mask_secrets_are_lost_observes_and_gives_nothing(site: AnnouncedSite) -> None:
    """It is in the opening, and cannot upload under it: as a contributor that was left out it stays silent."""
    (site.federation.run_folder(OURS) / "round-1.masks").unlink()
    reply = site.train()
    assert (reply.manifest.role, reply.body) == ("observe", b"")
    reveal = site.reveal(tuple(site.peer(reply, name) for name in NAMES[1:]))
    assert set(reveal.shares) == {""}
    assert reveal.next is not None


def test_damaged_mask_secrets_stop_the_run_at_this_site(site: AnnouncedSite) -> None:
    """Nothing is guessed, and no second set is made; the control has its file back."""
    path = site.federation.run_folder(OURS) / "round-1.masks"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(SiteStorageError, match="mask secrets of round 1"):
        site.train()
    path.write_bytes(whole)
    assert site.train().manifest.role == "contribute"


SURVIVORS: dict[str, tuple[Callable[[AnnouncedSite, SignedReply], list[SignedManifest]], type[FedwardError]]] = {
    "too few": (lambda s, r: [r.signed, s.peer(r, NAMES[1])], TranscriptError),
    "one twice": (lambda s, r: [r.signed, *[s.peer(r, NAMES[1])] * 2, s.peer(r, NAMES[2])], TranscriptError),
    "one three times": (lambda _, r: [r.signed] * 3, TranscriptError),
    "not in roster order": (lambda s, r: [s.peer(r, NAMES[1]), r.signed, s.peer(r, NAMES[2])], TranscriptError),
    "our manifest changed": (
        lambda s, r: with_other(s, r, 0, s.signed(r.manifest.model_copy(update={"root": "f" * 64}))),
        TranscriptError,
    ),
    "our manifest with another signature": (
        lambda s, r: with_other(s, r, 0, s.signed(r.manifest, signer=NAMES[1])),
        BadSignature,
    ),
    "signed by another": (lambda s, r: with_peer(s, r, signer=NAMES[1]), BadSignature),
    "a stranger": (lambda s, r: with_peer(s, r, signer=NAMES[3], hospital="hospital-9"), TranscriptError),
    "one that was shown another opening": (lambda s, r: with_peer(s, r, opening="f" * 64), SplitViewError),
    "one that was shown none": (lambda s, r: with_peer(s, r, opening=""), SplitViewError),
    "one with another model": (lambda s, r: with_peer(s, r, state_tag="f" * 64), DivergenceError),
    "one with another history": (
        lambda s, r: with_peer(s, r, applied=NOTHING_APPLIED.model_copy(update={"chain": "f" * 64})),
        DivergenceError,
    ),
    "an observer": (lambda s, r: with_peer(s, r, role="observe", root="", chunks=0), TranscriptError),
    "another size of upload": (lambda s, r: with_peer(s, r, chunks=1), TranscriptError),
    "another attempt's manifest": (lambda s, r: with_peer(s, r, attempt=1), TranscriptError),
    "another round's manifest": (lambda s, r: with_peer(s, r, round=2), TranscriptError),
    "another run's manifest": (lambda s, r: with_peer(s, r, run="f" * 32), TranscriptError),
    "another plan's manifest": (lambda s, r: with_peer(s, r, plan="f" * 64), TranscriptError),
    "another epoch's manifest": (lambda s, r: with_peer(s, r, epoch=2), TranscriptError),
    "another kind's manifest": (lambda s, r: with_peer(s, r, kind="eval"), TranscriptError),
    "other parameters": (lambda s, r: with_peer(s, r, parameters="f" * 64), TranscriptError),
}


def with_other(site: AnnouncedSite, ours: SignedReply, at: int, signed: SignedManifest) -> list[SignedManifest]:
    """The four survivors with one in place of another."""
    survivors = list(site.survivors(ours))
    survivors[at] = signed
    return survivors


def with_peer(site: AnnouncedSite, ours: SignedReply, *, signer: str = "", **changes: Any) -> list[SignedManifest]:  # noqa: ANN401
    """The four survivors, of whom the last has signed something else."""
    return with_other(site, ours, 3, site.peer(ours, NAMES[3], signer=signer, **changes))


@pytest.mark.parametrize("lie", SURVIVORS)
def test_no_share_is_given_for_unsound_survivors(site: AnnouncedSite, lie: str) -> None:
    """Nor is the round used up by the refusal: honest survivors get their shares."""
    ours, (build, error) = site.train(), SURVIVORS[lie]
    with pytest.raises(error):
        site.unmask(tuple(build(site, ours)), attempt=0, round=1)
    assert storage(site).load_reveal(1) is None
    assert all(site.reveal(site.survivors(ours)).shares)


def test_no_share_is_given_for_a_survivor_that_the_round_was_not_opened_with(site: AnnouncedSite) -> None:
    """Its upload could hold no masks that the others know."""
    site.begin(NAMES[:3])
    ours = site.train()
    with pytest.raises(TranscriptError, match="not opened with"):
        site.unmask(site.survivors(ours))
    assert all(site.reveal(site.survivors(ours, NAMES[:3])).shares)


def test_a_site_that_asks_for_more_contributors_gives_no_share_for_fewer(site: AnnouncedSite) -> None:
    """Its own min_cohort counts, in the opening and for the survivors."""
    federation = site.federation
    federation.close(OURS)
    federation.change_site(OURS, min_cohort=4)
    federation.open(OURS)
    try:
        with pytest.raises(TranscriptError, match="at least 4"):
            site.train(adverts=site.delivered[:3])
        ours = site.train()
        with pytest.raises(TranscriptError, match="at least 4"):
            site.unmask(site.survivors(ours, NAMES[:3]))
        assert all(site.reveal(site.survivors(ours)).shares)
    finally:
        federation.close(OURS)
        federation.change_site(OURS, min_cohort=3)
        federation.open(OURS)


def test_shares_of_a_round_are_given_once(site: AnnouncedSite) -> None:
    """For one set of survivors and one attempt, also after a restart; the same request gets the same bytes."""
    site.train()
    ours = site.train(attempt=1)
    survivors, fewer = site.survivors(ours), site.survivors(ours, NAMES[:3])
    given = site.unmask(survivors)
    for _ in range(2):
        for others in (fewer, (*survivors[:3], site.peer(ours, NAMES[3]))):
            with pytest.raises(AlreadyRevealed):
                site.unmask(others)
        assert site.unmask(survivors) == given
        site.federation.reopen(OURS)
    for attempt in (0, 2):
        with pytest.raises(WrongRound):
            site.unmask(survivors, attempt=attempt)
    assert storage(site).load_reveal(1) is not None


def test_only_the_latest_attempt_is_unmasked(site: AnnouncedSite) -> None:
    """Else two sums of one round could be opened, one per attempt."""
    first = site.train()
    second = site.train(attempt=1)
    with pytest.raises(WrongRound):
        site.unmask(site.survivors(first))
    # Manifests of the earlier attempt do not get through under the later one's number either.
    with pytest.raises(TranscriptError):
        site.unmask(site.survivors(first), attempt=1)
    assert all(site.reveal(site.survivors(second)).shares)


def test_nothing_is_uploaded_under_masks_that_are_known(site: AnnouncedSite) -> None:
    """After its shares left, a round has no further attempt; what was sent may be sent again."""
    first = site.train()
    site.unmask(site.survivors(first))
    with pytest.raises(AlreadyRevealed):
        site.train(attempt=1)
    site.federation.reopen(OURS)
    with pytest.raises(AlreadyRevealed):
        site.train(attempt=2)
    assert site.train() == first
    # Control: without a reveal another attempt goes out.
    site.begin()
    site.train()
    assert site.train(attempt=1).manifest.role == "contribute"


def test_a_contributor_that_was_left_out_reveals_nothing_and_stays_in_the_run(site: AnnouncedSite) -> None:
    """Its mask key is rebuilt by the others; a share of theirs from it would be one more than they count on."""
    ours = site.train()
    others = site.survivors(ours, NAMES[1:])
    reveal = site.reveal(others)
    assert reveal.shares == ("",) * 4
    assert reveal.next is not None
    reveal.next.check(site.identity(OURS).public_hex, hospitals=4)
    # And that was its word: for a sum with its own upload it gives nothing any more.
    with pytest.raises(AlreadyRevealed):
        site.unmask(site.survivors(ours))


def opened_shares(site: AnnouncedSite, dealer: int) -> tuple[bytes, bytes]:
    """Both shares that hospital-1 was dealt by another: of the seed, of the mask key."""
    member, one = site.federation.member(OURS), site.delivered[dealer]
    opened = open_share(
        bytes.fromhex(one.shares.box),
        shared=pair_secret(member.box, site.federation.plan.roster[dealer].box),
        run=site.federation.coordinator.run,
        epoch=1,
        round_number=1,
        sender=NAMES[dealer],
        recipient=OURS,
    )
    return opened[:32], opened[32:]


@pytest.mark.parametrize("gone", [None, 1, 2, 3])
def test_no_hospital_gets_both_of_its_secrets_revealed(site: AnnouncedSite, gone: int | None) -> None:
    """The seed's share of a survivor, the mask key's of another; the two together would open its upload."""
    ours = site.train()
    names = [name for index, name in enumerate(NAMES) if index != gone]
    survivors = site.survivors(ours, names)
    data, reveal = site.unmask(survivors), site.reveal(survivors)
    for dealer in range(4):
        seed, key = opened_shares(site, dealer)
        given, kept = (key, seed) if dealer == gone else (seed, key)
        assert reveal.shares[dealer] == given.hex()
        assert kept.hex().encode() not in data
        assert kept not in data


def misdealt(site: AnnouncedSite, box: Callable[[SealedShares], str], **digests: str) -> None:
    """Open the round with shares for hospital-1 that hospital-2 has signed and that are no good."""
    opening = site.federation.coordinator.openings[1]
    full = opening.adverts[1]
    bad = full.shares[0].model_copy(update={"box": box(full.shares[0]), **digests})
    shares = (bad, *full.shares[1:])
    advert = sign(full.advert.model_copy(update={"shares_root": shares_root(shares)}), site.identity(NAMES[1]).sign)
    adverts = (opening.adverts[0], FullAdvert(advert=advert, shares=shares), *opening.adverts[2:])
    site.federation.coordinator.openings[1] = Opening(adverts)


def resealed(site: AnnouncedSite, plaintext: bytes) -> str:
    """A box from hospital-2 to hospital-1 with other content."""
    dealer = site.federation.member(NAMES[1])
    return seal_share(
        plaintext,
        shared=pair_secret(dealer.box, site.federation.plan.roster[0].box),
        run=site.federation.coordinator.run,
        epoch=1,
        round_number=1,
        sender=NAMES[1],
        recipient=OURS,
    ).hex()


def test_for_a_dealer_of_bad_shares_no_share_is_given_and_for_the_others_it_is(site: AnnouncedSite) -> None:
    """A box that does not open, and one that holds another share than was announced; the control holds that share."""
    misdealt(site, lambda shares: shares.box[:-2] + f"{int(shares.box[-2:], 16) ^ 1:02x}")
    assert [bool(share) for share in site.reveal(site.survivors(site.train())).shares] == [True, False, True, True]
    other = bytes(range(64))
    site.begin()
    misdealt(site, lambda _: resealed(site, other))
    assert [bool(share) for share in site.reveal(site.survivors(site.train())).shares] == [True, False, True, True]
    site.begin()
    digest = share_digest(other[:32], of="seed", dealer=NAMES[1], recipient=OURS)
    misdealt(site, lambda _: resealed(site, other), seed=digest)
    assert site.reveal(site.survivors(site.train())).shares[1] == other[:32].hex()


def test_an_advert_is_the_same_bytes_whoever_asks_and_when(site: AnnouncedSite) -> None:
    """Two adverts of one round would be two sets of masks for one update."""
    request = site.federation.coordinator.request("keys", 2, OURS)
    first = site.answer(request)
    assert site.answer(request) == first
    site.federation.reopen(OURS)
    assert site.answer(request) == first
    reveal = site.reveal(site.survivors(site.train()))
    assert reveal.next == decode_document(first, FullAdvert)
    # Control: another round and another run have others.
    assert site.answer(site.federation.coordinator.request("keys", 3, OURS)) != first
    site.begin()
    assert site.answer(site.federation.coordinator.request("keys", 2, OURS)) != first


def test_an_advert_for_a_round_that_is_over_is_refused(site: AnnouncedSite) -> None:
    """Its secrets are erased: new ones would be a second set. The next round's is given."""
    site.federation.catch_up_with(OURS, [skipped(1, 0)])
    with pytest.raises(WrongRound):
        site.answer(site.federation.frame("keys", 1, OURS))
    assert site.answer(site.federation.frame("keys", 2, OURS))


def test_a_site_that_dies_while_it_announces_sends_one_advert(
    site: AnnouncedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each flush of the advert's files; the last life has no death."""
    sent, switch = set[bytes](), PowerSwitch()
    monkeypatch.setattr(os, "fsync", switch)
    for death in range(9):
        site.federation.coordinator.switch(f"{death:032x}")
        request, deaths = site.federation.coordinator.request("keys", 1, OURS), 0
        switch.left = death
        try:
            sent = {site.answer(request)}
        except Killed:
            deaths, sent = 1, set()
            switch.left = 10**9
            site.federation.reopen(OURS)
        switch.left = 10**9
        sent.add(site.answer(request))
        assert len(sent) == 1
        if not deaths:
            assert death >= 4
            return
    pytest.fail("the site never finished")


def test_a_site_that_dies_while_it_reveals_gives_shares_for_one_set_of_survivors(
    site: AnnouncedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each flush; afterwards it is asked for other survivors: either nothing was given for the first, or no more."""
    switch = PowerSwitch()
    monkeypatch.setattr(os, "fsync", switch)
    outcomes = []
    for death in range(9):
        site.begin()
        ours = site.train()
        first, second = site.survivors(ours), site.survivors(ours, NAMES[:3])
        switch.left = death
        try:
            left = bool(site.unmask(first))
        except Killed:
            left = False
        switch.left = 10**9
        site.federation.reopen(OURS)
        try:
            site.unmask(second)
            assert not left
            outcomes.append("second")
        except AlreadyRevealed:
            site.unmask(first)
            outcomes.append("first")
        if left:
            break
    assert outcomes[0] == "second"
    assert outcomes[-1] == "first"
    assert outcomes == sorted(outcomes, reverse=True)


def files_with(folder: Path, needles: list[bytes]) -> set[str]:
    """Names of all files under a folder that hold one of these strings, as bytes or in hex."""
    wanted = [*needles, *(needle.hex().encode() for needle in needles)]
    return {
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in wanted)
    }


def test_mask_secrets_lie_sealed_on_the_disk_and_go_with_the_round(site: AnnouncedSite) -> None:
    """In no file in clear, in all of the site's folder; once the round is over not even sealed."""
    home = site.federation.folder / "federation" / OURS
    ours = site.train()
    own = site.federation.secrets(1, [OURS])[OURS]
    seed, key = opened_shares(site, 1)
    assert not files_with(home, [own.seed, own.key, seed, key])
    # Control: the search finds what does lie there.
    masks = (site.federation.run_folder(OURS) / "round-1.masks").read_bytes()
    assert files_with(home, [bytes.fromhex(own.public_hex)]) == {"round-1.masks", "round-1.opening"}
    assert files_with(home, [masks[12:76]]) == {"round-1.masks"}
    given = site.reveal(site.survivors(ours))
    assert files_with(home, [seed]) == {"round-1.reveal"}
    assert given.shares[1] == seed.hex()
    box = bytes.fromhex(site.delivered[1].shares.box)
    assert files_with(home, [box]) == {"round-1.opening"}
    site.federation.catch_up_with(OURS, [skipped(1, 0)])
    assert not files_with(home, [own.seed, own.key, seed, key, masks[12:76], box])
    assert not list(site.federation.run_folder(OURS).glob("round-1.*"))
    # The next round's, which was announced with the reveal, is kept.
    assert (site.federation.run_folder(OURS) / "round-2.masks").exists()
