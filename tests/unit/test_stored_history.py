"""Hospitals get the rounds that are over so that they can verify them: the last sum, and who vouches for others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from client.recompute import recompute
from client.verify import Expectation, check_history, verify_aggregate
from common.errors import TranscriptError
from common.messages import NOTHING_APPLIED, Applied
from common.request_frames import decode_request
from common.transcript import aggregate_root
from common.wire import header_bytes
from server.aggregate import skipped
from server.history import StoredHistory
from server.mask_store import MaskStore
from server.parts import PartLimits
from server.requests import RequestWriter
from server.steps import HELLO, Rounds
from server.store import Exchange, Store
from tests.support.masked_sites import Ended, MaskedSites, tag_of
from tests.support.replies import NAMES, RUN
from tests.support.stored_sums import sent_aggregates

THREE = NAMES[:3]
SKIPPED = (3, 4, 7)
LAST = 7
SUMS = tuple(number for number in range(1, LAST + 1) if number not in SKIPPED)
READER = "hospital-4"


@dataclass
class Past:
    """Seven rounds, of which the third, fourth and last were skipped."""

    sites: MaskedSites
    store: Store
    masks: MaskStore
    rounds: dict[int, Ended] = field(default_factory=dict)
    applied: list[Applied] = field(default_factory=lambda: [NOTHING_APPLIED])

    @property
    def history(self) -> StoredHistory:
        """As hospitals get it."""
        return StoredHistory(self.store, self.masks, RUN)

    def add(self, number: int) -> None:
        """One more round."""
        root, aggregate = "", skipped(number, 0)
        if number not in SKIPPED:
            ended = self.rounds[number] = self.sites.ended(number, THREE, applied=self.applied[-1])
            root, aggregate = aggregate_root(ended.aggregate.body), ended.aggregate
            for name, body in ended.uploads.items():
                self.masks.save_upload(number, 0, hospital=name, body=body)
            self.masks.save_transcript(number, 0, ended.transcript)
        self.store.save(RUN, Exchange(number, 0, "unmask", 1.0, ()), aggregate)
        self.masks.forget()
        self.applied.append(self.applied[-1].followed_by(root))

    def take(self, part: Rounds, *, limits: PartLimits = PartLimits()) -> int:  # noqa: B008 -- frozen
        """A hospital that has applied all before the part takes it, with its own checks; how many it recomputed."""
        member = self.sites.member(READER)
        writer = RequestWriter(self.sites.plan, RUN, self.sites.coordinator.sign, self.history, limits)
        ((_, frame),) = writer.write(HELLO, attempt=0, rounds={READER: part})
        signed = decode_request(frame, self.sites.coordinator.public_hex)
        entries, bodies = signed.request.aggregates, signed.aggregate_bodies()
        roots = [aggregate_root(b[: e.sum_bytes]) if e.survivors else "" for e, b in zip(entries, bodies, strict=True)]
        applied, recomputed = self.applied[part.first - 1], 0
        check_history(entries, roots, member=member, run=RUN, applied=applied)
        for entry, body, root in zip(entries, bodies, roots, strict=True):
            if entry.survivors:
                expected = Expectation(member, RUN, 1, tag_of(applied), applied, None, None, None, "")
                verified = verify_aggregate(entry, body[: entry.sum_bytes], expected=expected)
                if entry.transcript is not None:
                    recompute(verified, entry, entry.transcript, uploads=body[entry.sum_bytes :], member=member)
                    recomputed += 1
            applied = applied.followed_by(root)
        assert applied == self.applied[part.last]
        return recomputed


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """It is only read."""
    folder = tmp_path_factory.mktemp("past")
    sites = MaskedSites(folder / "sites", rounds=LAST)
    with closing(Store(folder)) as store, closing(MaskStore(folder, RUN)) as masks:
        store.begin(RUN, plan_digest=sites.plan.digest, plan_json="{}", now=1.0)
        made = Past(sites, store, masks)
        for number in range(1, LAST + 1):
            made.add(number)
        yield made


def test_the_last_sum_comes_with_transcript_and_uploads(past: Past) -> None:
    """Byte for byte as the hospitals signed them, in roster order; what comes before it is the sum alone."""
    aggregates = sent_aggregates(past.history, Rounds(1, LAST))
    assert [aggregate.entry.round for aggregate in aggregates] == list(range(1, LAST + 1))
    last = past.rounds[SUMS[-1]]
    for number, aggregate in enumerate(aggregates, start=1):
        entry = aggregate.entry
        if number in SKIPPED:
            assert aggregate == skipped(number, 0)
            continue
        plain = past.rounds[number].aggregate
        assert aggregate.body[: entry.sum_bytes] == plain.body
        assert entry.survivors == plain.entry.survivors
        assert entry.body_bytes == len(aggregate.body)
        if number == SUMS[-1]:
            assert entry.transcript == last.transcript
            assert aggregate.body == plain.body + b"".join(last.uploads[name] for name in THREE)
        else:
            assert (entry.transcript, aggregate.body) == (None, plain.body)
        # The transcript verifies all: nobody else needs to vouch.
        assert entry.witnesses == ()


@pytest.mark.parametrize("last", range(1, LAST))
def test_earlier_rounds_come_with_the_manifests_of_the_next_sum(past: Past, last: int) -> None:
    """On the last entry that is sent, which may be a skipped round; none where the transcript itself is sent."""
    entries = [aggregate.entry for aggregate in sent_aggregates(past.history, Rounds(1, last))]
    later = next((number for number in SUMS if number > last), None)
    assert [entry.witnesses for entry in entries[:-1]] == [()] * (last - 1)
    if later is None:
        assert entries[SUMS[-1] - 1].transcript is not None
        assert entries[-1].witnesses == ()
    else:
        assert all(entry.transcript is None for entry in entries)
        assert entries[-1].witnesses == past.rounds[later].aggregate.entry.survivors


def test_skipped_rounds_at_the_end_have_nobody_to_vouch_for_them_yet(past: Past) -> None:
    """Nor anything to vouch for; no bytes either."""
    (aggregate,) = sent_aggregates(past.history, Rounds(LAST, LAST))
    assert aggregate == skipped(LAST, 0)
    assert sent_aggregates(past.history, Rounds(LAST + 1, LAST)) == ()


def test_sizes_are_those_of_what_is_sent(past: Past) -> None:
    """With the transcript in the header and the uploads in the body, but without manifests that vouch."""
    sizes, sent = past.history.sizes(Rounds(1, LAST)), sent_aggregates(past.history, Rounds(1, LAST))
    assert [body for _, body in sizes] == [len(aggregate.body) for aggregate in sent]
    uploads = sum(map(len, past.rounds[SUMS[-1]].uploads.values()))
    assert sizes[SUMS[-1] - 1][1] == len(past.rounds[SUMS[-1]].aggregate.body) + uploads
    for (entry_bytes, _), aggregate in zip(sizes, sent, strict=True):
        # Of a transcript: its own bytes instead of `null`.
        assert abs(len(header_bytes(aggregate.entry)) - entry_bytes) <= 4
    assert past.history.sizes(Rounds(5, 6)) == sizes[4:6]


LIMITS = [PartLimits(aggregates=most) for most in range(1, 9)] + [
    PartLimits(body_bytes=1),
    PartLimits(header_bytes=1),
    PartLimits(body_bytes=60_000),
    PartLimits(header_bytes=8_000),
]


@pytest.mark.parametrize("limits", LIMITS, ids=range(len(LIMITS)))
@pytest.mark.parametrize("start", [1, 2, 3, 4, 5])
def test_a_hospital_takes_every_page_with_its_own_checks(past: Past, limits: PartLimits, start: int) -> None:
    """Wherever it stands and however small the parts are: each is vouched for, and the last sum is recomputed once."""
    writer = RequestWriter(past.sites.plan, RUN, past.sites.coordinator.sign, past.history, limits)
    missing, recomputed, parts = Rounds(start, LAST), 0, 0
    while missing.first <= missing.last:
        part = writer.part(missing)
        assert part.first == missing.first <= part.last
        recomputed += past.take(part, limits=limits)
        missing, parts = Rounds(part.last + 1, LAST), parts + 1
    assert recomputed == 1
    assert parts <= len([number for number in SUMS if number >= start]) + 1


def test_a_part_that_were_cut_behind_a_sum_with_skipped_rounds_would_be_refused(past: Past) -> None:
    """Control: the manifests of the next sum vouch for rounds 1 to 4, and for nothing shorter."""
    for last in (2, 3):
        with pytest.raises(TranscriptError, match="has applied other rounds"):
            past.take(Rounds(1, last))
    past.take(Rounds(1, 4))
    past.take(Rounds(1, 1))


def test_the_transcripts_bytes_count_for_a_part(past: Past) -> None:
    """A part that has room for the last sum's own bytes, but not for the uploads behind it, ends before it."""
    light = sum(len(past.rounds[number].aggregate.body) for number in SUMS)
    writer = RequestWriter(
        past.sites.plan, RUN, past.sites.coordinator.sign, past.history, PartLimits(body_bytes=light + 100)
    )
    assert writer.part(Rounds(1, LAST)) == Rounds(1, SUMS[-1] - 1)
    entries = sum(entry for entry, _ in past.history.sizes(Rounds(1, LAST)))
    without = entries - len(header_bytes(past.rounds[SUMS[-1]].transcript))
    writer = RequestWriter(
        past.sites.plan, RUN, past.sites.coordinator.sign, past.history, PartLimits(header_bytes=without + 100)
    )
    assert writer.part(Rounds(1, LAST)) == Rounds(1, SUMS[-1] - 1)
    # Control: with room for it all of them go in one part.
    writer = RequestWriter(past.sites.plan, RUN, past.sites.coordinator.sign, past.history, PartLimits())
    assert writer.part(Rounds(1, LAST)) == Rounds(1, LAST)
