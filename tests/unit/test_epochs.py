"""Which key a round is under: the plan's bound, the coordinator's schedule, and what a hospital's book refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client.advert import own_advert
from client.epochs import EpochBook
from client.opening import open_round
from common.errors import EpochExpired
from common.plan import Plan
from common.roster import Continued
from server.epochs import Epochs
from server.steps import HELLO, Step
from server.store import Store
from tests.support.masked_sites import MaskedSites
from tests.support.replies import NAMES, RUN

EACH = 2


def with_epochs(sites: MaskedSites, *, continues: Continued | None = None, epoch: int = 1) -> Plan:
    """The plan of six rounds with a key for each two."""
    plan = sites.plan
    federation = plan.agreed.model_copy(update={"continues": continues, "epoch": epoch})
    encryption = plan.encryption.model_copy(update={"epoch_rounds": EACH})
    return plan.model_copy(update={"federation": federation, "encryption": encryption})


@pytest.fixture
def sites(tmp_path: Path) -> MaskedSites:
    """Four hospitals."""
    made = MaskedSites(tmp_path)
    made.plan = with_epochs(made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The coordinator's store."""
    with closing(Store(tmp_path)) as opened:
        yield opened


def test_the_plan_bounds_the_rounds_of_a_key(sites: MaskedSites) -> None:
    """By hand; a plan that continues another one counts from its own first round."""
    assert [sites.plan.least_epoch(number) for number in range(8)] == [1, 1, 1, 2, 2, 3, 3, 4]
    later = with_epochs(sites, continues=Continued(plan="a" * 64, run="b" * 32, round=3), epoch=5)
    assert [later.least_epoch(number) for number in range(8)] == [5, 5, 5, 5, 5, 5, 6, 6]
    assert later.first_round == 4


def test_a_new_key_is_due_after_its_rounds_or_when_it_was_asked_for(sites: MaskedSites, store: Store) -> None:
    """One that came early serves as long as any other: the schedule goes on from it."""
    epochs, seen = Epochs(sites.plan, RUN, store), {}
    for number in range(1, 9):
        if number == 4:
            store.ask_rotation(RUN, "the operator")
        due = epochs.due(number)
        if due is not None:
            epochs.begin(number, due)
        seen[number] = epochs.of(Step("train", number))
    assert seen == {1: 1, 2: 1, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4, 8: 5}
    again = Epochs(sites.plan, RUN, store)
    assert {number: again.of(Step("keys", number)) for number in seen} == seen
    assert (again.of(HELLO), again.of(Step("finish", 9))) == (5, 5)
    assert again.since(4) == (3, 4, 5)
    assert again.since(0) == (1, 2, 3, 4, 5)


def test_a_key_whose_dealer_is_away_serves_no_round(sites: MaskedSites, store: Store) -> None:
    """Else it would be asked for whenever a hospital needs the keys of all rounds, also after a restart."""
    epochs = Epochs(sites.plan, RUN, store)
    epochs.begin(1, 2)
    for same in (epochs, Epochs(sites.plan, RUN, store)):
        assert same.since(0) == (2,)
        assert same.since(1) == (2,)
        assert same.newest == 2


def test_a_site_keeps_the_keys_of_a_run_in_order(sites: MaskedSites) -> None:
    """What it used is on its disk, so a restart changes nothing; the controls are the requests in order."""

    def book() -> EpochBook:
        return EpochBook(sites.plan, sites.storage(NAMES[0]))

    def request(kind: str, number: int, epoch: int) -> None:
        asked = sites.request(kind, number, NAMES[0], epoch=epoch)
        book().check(asked)
        book().note(asked)

    request("keys", 1, 1)
    request("train", 1, 1)
    request("train", 2, 2)
    with pytest.raises(EpochExpired, match="train 2 under key epoch 1 after epoch 2; none comes back"):
        request("train", 2, 1)
    with pytest.raises(EpochExpired, match="none comes back"):
        request("hello", 0, 1)
    with pytest.raises(EpochExpired, match="has served its rounds; at least epoch 3 is allowed"):
        request("train", 4, 2)
    request("train", 3, 2)
    request("keys", 4, 3)
    with pytest.raises(EpochExpired, match="none comes back"):
        request("unmask", 3, 2)


def test_a_look_at_a_run_notes_nothing(sites: MaskedSites) -> None:
    """A `hello` takes no space on the disk, whatever key it names."""
    book = EpochBook(sites.plan, sites.storage(NAMES[0]))
    asked = sites.request("hello", 0, NAMES[0], epoch=9)
    book.check(asked)
    book.note(asked)
    assert sites.storage(NAMES[0]).load_epoch() is None


def test_an_advert_for_another_key_replaces_one_that_is_not_in_use(sites: MaskedSites) -> None:
    """Once the round is open under it, it stays: two adverts of one round would be two sets of masks."""
    member, storage = sites.member(NAMES[0]), sites.storage(NAMES[0])

    def advert(epoch: int) -> str:
        return own_advert(member, storage, run=RUN, round_number=1, epoch=epoch).full.advert.mask_key

    first = advert(1)
    assert advert(1) == first
    second = advert(2)
    assert second != first
    assert advert(2) == second
    others = [
        own_advert(sites.member(name), sites.storage(name), run=RUN, round_number=1, epoch=2).full for name in NAMES
    ]
    delivered = tuple(full.delivered_to(member.position) for full in others)
    open_round(sites.request("train", 1, NAMES[0], epoch=2, adverts=delivered), member, storage)
    with pytest.raises(EpochExpired, match="round 1 was opened under key epoch 2"):
        advert(3)
    assert advert(2) == second


def test_a_key_that_was_named_for_a_late_round_first_serves_no_longer(sites: MaskedSites) -> None:
    """Its rounds count from the earliest that it was used for: else `keys` for the last round would lift the bound."""
    storage = sites.storage(NAMES[0])
    book = EpochBook(sites.plan, storage)
    book.note(sites.request("keys", 6, NAMES[0], epoch=4))
    assert storage.load_epoch() == (4, 6)
    book.note(sites.request("train", 2, NAMES[0], epoch=4))
    assert storage.load_epoch() == (4, 2)
    with pytest.raises(EpochExpired):
        book.check(sites.request("train", 4, NAMES[0], epoch=4))
