"""Files of a hospital that has trained one round, which nobody has unmasked yet; nothing runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.accountant import PrivacyEvent
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.ledger_entry import Charge
from common.config import load_settings
from common.identity import Identity
from common.plan import Plan
from common.site_config import SiteConfig, load_site
from tests.support.in_process import Coordinator
from tests.support.small_federation import NAMES, SmallFederation, provision_small, template

OURS = NAMES[0]
STEP = PrivacyEvent(1.0, 20.0, 1)


@dataclass
class Trained:
    """Hospital-1 and its public key; `folder` holds the whole federation."""

    folder: Path
    key: str

    @property
    def site(self) -> SiteConfig:
        """Its site file."""
        return load_site(self.config)

    @property
    def config(self) -> Path:
        """Path of that file."""
        return self.folder / "federation" / OURS / f"{OURS}.yaml"

    @property
    def federation(self) -> SmallFederation:
        """On its own files."""
        root = self.folder / "federation"
        plan = load_settings(root / "plan.yaml", Plan)
        return SmallFederation(
            self.folder, plan, Coordinator(plan, Identity.load(root / "coordinator" / "identity.key"))
        )

    def charge(self, count: int, *, shares: int = 1, clock: Callable[[], float] = time.time) -> None:
        """Charge rounds of another plan, beside the site's back."""
        federation = self.federation
        ledger = Ledger(
            self.site.ledger,
            hospital=OURS,
            source=self.site.privacy.source,
            identity=federation.member(OURS).identity,
            cap=Cap(1000.0, self.site.privacy.cap_delta),
            clock=clock,
        )
        with closing(ledger):
            for number in range(ledger.sequence() + 1, ledger.sequence() + 1 + count):
                ledger.charge(
                    Charge(
                        kind="train",
                        run="5" * 32,
                        round_number=number,
                        plan_hash="aa" * 32,
                        event=STEP,
                        clip=0.5,
                        units_digest="bb" * 32,
                        held_out_rule=federation.plan.held_out_rule,
                        mode="local" if shares == 1 else "distributed",
                        shares=shares,
                    )
                )


def train_once(folder: Path) -> Trained:
    """Make a federation and have hospital-1 train; its ledger before that is kept as `before.sqlite`."""
    provision_small(folder / "new", template())
    with SmallFederation.copy_of(folder / "new", folder / "trained", sites=[OURS]) as federation:
        trained = Trained(folder / "trained", federation.plan.roster[0].identity)
        federation.opened(1)
        federation.close(OURS)
        shutil.copy(trained.site.ledger, folder / "trained" / "before.sqlite")
        federation.open(OURS)
        assert federation.reply(federation.sites[OURS].answer(federation.frame("train", 1, OURS))).body
    return trained


# A module that needs one takes both: `base, trained = trained_site.base, trained_site.trained`.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Files of that site, and its ledger before the round as `before.sqlite`."""
    return train_once(tmp_path_factory.mktemp("base"))


@pytest.fixture
def trained(base: Trained, tmp_path: Path) -> Trained:
    """A copy of its own."""
    shutil.copytree(base.folder, tmp_path / "site")
    return Trained(tmp_path / "site", base.key)
