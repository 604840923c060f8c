"""A hospital takes a run's model from others only if enough of them vouch for exactly that model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.checkpoint import continued_state, make_checkpoint, open_checkpoint
from client.hpke import box_public_hex
from client.member import Member
from client.optimiser import OptimiserState
from client.state import RunState, state_tag
from client.storage import RunStorage
from common.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from common.errors import BadSignature, CheckpointMissing, CheckpointRefused, MalformedMessage, PeerError
from common.identity import Identity
from common.messages import Applied, Manifest, Request, SignedManifest, decode_reply, encode_reply
from common.plan_models import FrozenBackboneModel
from common.roster import Continued
from common.transcript import EMPTY_CHAIN
from tests.support.masked_sites import TRAINABLE_PARAMETERS, MaskedSites
from tests.support.replies import NAMES, PARAMETERS, RUN

KEY, MAKER, NEEDY, LAST = bytes(range(32)), NAMES[0], NAMES[3], 2
WIDTH = 16


@dataclass
class Table:
    """Three hospitals with one model, and one without, of four."""

    sites: MaskedSites
    state: RunState

    def member(self, name: str) -> Member:
        """A hospital under the plan that continues another one."""
        return self.sites.member(name)

    def request(self, kind: str, vouchers: Sequence[SignedManifest] = (), **changes: Any) -> Request:  # noqa: ANN401
        """What the coordinator asks; it is not looked at who is addressed."""
        return self.sites.request(kind, 0, NEEDY, survivors=tuple(vouchers), **changes)

    def made(self, state: RunState | None = None) -> bytes:
        """The checkpoint of one that holds a model."""
        return make_checkpoint(state or self.state, self.request("checkpoint"), self.member(MAKER), tag_key=KEY)

    def vouchers(self, names: Sequence[str] = NAMES[:3], **changes: Any) -> list[SignedManifest]:  # noqa: ANN401
        """Their signed answers to `hello`."""
        return [self.voucher(name, **changes) for name in names]

    def voucher(self, name: str, *, signer: str = "", **changes: Any) -> SignedManifest:  # noqa: ANN401 -- any field
        """One of them, with other fields or another signer."""
        member = self.member(name)
        fields: dict[str, Any] = {
            "kind": "hello",
            "run": RUN,
            "plan": member.plan.digest,
            "epoch": 1,
            "round": 0,
            "attempt": 0,
            "hospital": name,
            "role": "observe",
            "reason": "",
            "parameters": PARAMETERS.digest(),
            "opening": "",
            "revealed": "",
            "state_tag": state_tag(self.state, KEY),
            "applied": self.state.applied,
            "ledger": "8" * 64,
            "nonce": "",
            "ledger_sequence": 2,
            "ledger_head": EMPTY_CHAIN,
            "chunks": 0,
            "root": "",
        }
        manifest = Manifest(**fields | changes)
        signed = decode_reply(encode_reply(manifest, b"", member.identity.sign), member.identities).signed
        if not signer:
            return signed
        return SignedManifest(manifest=signed.manifest, signature=self.member(signer).identity.sign(b"x").hex())

    def opened(self, data: bytes, vouchers: Sequence[SignedManifest], **changes: Any) -> RunState:  # noqa: ANN401
        """What the hospital without a model makes of it."""
        request = self.request("restore", vouchers, **changes)
        return open_checkpoint(request, data, self.member(NEEDY), tag_key=KEY)

    def altered(self, data: bytes, *, body: bytes | None = None, **changes: Any) -> bytes:  # noqa: ANN401 -- any field
        """A checkpoint that its maker signed, with other fields."""
        member = self.member(MAKER)
        checkpoint, sealed = decode_checkpoint(data, member.identities)
        changed = Checkpoint(**(checkpoint.model_dump() | changes))
        return encode_checkpoint(changed, sealed if body is None else body, member.identity.sign)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A plan with a mean of features that continues another one after round 2."""
    sites = MaskedSites(tmp_path)
    continues = Continued(plan="a" * 64, run="b" * 32, round=LAST)
    federation = sites.plan.agreed.model_copy(update={"continues": continues})
    model = FrozenBackboneModel(kind="lite0-head", image_size=64, views=1, projection=WIDTH, seed=0)
    privacy = sites.plan.privacy.model_copy(update={"mean_share": 0.1})
    sites.plan = sites.plan.model_copy(update={"federation": federation, "model": model, "privacy": privacy})
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=TRAINABLE_PARAMETERS) for _ in range(2)]
    applied = Applied(round=LAST, root="3" * 64, chain=EMPTY_CHAIN)
    return Table(sites, RunState(applied, OptimiserState(*vectors), rng.normal(size=WIDTH)))


def test_the_model_arrives_bit_for_bit(table: Table) -> None:
    """Model, mean of the features, optimiser state and history; three of four vouch, which is the plan's threshold."""
    taken = table.opened(table.made(), table.vouchers())
    assert taken.applied == table.state.applied
    for seen, sent in (
        (taken.optimiser.parameters, table.state.optimiser.parameters),
        (taken.optimiser.velocity, table.state.optimiser.velocity),
        (taken.feature_mean, table.state.feature_mean),
    ):
        assert seen.tobytes() == sent.tobytes()


def test_the_model_is_not_in_what_the_coordinator_carries(table: Table) -> None:
    """Nor does another hospital's box open with our key: the control is our own box."""
    data = table.made()
    assert table.state.optimiser.parameters[:4].tobytes() not in data
    boxes = decode_checkpoint(data, table.member(MAKER).identities)[0].boxes
    swapped = table.altered(data, boxes=boxes | {NEEDY: boxes[NAMES[1]]})
    with pytest.raises(CheckpointRefused, match="does not open with this hospital's box key"):
        table.opened(swapped, table.vouchers())
    assert table.opened(table.altered(data), table.vouchers())


def test_too_few_vouchers_are_refused(table: Table) -> None:
    """Two of four could side with the coordinator; one counts once; those with another model do not count."""
    data, three = table.made(), table.vouchers()
    for vouchers, count in (
        ([], 0),
        (three[:2], 2),
        ([*three[:2], three[0]], 2),
        ([*three[:2], table.voucher(NAMES[2], state_tag="0" * 64)], 2),
        ([*three[:2], table.voucher(NAMES[2], kind="finish")], 2),
        ([*three[:2], table.voucher(NAMES[2], run="c" * 32)], 2),
        ([*three[:2], table.voucher(NAMES[2], plan="c" * 64)], 2),
        ([*three[:2], table.voucher(NAMES[2], epoch=2)], 2),
        ([*three[:2], table.voucher(NAMES[2], applied=Applied(round=3, root="", chain=EMPTY_CHAIN))], 2),
    ):
        with pytest.raises(CheckpointRefused, match=f"{count} hospitals vouch .*, 3 are needed"):
            table.opened(data, vouchers)


def test_another_model_than_the_one_vouched_for_is_refused(table: Table) -> None:
    """One hospital and the coordinator cannot plant a model: its last bit decides."""
    parameters = table.state.optimiser.parameters.copy()
    parameters[-1] = np.nextafter(parameters[-1], 1.0)
    moved = replace(table.state, optimiser=OptimiserState(parameters, table.state.optimiser.velocity))
    mean = table.state.feature_mean.copy()
    mean[-1] = np.nextafter(mean[-1], 1.0)
    for planted in (moved, replace(table.state, feature_mean=mean)):
        with pytest.raises(CheckpointRefused, match="0 hospitals vouch"):
            table.opened(table.made(planted), table.vouchers())


def test_a_forged_voucher_is_refused(table: Table) -> None:
    """The coordinator has no hospital's key."""
    forged = [*table.vouchers()[:2], table.voucher(NAMES[2], signer=NAMES[1])]
    with pytest.raises(BadSignature):
        table.opened(table.made(), forged)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "c" * 32},
        {"plan": "c" * 64},
        {"epoch": 2},
        {"applied": {"round": 1, "root": "3" * 64, "chain": EMPTY_CHAIN}},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(table: Table, changes: dict[str, Any]) -> None:
    """Signed by its maker, but of another run, plan, key or round."""
    with pytest.raises(CheckpointRefused, match="another run, key or round"):
        table.opened(table.altered(table.made(), **changes), table.vouchers())


def test_changed_cut_and_foreign_bytes_are_refused(table: Table) -> None:
    """Each by name; nothing is taken."""
    data, vouchers = table.made(), table.vouchers()
    rng = np.random.default_rng(1)
    for _ in range(200):
        at = int(rng.integers(len(data)))
        flipped = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        with pytest.raises(PeerError):
            table.opened(flipped, vouchers)
        with pytest.raises(PeerError):
            table.opened(data[:at], vouchers)
    for foreign in (b"", b"{}", bytes(1000), b"[" * 5000):
        with pytest.raises(MalformedMessage):
            table.opened(foreign, vouchers)


def test_a_stranger_and_a_revoked_hospital_seal_nothing(table: Table) -> None:
    """Only hospitals of the roster may."""
    member = table.member(MAKER)
    stranger = replace(member, identity=Identity.generate())
    data = make_checkpoint(table.state, table.request("checkpoint"), stranger, tag_key=KEY)
    with pytest.raises(BadSignature):
        table.opened(data, table.vouchers())
    named = make_checkpoint(table.state, table.request("checkpoint"), replace(member, hospital="gone"), tag_key=KEY)
    with pytest.raises(BadSignature, match="not in the roster"):
        table.opened(named, table.vouchers())


def test_a_model_of_another_size_is_refused(table: Table) -> None:
    """Vouched for or not."""
    other = replace(table.state, optimiser=OptimiserState(np.zeros(9), np.zeros(9)))
    for state in (other, replace(table.state, feature_mean=np.zeros(0))):
        with pytest.raises(CheckpointRefused, match="is no model of this plan"):
            table.opened(table.made(state), table.vouchers())
    assert box_public_hex(table.sites.boxes[NEEDY]) == table.member(NEEDY).plan.roster[3].box


def test_a_run_goes_on_from_a_model_of_its_own_size_only(table: Table, tmp_path: Path) -> None:
    """Parameters and mean of the features; else this site waits for a checkpoint from the others."""
    plan = table.sites.plan
    assert plan.agreed.continues is not None
    earlier = RunStorage(tmp_path / plan.agreed.continues.run, plan=plan.agreed.continues.plan)
    longer = OptimiserState(*(np.zeros(TRAINABLE_PARAMETERS + 1) for _ in range(2)))
    for state in (
        replace(table.state, feature_mean=np.zeros(0)),
        replace(table.state, feature_mean=np.zeros(WIDTH + 1)),
        replace(table.state, optimiser=longer),
    ):
        earlier.save_state(state)
        with pytest.raises(CheckpointMissing, match="waits for a checkpoint"):
            continued_state(tmp_path, RunStorage(tmp_path / RUN, plan=plan.digest), plan)
    earlier.save_state(table.state)
    taken = continued_state(tmp_path, RunStorage(tmp_path / RUN, plan=plan.digest), plan)
    assert state_tag(taken, KEY) == state_tag(table.state, KEY)
