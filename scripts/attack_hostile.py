"""Malformed messages of every kind, sent before each valid message of an honest run, which must come to the same end.

A copy that is refused with an error of the peer family is refused; anything else is a crash, and a copy that is taken
and is not byte for byte the valid message is accepted. The valid messages are the control: each must be taken.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from client.key_ceremony import KeyCeremony
from client.state import state_tag
from client.vault import BOX, IDENTITY, Vault
from client.vault_lock import Unlock
from common.ckks import PRESETS
from common.errors import BadSignature, PeerError
from common.key_messages import (
    Confirmation,
    Confirmations,
    Deal,
    check_document,
    dealer_of,
    decode_document,
    encode_document,
)
from common.messages import Kind
from common.packing import BLOCK_CHUNKS
from scripts.attack_hospitals import StageOptions
from scripts.attack_mutations import mutate
from scripts.attack_pages import WATCHED, ask_in_pages
from scripts.attack_result import AttackResult, Say
from scripts.attack_shapes import shape_of
from scripts.attack_stage import Stage, Take, open_stage
from server.admit import admit

HOSPITALS, ROUNDS = 3, 2
# A network with which uploads and requests are longer than the shortest page that there is.
WIDTH, PAGE_KIB, IN_PAGES = 8, 16, 2
# Words of one block of ciphertexts: what is handled at a time, however small the message is.
BLOCK_BYTES = BLOCK_CHUNKS * PRESETS["compact"].ring_degree * 8
MOST_MEMORY = 3.0
_MEASURED_EVERY = 25


@dataclass(slots=True)
class Sender:
    """Sends malformed copies of each valid message before it.

    Args:
        draw: Chooses them.
        count: How many in all.
        messages: Valid messages that are to come.
        say: Takes a line of progress.
    """

    draw: random.Random
    count: int
    messages: int
    say: Say
    sent: int = 0
    seen: int = 0
    memory: tuple[float, str] = (0.0, "")
    peak: int = 0
    stage: Stage | None = None
    kinds: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)

    def __call__(self, kind: str, hospital: str, data: bytes, taker: Take) -> None:
        """Send this message's share of the copies."""
        if self.stage is None:
            return
        shape = shape_of(kind, hospital, self.stage)
        share = -(-(self.count - self.sent) // max(1, self.messages - self.seen))
        self.seen += 1
        if self.seen % 10 == 1:
            self.say(f"hostile: {self.sent} of {self.count} sent; {kind} next")
        for _ in range(share):
            done, made = mutate(data, shape, self.draw)
            while made == data:
                done, made = mutate(data, shape, self.draw)
            self.sent += 1
            self.kinds[kind] += 1
            self.mutations[done] += 1
            if self.sent % _MEASURED_EVERY == 0:
                self._measured(kind, done, made, taker)
            else:
                self._send(kind, done, made, taker)

    def _measured(self, kind: str, done: str, made: bytes, taker: Take) -> None:
        tracemalloc.start()
        try:
            self._send(kind, done, made, taker)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.peak = max(self.peak, peak)
        self.memory = max(self.memory, (peak / max(len(made), BLOCK_BYTES), f"{kind}, {done}, {len(made)} bytes"))

    def _send(self, kind: str, done: str, made: bytes, taker: Take) -> None:
        try:
            taker(made)
        except PeerError as refusal:
            self.errors[refusal.code] += 1
        except Exception as error:  # noqa: BLE001 -- a crash is a finding, not the end of the search
            self.crashes[f"{kind}, {done}: {type(error).__name__}"] += 1
        else:
            self.accepted[f"{kind}, {done}"] += 1


def attack_hostile(*, seed: int, count: int, say: Say) -> list[AttackResult]:
    """Send `count` malformed messages in the course of one honest run.

    Args:
        seed: Chooses them.
        count: How many.
        say: Takes a line of progress.
    """
    # Two for the deal; per hospital 5 of the ceremony, hello, adverts for round 1, uploads and shares, finish;
    # and what is about pages.
    messages = 2 + HOSPITALS * (5 + 2 + 2 + 4 * (ROUNDS + 1) + 2 + len(WATCHED))
    sender = Sender(random.Random(seed), count, messages, say)  # noqa: S311 -- accidents, no secrets
    options = StageOptions(hospitals=HOSPITALS, rounds=ROUNDS, width=WIDTH, seed=seed, page_kib=PAGE_KIB)
    with tempfile.TemporaryDirectory() as folder, open_stage(Path(folder), options) as stage:
        sender.stage, stage.watch = stage, sender
        _ceremony(stage, Path(folder) / "ceremony")
        tags = _whole_run(stage, Path(folder) / "pages")
    equal = len(set(tags)) == 1
    refused = sum(sender.errors.values())
    return [
        AttackResult(
            attack="hostile",
            figure=sum(sender.accepted.values()) + sum(sender.crashes.values()),
            control=sender.seen,
            passed=refused == sender.sent == count and sender.memory[0] < MOST_MEMORY and equal,
            claim="malformed messages that were accepted or crashed: 0, in less than 3 times a message's size, or "
            "3 MiB if it is smaller than 1 MiB; control: valid messages of that run that were taken: all",
            details={
                "messages": sender.sent,
                "accepted": dict(sender.accepted),
                "crashes": dict(sender.crashes),
                "errors": dict(sender.errors),
                "kinds": dict(sender.kinds),
                "mutations": dict(sender.mutations),
                "peak_memory_over_size": sender.memory[0],
                "peak_bytes": sender.peak,
                "peak_memory_at": sender.memory[1],
                "memory_method": f"tracemalloc peak of one message in {_MEASURED_EVERY}, over its size, "
                f"or {BLOCK_BYTES} bytes if it is smaller",
                "states_equal": equal,
            },
        )
    ]


def _whole_run(stage: Stage, folder: Path) -> list[str]:
    """hello, keys, all rounds, one of them once more in pages, finish; the state tag of each hospital at the end."""
    _everybody(stage, "hello", 0)
    for number in range(1, stage.plan.last_round + 1):
        stage.round(number)
        if number == IN_PAGES:
            ask_in_pages(stage, number, folder)
    _everybody(stage, "finish", stage.plan.last_round + 1)
    tags = []
    for name, site in stage.sites.items():
        state = stage.storage(name).load_state()
        tags.append(state_tag(state, site.keys.epoch(1).tag) if state else name)
    return tags


def _everybody(stage: Stage, kind: Kind, number: int) -> None:
    for name in stage.names:
        answer = stage.ask(kind, name, stage.request(kind, number, name, send=stage.missing(name, number)))
        stage.take(
            "reply", name, answer, partial(admit, hospital=name, expected=stage.exchange_of(kind, number), seen={})
        )


def _ceremony(stage: Stage, folder: Path) -> None:
    """The key ceremony once more, with vaults that hold no epoch key yet; and its requests to the sites."""
    plan, names = stage.plan, stage.names
    ceremonies, opened = dict[str, KeyCeremony](), dict[str, bytes]()
    folder.mkdir()
    for name, site in stage.sites.items():
        held = {IDENTITY: site.vault.require(IDENTITY), BOX: site.keys.member.box}
        vault = Vault.create(
            folder / name, hospital=name, unlock=Unlock("key-file", secrets.token_bytes(32)), held=held
        )
        ceremonies[name] = KeyCeremony(
            plan, name, epoch=1, vault=vault, identity=site.keys.identity, min_cohort=plan.min_cohort
        )
    dealer = dealer_of(plan.digest, names, epoch=1)
    signed = partial(_check_signed, identities={hospital.name: hospital.identity for hospital in plan.roster})
    in_force = stage.ask("deal", dealer, stage.request("deal", 0, dealer))
    dealt = ceremonies[dealer].deal()
    stage.take("deal", dealer, dealt, partial(signed, model=Deal, hospital=dealer))
    for name in names:
        stage.ask("open", name, stage.request("open", 0, name, body=in_force))
        opened[name] = stage.take("deal for a site", dealer, dealt, ceremonies[name].open)
        stage.take("confirmation", name, opened[name], partial(signed, model=Confirmation, hospital=name))
    together = encode_document(
        Confirmations(confirmations=tuple(decode_document(one, Confirmation) for one in opened.values()))
    )
    for name in names:
        stage.take("confirmations", name, together, ceremonies[name].confirm)
        stage.ask("confirm", name, stage.request("confirm", 0, name, body=together))


def _check_signed(
    data: bytes, *, model: type[Deal | Confirmation], hospital: str, identities: Mapping[str, str]
) -> None:
    """What the coordinator does with a document of the ceremony."""
    document = decode_document(data, Deal) if model is Deal else decode_document(data, Confirmation)
    check_document(document, identities)
    if document.hospital != hospital:
        raise BadSignature(f"the node of {hospital} brought a document of {document.hospital}; refuse it")
