"""Hospitals that vanish, come late or come back, and rounds that are skipped: what the table of the protocol says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.optimiser import OptimiserState
from common.errors import BadSignature, DivergenceError, FedwardError, SplitViewError, TranscriptError, WrongRound
from common.messages import SignedManifest, SignedReply
from server.aggregate import Aggregate, RunningSum, skipped
from server.masked_round import Unmasking
from tests.support.in_process import light, with_witnesses
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS, LAST = NAMES[0], NAMES[3]
ROUNDS = 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a federation that nobody has used yet, with a plan of five rounds."""
    folder = tmp_path_factory.mktemp("federation")
    provision_small(folder, template(training={"rounds": ROUNDS}))
    return folder


@pytest.fixture
def federation(base: Path, tmp_path: Path) -> Iterator[SmallFederation]:
    """Four open hospitals with fresh ledgers."""
    with SmallFederation.copy_of(base, tmp_path) as opened:
        yield opened


def upload(federation: SmallFederation, number: int, names: Sequence[str]) -> tuple[list[SignedReply], RunningSum]:
    """The uploads of some hospitals in a round that all others were asked for too."""
    federation.coordinator.open(number, federation.sites)
    return federation.coordinator.collect("train", number, {name: federation.sites[name] for name in names})


def unmask(
    federation: SmallFederation, uploads: tuple[list[SignedReply], RunningSum], names: Sequence[str]
) -> Aggregate:
    """The sum of these uploads, with the shares of these hospitals alone."""
    replies, total = uploads
    number, sites = replies[0].manifest.round, {name: federation.sites[name] for name in names}
    aggregate = federation.coordinator.unmask(number, replies, sites, total=total)
    federation.coordinator.aggregates.append(aggregate)
    return aggregate


def integers(federation: SmallFederation, number: int, names: Sequence[str]) -> NDArray[np.int64]:
    """The sum of what these hospitals keep on their own disks of an open round, before any cryptography."""
    stored = [federation.storage(name).load_update(number) for name in names]
    summed: NDArray[np.int64] = np.stack([update for update in stored if update is not None]).sum(axis=0)
    return summed


def expect_mean(
    federation: SmallFederation, before: OptimiserState, summed: NDArray[np.int64], names: Sequence[str]
) -> None:
    """All open hospitals hold exactly the model that this sum gives, of exactly these hospitals."""
    plan = federation.plan
    size, total = plan.agreed.trainable_parameters, sum(h.declared_units for h in plan.roster)
    weight = sum(h.declared_units for h in plan.roster if h.name in names)
    assert summed[size] == weight
    mean = summed[:size].astype(np.float64) * (federation.grid.step * (total / weight))
    velocity = 0.5 * before.velocity + mean
    for name in federation.sites:
        applied = federation.state(name).optimiser
        assert applied.parameters.tobytes() == (before.parameters + velocity).tobytes()
        assert applied.velocity.tobytes() == velocity.tobytes()


def initial(federation: SmallFederation) -> OptimiserState:
    """The plan's model."""
    parameters = federation.sites[NAMES[1]]._contributor.learner.initial
    return OptimiserState(parameters, np.zeros_like(parameters))


@pytest.mark.parametrize("gone", NAMES)
def test_a_hospital_that_never_uploads_is_taken_out_of_the_sum(federation: SmallFederation, gone: str) -> None:
    """Its pairwise masks are in the others' uploads; they are rebuilt, and the sum is the others' alone."""
    others = [name for name in NAMES if name != gone]
    aggregate = unmask(federation, upload(federation, 1, others), others)
    summed = integers(federation, 1, others)
    assert [signed.manifest.hospital for signed in aggregate.entry.survivors] == others
    assert aggregate.entry.transcript is not None
    assert len(aggregate.entry.transcript.mask_secrets) == 1
    federation.catch_up()
    expect_mean(federation, initial(federation), summed, others)


def test_a_hospital_that_dies_before_unmasking_stays_in_the_sum(federation: SmallFederation) -> None:
    """The other three hold enough shares of its seed; it takes the aggregate when it is back."""
    uploads = upload(federation, 1, NAMES)
    federation.close(LAST)
    unmask(federation, uploads, NAMES[:3])
    federation.open(LAST)
    summed = integers(federation, 1, NAMES)
    federation.catch_up()
    expect_mean(federation, initial(federation), summed, NAMES)


def test_a_late_hospital_is_a_dropout_and_keeps_its_upload_to_itself(federation: SmallFederation) -> None:
    """Its upload arrives after the shares for the others: no shares are left for a sum with it."""
    first = upload(federation, 1, NAMES[:3])
    survivors = first[1].survivors(NAMES)
    unmask(federation, first, NAMES[:3])
    late = federation.reply(federation.sites[LAST].answer(federation.frame("train", 1, LAST)))
    assert late.manifest.role == "contribute"
    for name in NAMES[:3]:
        with pytest.raises(FedwardError, match="unmasked already"):
            federation.sites[name].answer(federation.coordinator.unmask_request((*survivors, late.signed), name))
    summed = integers(federation, 1, NAMES[:3])
    assert not np.array_equal(summed, integers(federation, 1, NAMES))
    federation.catch_up()
    expect_mean(federation, initial(federation), summed, NAMES[:3])
    # It was charged for an update that nobody read: spent is spent.
    assert federation.charges(LAST) == 1
    replies = federation.train(2)
    assert {reply.manifest.role for reply in replies} == {"contribute"}


def test_too_few_uploads_reveal_nothing_and_the_next_attempt_costs_nothing(federation: SmallFederation) -> None:
    """The same stored updates go out under fresh masks; of the first attempt no share is ever given."""
    replies, total = upload(federation, 1, NAMES[:2])
    for name in NAMES[:2]:
        with pytest.raises(TranscriptError, match="at least 3"):
            federation.sites[name].answer(federation.coordinator.unmask_request(total.survivors(NAMES), name))
    first = integers(federation, 1, NAMES[:2])
    again = federation.coordinator.collect("train", 1, federation.sites, attempt=1)
    assert {one.body for one in replies}.isdisjoint(one.body for one in again[0])
    np.testing.assert_array_equal(first, integers(federation, 1, NAMES[:2]))
    unmask(federation, again, NAMES)
    summed = integers(federation, 1, NAMES)
    assert [federation.charges(name) for name in NAMES] == [1] * 4
    federation.catch_up()
    expect_mean(federation, initial(federation), summed, NAMES)


def test_too_few_shares_take_no_mask_off(federation: SmallFederation) -> None:
    """Two of three that are needed; the third makes it enough."""
    replies, total = upload(federation, 1, NAMES)
    survivors = total.survivors(NAMES)
    unmasking = Unmasking(federation.plan, federation.coordinator.run, federation.coordinator.openings[1], survivors)
    for number, name in enumerate(NAMES[:3], 1):
        request = federation.coordinator.unmask_request(survivors, name)
        unmasking.take(federation.sites[name].answer(request), name)
        assert unmasking.is_enough == (number == 3)
    assert len(replies) == 4


def test_one_that_was_dead_observes_a_round_and_contributes_from_the_next(federation: SmallFederation) -> None:
    """It announced no masks while it was away: it is shown the opening, gives shares, and announces."""
    uploads = upload(federation, 1, NAMES)
    federation.close(LAST)
    unmask(federation, uploads, NAMES[:3])
    federation.coordinator.open(2, {})
    federation.open(LAST)
    replies, total = federation.coordinator.collect("train", 2, federation.sites)
    assert [reply.manifest.role for reply in replies] == ["contribute"] * 3 + ["observe"]
    assert federation.charges(LAST) == 1
    # Its shares count: with two others they are enough.
    aggregate = unmask(federation, (replies, total), [OURS, NAMES[1], LAST])
    assert [signed.manifest.hospital for signed in aggregate.entry.survivors] == list(NAMES[:3])
    summed = integers(federation, 2, NAMES[:3])
    before = federation.state(OURS).optimiser
    federation.catch_up()
    expect_mean(federation, before, summed, NAMES[:3])
    # The one that missed this unmasking has announced nothing now, and is asked.
    assert LAST in federation.coordinator.adverts[3]
    assert NAMES[2] not in federation.coordinator.adverts[3]
    replies = federation.train(3)
    assert {reply.manifest.role for reply in replies} == {"contribute"}
    assert len({reply.manifest.state_tag for reply in replies}) == 1


def test_what_a_round_leaves_on_the_disks_is_gone_once_it_was_applied(federation: SmallFederation) -> None:
    """Mask secrets, shares, uploads: none of the bytes, in no file of any site."""
    federation.coordinator.open(1, federation.sites)
    secrets = federation.secrets(1)
    federation.train(1)
    sealed = [(federation.run_folder(name) / "round-1.masks").read_bytes() for name in NAMES]
    federation.catch_up()
    needles = [part for own in secrets.values() for part in (own.seed, own.key)] + [data[:76] for data in sealed]
    needles += [needle.hex().encode() for needle in needles]
    for path in (federation.folder / "federation").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path.name
    for name in NAMES:
        names = {path.name for path in federation.run_folder(name).iterdir()}
        assert names == {"plan", "state.npz", "rounds.json", "epoch.json", "round-2.masks"}


def skip(federation: SmallFederation) -> None:
    """A round that could not be unmasked."""
    federation.coordinator.aggregates.append(skipped(len(federation.coordinator.aggregates) + 1, 0))


def test_a_skipped_round_stays_skipped_and_a_summed_one_summed(federation: SmallFederation) -> None:
    """Whichever a site has recorded, it refuses the other; model and charge stay, the history says so."""
    uploads = upload(federation, 1, NAMES)
    before = federation.tag(OURS)
    aggregate = federation.sum_of(uploads[0], secrets=federation.secrets(1))
    federation.catch_up_with(OURS, [skipped(1, 0)])
    federation.catch_up_with(NAMES[1], [aggregate])
    with pytest.raises(TranscriptError, match="another outcome of round 1"):
        federation.catch_up_with(OURS, [aggregate])
    with pytest.raises(TranscriptError, match="another outcome of round 1"):
        federation.catch_up_with(NAMES[1], [skipped(1, 0)])
    # Control: each takes its own again.
    federation.catch_up_with(OURS, [skipped(1, 0)])
    federation.catch_up_with(NAMES[1], [aggregate])
    state = federation.state(OURS)
    assert state.applied.round == 1
    assert state.optimiser.parameters.tobytes() == initial(federation).parameters.tobytes()
    assert federation.tag(OURS) != before
    assert federation.storage(OURS).rounds()[1] == {"contributors": [], "counts_before": [], "revealed": ""}
    assert federation.charges(OURS) == 1


@pytest.mark.parametrize(
    "changes", [{"sum_bytes": 1}, {"transcript": True}], ids=["a sum without survivors", "a transcript of nothing"]
)
def test_a_skipped_round_brings_nothing(federation: SmallFederation, changes: dict[str, object]) -> None:
    """Else something could stand in the chain for nobody's uploads."""
    uploads = upload(federation, 1, NAMES)
    honest = federation.sum_of(uploads[0], secrets=federation.secrets(1))
    if "transcript" in changes:
        changes = {"transcript": honest.entry.transcript}
    lie = Aggregate.held(skipped(1, 0).entry.model_copy(update=changes), b"x" if "sum_bytes" in changes else b"")
    with pytest.raises(FedwardError, match="no survivors"):
        federation.catch_up_with(OURS, [lie])
    federation.catch_up_with(OURS, [honest])


def test_rounds_go_on_after_a_skipped_one(federation: SmallFederation) -> None:
    """The charge of the skipped round stays; the next one trains from the same model, with fresh masks."""
    upload(federation, 1, NAMES)
    skip(federation)
    replies = federation.train(2)
    assert {reply.manifest.role for reply in replies} == {"contribute"}
    assert {reply.manifest.applied.root for reply in replies} == {""}
    assert [federation.charges(name) for name in NAMES] == [2] * 4
    summed = integers(federation, 2, NAMES)
    federation.catch_up()
    expect_mean(federation, initial(federation), summed, NAMES)


@pytest.fixture(scope="module")
def travelled(base: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    """Three hospitals after sum, skip, sum, sum, skip; hospital-1 has been away all the time. All are stopped."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("travelled"), sites=NAMES[1:]) as federation:
        for number in range(1, ROUNDS + 1):
            if number in (2, 5):
                skip(federation)
            else:
                federation.train(number)
        federation.catch_up()
        return federation


@pytest.fixture
def away(travelled: SmallFederation, tmp_path: Path) -> Iterator[SmallFederation]:
    """Hospital-1, which comes back now."""
    with SmallFederation.copy_of(travelled.folder, tmp_path, sites=[OURS]) as federation:
        federation.coordinator.run = travelled.coordinator.run
        federation.coordinator.aggregates = list(travelled.coordinator.aggregates)
        yield federation


def test_a_site_catches_up_over_sums_and_skipped_rounds(away: SmallFederation) -> None:
    """All at once, the last sum with its transcript: the same state as the others', bit for bit."""
    away.catch_up(OURS)
    mine, theirs = away.state(OURS), away.state(NAMES[1])
    assert mine.applied == theirs.applied
    assert mine.applied.round == ROUNDS
    assert mine.optimiser.parameters.tobytes() == theirs.optimiser.parameters.tobytes()
    assert mine.optimiser.velocity.tobytes() == theirs.optimiser.velocity.tobytes()
    rows = away.storage(OURS).rounds()
    assert [bool(rows[number]["contributors"]) for number in range(1, ROUNDS + 1)] == [True, False, True, True, False]


def test_a_site_catches_up_page_by_page_on_the_word_of_others(away: SmallFederation) -> None:
    """A page without the last sum rests on the manifests of the sum behind it."""
    for first, last in ((1, 2), (3, 3), (4, 5)):
        away.catch_up(OURS, first=first, last=last)
        assert away.state(OURS).applied.round == last
    assert away.state(OURS).applied == away.state(NAMES[1]).applied


def test_a_page_that_ends_before_a_skipped_round_cannot_be_vouched_for(away: SmallFederation) -> None:
    """Nobody has signed for it: behind the skipped round all name that one. The page with it is taken."""
    with pytest.raises(TranscriptError):
        away.catch_up(OURS, first=1, last=1)
    away.catch_up(OURS, first=1, last=2)


def page(federation: SmallFederation) -> list[Aggregate]:
    """The first two rounds, on the word of the third's survivors."""
    return federation.coordinator.history(1, 2)


def vouched_by(federation: SmallFederation, witnesses: Sequence[SignedManifest]) -> list[Aggregate]:
    """The same on the word of these."""
    first, last = page(federation)
    return [first, Aggregate.held(last.entry.model_copy(update={"witnesses": tuple(witnesses)}), last.body)]


def witnesses(federation: SmallFederation, number: int = 3) -> tuple[SignedManifest, ...]:
    """Manifests of a round."""
    return federation.coordinator.aggregates[number - 1].entry.survivors


def unsigned(federation: SmallFederation) -> list[Aggregate]:
    """With one manifest that its hospital did not sign so."""
    first, *others = witnesses(federation)
    changed = first.manifest.model_copy(update={"ledger_sequence": 99})
    return vouched_by(federation, [SignedManifest(manifest=changed, signature=first.signature), *others])


def without_the_skip(federation: SmallFederation) -> list[Aggregate]:
    """The first round alone, on the word of those who have skipped the second."""
    return [with_witnesses(page(federation)[0], federation.coordinator.aggregates[2])]


def skip_in_place_of_a_sum(federation: SmallFederation) -> list[Aggregate]:
    """The first round as if it had been skipped; the last sum comes with its transcript."""
    return [skipped(1, 0), *federation.coordinator.history(2, 4)]


def another_sum(federation: SmallFederation) -> list[Aggregate]:
    """The third round's sum in place of the first's."""
    first, last = page(federation)
    third = federation.coordinator.aggregates[2]
    body = third.body[: third.entry.sum_bytes]
    return [Aggregate.held(first.entry, body), last]


HISTORIES: dict[str, tuple[Callable[[SmallFederation], list[Aggregate]], type[FedwardError]]] = {
    "nobody's word": (lambda f: vouched_by(f, ()), TranscriptError),
    "too few": (lambda f: vouched_by(f, witnesses(f)[:2]), TranscriptError),
    "one twice": (lambda f: vouched_by(f, [*witnesses(f)[:2], witnesses(f)[1]]), TranscriptError),
    "not in roster order": (lambda f: vouched_by(f, witnesses(f)[::-1]), TranscriptError),
    "not signed": (unsigned, BadSignature),
    "those of an earlier state": (lambda f: vouched_by(f, witnesses(f, 1)), TranscriptError),
    "those of a later state": (lambda f: vouched_by(f, witnesses(f, 4)), TranscriptError),
    "a skip left out": (without_the_skip, TranscriptError),
    "a skip in place of a sum": (skip_in_place_of_a_sum, TranscriptError),
    "another sum": (another_sum, TranscriptError),
    "a round left out": (lambda f: [page(f)[1]], WrongRound),
    "rounds in another order": (lambda f: page(f)[::-1], WrongRound),
    "the last sum without its transcript": (
        lambda f: [*f.coordinator.history(1, 3), light(f.coordinator.aggregates[3])],
        TranscriptError,
    ),
}


@pytest.mark.parametrize("lie", HISTORIES)
def test_a_history_that_nobody_vouches_for_is_refused_as_a_whole(away: SmallFederation, lie: str) -> None:
    """Before any of it is decrypted; then the honest page is taken."""
    build, error = HISTORIES[lie]
    with pytest.raises(error):
        away.catch_up_with(OURS, build(away))
    assert away.storage(OURS).load_state() is None
    away.catch_up_with(OURS, page(away))
    assert away.state(OURS).applied.round == 2


def test_a_site_that_gave_shares_takes_no_sum_of_other_survivors(federation: SmallFederation) -> None:
    """Three honest uploads of four, correctly unmasked: not what its shares were for; the control is that sum."""
    uploads = upload(federation, 1, NAMES)
    secrets = federation.secrets(1)
    aggregate = unmask(federation, uploads, NAMES)
    fewer = federation.sum_of(uploads[0][:3], secrets=secrets)
    for name in NAMES:
        with pytest.raises(SplitViewError):
            federation.catch_up_with(name, [fewer])
    assert federation.catch_up_with(OURS, [aggregate])


def test_a_site_that_was_shown_another_opening_takes_no_sum_of_the_first(federation: SmallFederation) -> None:
    """The coordinator opened the round twice; the others' sum is of masks that this site was not shown."""
    uploads = upload(federation, 1, NAMES[:3])
    other = federation.coordinator.openings[1].delivered_to(3)[1:]
    answer = federation.sites[LAST].answer(federation.frame("train", 1, LAST, adverts=other))
    assert federation.reply(answer).manifest.role == "contribute"
    aggregate = unmask(federation, uploads, NAMES[:3])
    with pytest.raises(SplitViewError):
        federation.catch_up_with(LAST, [aggregate])
    # Nor does it give shares for them, nor they for it.
    with pytest.raises((SplitViewError, DivergenceError)):
        federation.sites[LAST].answer(federation.coordinator.unmask_request(aggregate.entry.survivors, LAST))
    federation.catch_up_with(OURS, [aggregate])
