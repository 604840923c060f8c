"""A site obeys requests that the coordinator of its plan signed for it, in order, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import BadSignature, EpochExpired, KeyMissing, MalformedMessage, WrongPlan, WrongRound
from common.identity import Identity
from common.messages import Request
from common.request_frames import decode_request, encode_request
from tests.support.site_keys import site_identity
from tests.support.small_federation import NAMES, SmallFederation

OURS = NAMES[0]


@pytest.fixture(scope="module")
def federation(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallFederation]:
    """One open hospital; what it refuses leaves no trace, so all tests share it."""
    with SmallFederation.copy_of(base, tmp_path_factory.mktemp("federation"), sites=[OURS]) as opened:
        yield opened


def expect_no_trace(federation: SmallFederation) -> None:
    """Nothing charged, nothing kept."""
    assert federation.charges(OURS) == 0
    assert not federation.run_folder(OURS).exists()


@pytest.mark.parametrize(
    ("kind", "round_number", "changes", "error"),
    [
        ("train", 1, {"plan": "f" * 64}, WrongPlan),
        ("train", 1, {"epoch": 2}, KeyMissing),
        ("train", 1, {"epoch": 0}, EpochExpired),
        ("train", 1, {"epoch": 1000}, WrongPlan),
        ("train", 1, {"hospital": NAMES[1]}, WrongPlan),
        ("train", 0, {}, WrongRound),
        ("train", 2, {}, WrongRound),
        ("train", 3, {}, WrongRound),
        ("train", 2**39, {}, WrongRound),
        ("train", 1, {"attempt": 3}, WrongRound),
        ("eval", 1, {}, WrongRound),
        ("eval", 3, {}, WrongRound),
        ("hello", 1, {}, WrongRound),
        ("finish", 3, {}, WrongRound),
        ("finish", 4, {}, WrongRound),
        ("keys", 0, {}, WrongRound),
        ("keys", 4, {}, WrongRound),
        ("keys", 1, {"attempt": 3}, WrongRound),
        ("keys", 1, {"plan": "f" * 64}, WrongPlan),
        ("unmask", 0, {}, WrongRound),
        ("unmask", 1, {}, WrongRound),
        ("unmask", 4, {}, WrongRound),
    ],
)
def test_a_request_out_of_place_is_refused(
    federation: SmallFederation, kind: str, round_number: int, changes: dict[str, Any], error: type[Exception]
) -> None:
    """Another plan, epoch, recipient, kind, round or attempt; no eval before training, no early finish."""
    with pytest.raises(error):
        federation.sites[OURS].answer(federation.frame(kind, round_number, OURS, **changes))
    expect_no_trace(federation)


def test_a_hello_takes_no_space(federation: SmallFederation) -> None:
    """A coordinator that greets with a million run ids fills no disk."""
    federation.sites[OURS].answer(federation.frame("hello", 0, OURS))
    expect_no_trace(federation)


def test_a_request_that_the_coordinator_did_not_sign_is_refused(federation: SmallFederation) -> None:
    """The gateway, another hospital, or anybody else cannot make a site train."""
    honest = federation.frame("train", 1, OURS)
    request = decode_request(honest, federation.plan.agreed.coordinator).request
    own_key = site_identity(federation.folder / "federation" / OURS)
    for signer in (Identity.generate().sign, own_key.sign, lambda _: bytes(64)):
        with pytest.raises(BadSignature):
            federation.sites[OURS].answer(encode_request(request, b"", signer))
    expect_no_trace(federation)


def test_a_request_with_another_body_is_refused(federation: SmallFederation) -> None:
    """The signature covers the aggregates through their digest."""
    with pytest.raises(MalformedMessage):
        federation.sites[OURS].answer(federation.frame("train", 1, OURS) + b"x")
    with pytest.raises(MalformedMessage):
        federation.sites[OURS].answer(b"")
    expect_no_trace(federation)


@pytest.mark.parametrize("run", ["../" * 10 + "aa", "0" * 31 + "\n", "0" * 32 + "\n", "G" * 32, ""])
def test_a_run_is_no_path(run: str) -> None:
    """The run id names a folder of the site."""
    fields = {"kind": "hello", "plan": "0" * 64, "epoch": 1, "round": 0, "attempt": 0, "hospital": OURS}
    fields |= {"aggregates": (), "adverts": (), "survivors": (), "body_sha256": "0" * 64}
    with pytest.raises(ValueError, match="run"):
        Request.model_validate(fields | {"run": run})
    assert Request.model_validate(fields | {"run": "0" * 32})


def test_a_run_cannot_go_on_under_another_plan(federation: SmallFederation) -> None:
    """Stored integers lie on the grid of the plan that they were made for; under another they could wrap."""
    federation.coordinator.switch("3" * 32)
    folder = federation.run_folder(OURS)
    folder.mkdir(parents=True)
    (folder / "plan").write_text("f" * 64)
    for kind, number in (("hello", 0), ("train", 1)):
        with pytest.raises(WrongPlan):
            federation.sites[OURS].answer(federation.frame(kind, number, OURS))
    # Control: under its own plan, and with the same files, the run is answered.
    (folder / "plan").write_text(federation.plan.digest)
    assert federation.sites[OURS].answer(federation.frame("hello", 0, OURS))
    assert federation.charges(OURS) == 0


def test_the_request_that_is_in_place_is_answered(federation: SmallFederation) -> None:
    """The control of all refusals above; it stands last, since it leaves traces."""
    federation.coordinator.switch("4" * 32)
    federation.opened(1)
    assert federation.sites[OURS].answer(federation.frame("train", 1, OURS))
    assert federation.charges(OURS) == 1
    assert federation.run_folder(OURS).is_dir()
