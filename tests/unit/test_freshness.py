"""After a start a hospital observes until peers have said what they saw of it; an old copy of it is caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.doctor_finding import Finding
from client.doctor_site import SiteDoctor
from client.freshness import Freshness
from client.status import read_status
from common.errors import BadSignature, FedwardError, LedgerRolledBack, MalformedMessage, WrongPlan
from common.freshness_messages import FreshnessAnswer, OpenNonce
from common.mask_messages import Reveal, decode_document
from common.messages import REPLY_MAGIC, SignedManifest, SignedReply
from common.site_config import load_site
from common.wire import frame, header_bytes
from tests.support.small_federation import NAMES, SmallFederation

OURS, OTHERS = NAMES[0], NAMES[1:]


@pytest.fixture
def federation(base: Path, tmp_path: Path) -> Iterator[SmallFederation]:
    """Four open hospitals that were just started; nobody answers for one that is away."""
    with SmallFederation.copy_of(base, tmp_path) as opened:
        opened.coordinator.absent = lambda _: ()
        yield opened


@pytest.fixture
def alone(base: Path, tmp_path: Path) -> Iterator[SmallFederation]:
    """Hospital-1 in the opening of round 1; the others are their keys."""
    with SmallFederation.copy_of(base, tmp_path, sites=[OURS]) as opened:
        opened.opened(1)
        yield opened


def ask(federation: SmallFederation, kind: str, number: int, *, attempt: int = 0, **changes: Any) -> SignedReply:  # noqa: ANN401 -- any field
    """Hospital-1's answer to a request of a coordinator that forwards only what `changes` say."""
    coordinator, fields = federation.coordinator, {"nonces": (), "answers": ()} | changes
    send = [] if kind == "hello" else coordinator.history(1, number - 1)
    opening = coordinator.openings.get(number)
    if opening is not None and kind != "hello":
        fields["adverts"] = opening.delivered_to(0)
    request = coordinator.sign(
        b"".join(one.body for one in send),
        kind=kind,
        round=number,
        attempt=attempt,
        hospital=OURS,
        aggregates=tuple(one.entry for one in send),
        **fields,
    )
    return federation.reply(federation.sites[OURS].answer(request))


def asked_by(federation: SmallFederation) -> OpenNonce:
    """What hospital-1 asks now."""
    manifest = ask(federation, "hello", 0).manifest
    return OpenNonce(hospital=OURS, nonce=manifest.nonce, ledger=manifest.ledger)


def role(reply: SignedReply) -> tuple[str, str]:
    """What a hospital did, and why."""
    return reply.manifest.role, reply.manifest.reason


def shown(signed: SignedManifest) -> str:
    """A manifest as answers show it."""
    return frame(REPLY_MAGIC, header_bytes(signed.manifest), bytes.fromhex(signed.signature), b"").hex()


class OldCopy:
    """A copy of hospital-1's whole folder, which can be put back."""

    def __init__(self, federation: SmallFederation, folder: Path) -> None:
        self._federation, self._folder = federation, folder
        shutil.copytree(self._home, folder)

    def restore(self, *parts: str) -> None:
        """Stop the service, put the copy back, or parts of it, and start the service."""
        self._federation.close(OURS)
        for part in parts or (".",):
            shutil.rmtree(self._home / part)
            shutil.copytree(self._folder / part, self._home / part)
        self._federation.open(OURS)

    @property
    def _home(self) -> Path:
        return self._federation.folder / "federation" / OURS


def test_an_honest_run_loses_no_round(federation: SmallFederation) -> None:
    """All are asked and answered before the first upload; the control is a round without any answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(federation.coordinator), "freshen", lambda *_: None)
        replies, _ = federation.coordinator.collect("train", 1, federation.sites)
        assert {role(reply) for reply in replies} == {("observe", "NotFresh")}
        assert all(reply.manifest.nonce for reply in replies)
    federation.coordinator.switch("c" * 32)
    federation.coordinator.whole_run(federation.sites)
    for aggregate in federation.coordinator.aggregates:
        assert [one.manifest.hospital for one in aggregate.entry.survivors] == list(NAMES)
        assert {one.manifest.nonce for one in aggregate.entry.survivors} == {""}
    assert [federation.charges(name) for name in NAMES] == [2] * 4


def test_a_restarted_hospital_is_fresh_after_one_exchange(federation: SmallFederation) -> None:
    """Between two rounds it costs none; and in each run it asks anew, with another nonce."""
    federation.train(1)
    federation.reopen(OURS)
    assert {role(reply) for reply in federation.train(2)} == {("contribute", "")}
    first = federation.coordinator.run
    federation.coordinator.switch("b" * 32)
    other = asked_by(federation).nonce
    assert other
    federation.reopen(OURS)
    assert asked_by(federation).nonce not in ("", other)
    federation.coordinator.switch(first)
    assert asked_by(federation).nonce not in ("", other)


def test_answers_ride_on_the_replies_where_no_exchange_is_held_for_them(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nonce goes out with the reply, is forwarded with `unmask`, and the next opening brings the answers."""
    federation.train(1)
    federation.coordinator.open(2, {})
    federation.reopen(OURS)
    monkeypatch.setattr(type(federation.coordinator), "freshen", lambda *_: None)
    replies = federation.train(2)
    assert [role(reply) for reply in replies] == [("observe", "NotFresh")] + [("contribute", "")] * 3
    assert federation.charges(OURS) == 1
    replies = federation.coordinator.exchange("eval", 3, federation.sites)
    assert {role(reply) for reply in replies} == {("contribute", "")}


def test_one_that_was_started_after_its_upload_gives_shares_once_it_is_fresh(federation: SmallFederation) -> None:
    """Before that: no share, and nothing is fixed; then shares for the same survivors, once and for all."""
    coordinator = federation.coordinator
    replies, total = coordinator.collect("train", 1, federation.sites)
    federation.reopen(OURS)
    survivors = total.survivors(NAMES)
    request = coordinator.unmask_request(survivors, OURS, nonces=(), answers=())
    withheld = decode_document(federation.sites[OURS].answer(request), Reveal)
    withheld.check(federation.member(OURS).identity.public_hex)
    assert withheld.shares == ("",) * 4
    assert withheld.nonce
    assert federation.storage(OURS).load_reveal(1) is None
    coordinator.aggregates.append(coordinator.unmask(1, replies, federation.sites, total=total))
    given = federation.storage(OURS).load_reveal(1)
    assert given is not None
    assert all(decode_document(given.reply, Reveal).shares)
    # The stored answer goes out after a start too: it was given.
    assert federation.reopen(OURS).answer(request) == given.reply
    assert {role(reply) for reply in federation.train(2)} == {("contribute", "")}
    assert [federation.charges(name) for name in NAMES] == [2] * 4


def test_as_many_answers_as_may_collude_are_not_enough(alone: SmallFederation) -> None:
    """One peer may collude: its answer, however often it comes, leaves the site an observer; a second one is enough."""
    asked = asked_by(alone)
    one, two = (alone.signed_answer(asked, name) for name in OTHERS[:2])
    assert role(ask(alone, "train", 1)) == ("observe", "NotFresh")
    assert role(ask(alone, "train", 1, attempt=1, answers=(one, one))) == ("observe", "NotFresh")
    assert alone.charges(OURS) == 0
    status = read_status(alone.folder / "federation" / OURS / "state" / "status.json")
    assert status is not None
    assert status.message.startswith("1 of 2 peers")
    assert role(ask(alone, "train", 1, attempt=2, answers=(one, two))) == ("contribute", "")
    assert alone.charges(OURS) == 1


def test_answers_to_an_earlier_start_count_nothing(alone: SmallFederation) -> None:
    """A coordinator that replays them keeps the site an observer; nor does it matter to an honest one that is late."""
    old = alone.nothing_seen(asked_by(alone))
    alone.reopen(OURS)
    assert role(ask(alone, "train", 1, answers=tuple(old))) == ("observe", "NotFresh")
    new = alone.nothing_seen(asked_by(alone))
    assert role(ask(alone, "train", 1, attempt=1, answers=tuple(old + new))) == ("contribute", "")


def signed_by_another(federation: SmallFederation, asked: OpenNonce) -> FreshnessAnswer:
    """In the name of hospital-2, with hospital-3's key."""
    return federation.signed_answer(asked, NAMES[2]).model_copy(update={"hospital": NAMES[1]})


def made_up(federation: SmallFederation, asked: OpenNonce, *, body: bytes = b"") -> FreshnessAnswer:
    """Hospital-2 shows what it signed itself in our name, or our own manifest with a body."""
    signed = ask(federation, "hello", 0).signed
    if body:
        return federation.signed_answer(asked, NAMES[1], seen=(shown(signed) + body.hex(),))
    manifest = signed.manifest.model_copy(update={"ledger_sequence": 9})
    forged = federation.member(NAMES[1]).identity.sign(header_bytes(manifest)).hex()
    return federation.signed_answer(asked, NAMES[1], seen=(shown(SignedManifest(manifest=manifest, signature=forged)),))


LIES: dict[str, tuple[Callable[[SmallFederation, OpenNonce], FreshnessAnswer], type[FedwardError]]] = {
    "unsigned": (lambda f, a: f.signed_answer(a, NAMES[1]).model_copy(update={"signature": "0" * 128}), BadSignature),
    "signed by another": (signed_by_another, BadSignature),
    "of a stranger": (
        lambda f, a: f.signed_answer(a, NAMES[1]).model_copy(update={"hospital": "hospital-9"}),
        BadSignature,
    ),
    "its own": (lambda f, a: f.signed_answer(a, OURS), WrongPlan),
    "to another": (lambda f, a: f.signed_answer(a, NAMES[1], asker=NAMES[2]), WrongPlan),
    "of another run": (lambda f, a: f.signed_answer(a, NAMES[1], run="e" * 32), WrongPlan),
    "of another plan": (lambda f, a: f.signed_answer(a, NAMES[1], plan="e" * 64), WrongPlan),
    "of a later epoch": (lambda f, a: f.signed_answer(a, NAMES[1], epoch=9), WrongPlan),
    "about another ledger": (lambda f, a: f.signed_answer(a, NAMES[1], ledger="e" * 64), WrongPlan),
    "changed after it was signed": (
        lambda f, a: f.signed_answer(a, NAMES[1]).model_copy(update={"nonce": "e" * 64}),
        BadSignature,
    ),
    "shows what we never signed": (made_up, BadSignature),
    "shows more than a manifest": (lambda f, a: made_up(f, a, body=b"x"), MalformedMessage),
    "shows no manifest": (lambda f, a: f.signed_answer(a, NAMES[1], seen=("00",)), MalformedMessage),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_answer_is_refused_and_counts_nothing(alone: SmallFederation, lie: str) -> None:
    """With a good one beside it the site would be fresh; after that it takes the honest ones."""
    build, error = LIES[lie]
    asked = asked_by(alone)
    honest = alone.signed_answer(asked, NAMES[3])
    with pytest.raises(error):
        ask(alone, "train", 1, answers=(honest, build(alone, asked)))
    assert role(ask(alone, "train", 1, answers=(honest,))) == ("observe", "NotFresh")
    assert alone.charges(OURS) == 0
    answers = tuple(alone.nothing_seen(asked))
    assert role(ask(alone, "train", 1, attempt=1, answers=answers)) == ("contribute", "")


def ledger_finding(federation: SmallFederation) -> Finding:
    """What the doctor says of the ledger of hospital-1, whose service is stopped."""
    path = federation.folder / "federation" / OURS / f"{OURS}.yaml"
    findings = SiteDoctor(load_site(path), path, passphrase_file=None).findings()
    return next(one for one in findings if one.name == "ledger")


def test_an_old_copy_of_ledger_and_state_is_caught(federation: SmallFederation, tmp_path: Path) -> None:
    """No charge, no share, no advert, in this run and later ones, until a newer copy is there; it still catches up."""
    coordinator = federation.coordinator
    coordinator.open(1, federation.sites)
    old = OldCopy(federation, tmp_path / "old")
    federation.train(1)
    newest = OldCopy(federation, tmp_path / "newest")
    old.restore()
    assert federation.charges(OURS) == 0
    replies, total = coordinator.collect("train", 2, federation.sites)
    assert [role(reply) for reply in replies] == [("observe", "LedgerRolledBack")] + [("contribute", "")] * 3
    assert federation.charges(OURS) == 0
    assert federation.state(OURS).applied.round == 1
    refused: list[Callable[[], object]] = [
        lambda: federation.sites[OURS].answer(coordinator.unmask_request(total.survivors(NAMES), OURS)),
        lambda: federation.sites[OURS].answer(coordinator.request("keys", 3, OURS)),
    ]
    for request in refused:
        with pytest.raises(LedgerRolledBack, match="runs on an old copy; restore"):
            request()
    # Nobody needs to say it again: not after a start, and not in another run.
    federation.reopen(OURS)
    assert role(ask(federation, "train", 2, attempt=1)) == ("observe", "LedgerRolledBack")
    first = coordinator.run
    coordinator.switch("d" * 32)
    with pytest.raises(LedgerRolledBack):
        federation.sites[OURS].answer(coordinator.request("keys", 1, OURS))
    coordinator.switch(first)
    federation.close(OURS)
    found = ledger_finding(federation)
    assert found.failed
    assert "lacks entry 1, which this site has named in a signed message" in found.verdict.seen
    federation.open(OURS)
    newest.restore()
    federation.close(OURS)
    assert not ledger_finding(federation).failed
    federation.open(OURS)
    coordinator.freshen(2, federation.sites)
    again = federation.sites[OURS].answer(coordinator.request("train", 2, OURS, attempt=2))
    assert role(federation.reply(again)) == ("contribute", "")
    assert federation.charges(OURS) == 2


def upload_twice(federation: SmallFederation, old: OldCopy) -> tuple[SignedReply, SignedReply]:
    """Round 1 in full, then once more to the old copy of hospital-1, under the same opening."""
    coordinator = federation.coordinator
    replies, total = coordinator.collect("train", 1, federation.sites)
    coordinator.unmask(1, replies, federation.sites, total=total)
    old.restore()
    again, _ = coordinator.collect("train", 1, federation.sites)
    return replies[0], again[0]


def test_a_round_that_was_answered_is_not_answered_by_an_old_copy(federation: SmallFederation, tmp_path: Path) -> None:
    """Else there were two updates under one mask."""
    federation.coordinator.open(1, federation.sites)
    _, second = upload_twice(federation, OldCopy(federation, tmp_path / "old"))
    assert role(second) == ("observe", "LedgerRolledBack")
    assert federation.charges(OURS) == 0


def test_control_without_the_check_an_old_copy_answers_again(
    federation: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It charges again, and uploads other integers under the masks of the first: their difference is in the open."""
    federation.coordinator.open(1, federation.sites)
    monkeypatch.setattr(Freshness, "check_copy", lambda *_, **__: None)
    old = OldCopy(federation, tmp_path / "old")
    first, second = upload_twice(federation, old)
    assert role(second) == ("contribute", "")
    assert federation.charges(OURS) == 1
    assert first.manifest.opening == second.manifest.opening
    assert not np.array_equal(federation.decrypted(first), federation.decrypted(second))


def test_an_old_state_beside_the_newest_ledger_is_caught_in_the_round_that_it_answered(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """The closing round charges nothing: only round and attempt tell. Once that round is over, it goes on."""
    coordinator = federation.coordinator
    federation.train(1)
    federation.train(2)
    coordinator.open(3, federation.sites)
    old = OldCopy(federation, tmp_path / "old")
    replies, total = coordinator.collect("eval", 3, federation.sites)
    aggregate = coordinator.unmask(3, replies, federation.sites, total=total)
    old.restore("state")
    coordinator.freshen(3, federation.sites)
    again = federation.sites[OURS].answer(coordinator.request("eval", 3, OURS, attempt=1, first=3))
    assert role(federation.reply(again)) == ("observe", "LedgerRolledBack")
    coordinator.aggregates.append(aggregate)
    federation.catch_up(OURS)
    assert federation.state(OURS).applied.round == 3
    # Now it knows as much as was shown.
    freshness, storage = federation.sites[OURS]._freshness, federation.storage(OURS)
    freshness.check_copy(coordinator.run, storage, applied=3)
    with pytest.raises(LedgerRolledBack):
        freshness.check_copy(coordinator.run, storage, applied=2)
