"""What the doctor looks at in the site service's own things: device, folders, vault, plan, keys, data, ledger."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from client.approval import check_approved
from client.data import held_out, load_table
from client.data.source import DataPlace, read_data
from client.data.table import ImageTable, SiteTable, records_per_class
from client.doctor_finding import Finding, Verdict, examine, failed, noted, passed
from client.doctor_processes import running_service
from client.freshness import lacks_entry, ledger_name, read_shown
from client.keys import open_keys
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.peers_seen import PeersSeen
from client.unlock import find_unlock
from client.vault import BOX, IDENTITY, Vault
from common.errors import LedgerError
from common.identity import Identity
from common.plan import Plan
from common.site_config import SiteConfig

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_OTHERS = 0o077


class SiteDoctor:
    """Looks at one site; what needs the vault or the plan uses it if it was sound."""

    def __init__(self, config: SiteConfig, config_file: Path, *, passphrase_file: Path | None) -> None:
        self._config, self._config_file, self._passphrase_file = config, config_file, passphrase_file
        self._vault: Vault | None = None
        self._plan: Plan | None = None

    def findings(self) -> Iterator[Finding]:
        """All findings of the site's part."""
        yield examine("device", self._device)
        yield examine("state folder", self._folders)
        yield examine("vault", self._open_vault)
        yield examine("plan", self._read_plan)
        yield examine("CKKS key", self._epoch_key)
        yield examine("data", self._data)
        yield examine("ledger", self._ledger)

    def _device(self) -> Verdict:
        wanted = self._config.device
        if wanted == "cpu":
            return passed(f"the CPU, as 'device' says; {os.cpu_count()} cores")
        # torch takes seconds to load, and its absence is a finding of its own.
        import torch  # noqa: PLC0415

        from client.backbone import choose_compute  # noqa: PLC0415

        device = choose_compute(wanted).device
        if device.type == "cpu":
            seen = f"'device: {wanted}' means the CPU here: torch sees no CUDA GPU"
            if Path("/dev/nvidia0").exists():
                return noted(f"{seen}, though this machine has an NVIDIA device", "mend its driver to use it")
            return passed(seen)
        # A driver that is too old for this torch is seen only when something is computed.
        torch.ones(1, device=device).sum().item()
        free, total = torch.cuda.mem_get_info(device)
        return passed(f"{torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")

    def _folders(self) -> Verdict:
        seen = []
        for path in (self._config.state, self._config.ledger):
            if not path.exists():
                seen.append(f"{path.name} is made at the first start")
                continue
            status = path.stat()
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid != os.geteuid():
                return failed(
                    f"{path} belongs to user {status.st_uid}, this is user {os.geteuid()}",
                    "run the doctor as the site's user, or give that user the file with chown",
                )
            if mode & _OTHERS:
                return failed(
                    f"{path}: mode is {mode:04o}, its owner alone may have rights",
                    f"run chmod {mode & 0o700:04o} on it",
                )
            seen.append(f"{path.name} is this user's alone")
        return passed(", ".join(seen))

    def _open_vault(self) -> Verdict:
        config = self._config
        unlock = find_unlock(config.vault, key_file=config.vault_key, passphrase_file=self._passphrase_file)
        vault = Vault.open(config.vault, hospital=config.hospital, unlock=unlock)
        for name in (IDENTITY, BOX):
            vault.require(name)
        self._vault = vault
        return passed(f"{config.vault} opens, and holds the identity and the box key of {config.hospital}")

    def _read_plan(self) -> Verdict:
        # It brings all of training with it, which the other checks do without.
        from client.site import load_plan  # noqa: PLC0415

        plan = load_plan(self._config)
        self._plan = plan
        row = plan.roster[plan.agreed.position(self._config.hospital)]
        check_approved(self._config.approvals, plan, hospital=row.name, identity_hex=row.identity)
        return passed(f"'{plan.name}' of {len(plan.roster)} hospitals, digest {plan.digest[:16]}…, is approved")

    def _epoch_key(self) -> Verdict:
        if self._vault is None or self._plan is None:
            return noted("not looked at, since it needs the vault and the plan")
        keys = open_keys(self._config, self._vault, self._plan)
        held = keys.held()
        if not held:
            return noted("not dealt to this site yet", "nothing to do: the key ceremony is held when the run starts")
        for number in held:
            keys.epoch(number)
        return passed(f"of epoch {', '.join(map(str, held))}, is in the vault")

    def _data(self) -> Verdict:
        config, plan = self._config, self._plan
        if plan is None:
            if config.mapping is not None:
                return noted("not looked at: a mapping is read by the plan, which is missing")
            table: SiteTable = load_table(
                config.data, on_undecodable="skip", unit="patient", patient_column=config.patient_column
            )
        else:
            table = read_data(DataPlace.of_site(config), plan.data, unit=plan.privacy.unit)
        units = table.unit_labels()
        per_class = ", ".join(f"{n} {c}" for c, n in zip(table.classes, records_per_class(table), strict=True))
        by = f" by the column '{table.patient_column}'" if table.patient_column else ""
        noun = "images" if isinstance(table, ImageTable) else "rows"
        seen = f"{len(table.records)} {noun} of {len(units)} {table.unit_name}(s){by}: {per_class}"
        if table.left_out:
            seen += "; left out: " + ", ".join(f"{n} {reason}" for reason, n in sorted(table.left_out.items()))
        if plan is None:
            return noted(seen, "counted without a plan; its classes and rules may say otherwise")
        aside = sum(held_out(u, salt=plan.data.held_out_salt, fraction=plan.data.held_out) for u in units)
        declared = plan.roster[plan.agreed.position(config.hospital)].declared_units
        seen += f"; {len(units) - aside} to train on ({declared} declared), {aside} held out"
        if len(units) == aside:
            return failed(seen, "add images: there is nothing to train on")
        return passed(seen)

    def _ledger(self) -> Verdict:
        config = self._config
        if self._vault is None:
            return noted("not looked at, since it needs the vault")
        if not config.ledger.exists():
            if not os.access(config.ledger.parent, os.W_OK | os.X_OK):
                return failed(
                    f"{config.ledger.parent} cannot be written by this user", "correct its rights or 'ledger'"
                )
            return passed(f"{config.ledger} is made at the first start; nothing is spent")
        cap = Cap(epsilon=config.privacy.cap_epsilon, delta=config.privacy.cap_delta)
        identity = Identity.from_seed(self._vault.require(IDENTITY))
        try:
            ledger = Ledger.open(
                config.ledger,
                source=config.privacy.source,
                hospital=config.hospital,
                identity=identity,
                cap=cap,
            )
        except LedgerError as error:
            running = running_service(self._config_file) if _is_held(error) else None
            if running is None:
                raise
            return passed(f"held by this site's running service (process {running}), which checked it when it started")
        try:
            spent = ledger.spent(cap.delta)
            seen = f"{ledger.sequence()} entries; epsilon {spent:.4f} of {cap.epsilon:g} spent at delta {cap.delta:g}"
            lacking = self._lacking(ledger, identity.public_hex)
        finally:
            ledger.close()
        if lacking:
            return failed(
                f"{seen}; peers have seen entry {lacking} of it: it was restored from an older copy",
                "restore the newest backup of ledger and state folder, or retire this data source",
            )
        return passed(seen)

    def _lacking(self, ledger: Ledger, identity: str) -> int:
        """The last entry of this ledger that peers have shown and that is not in it; 0 if there is none."""
        shown = PeersSeen(self._config.state).of(identity, run="", ledger=ledger_name(ledger))
        manifests = [read_shown(one, hospital=self._config.hospital, identity=identity).manifest for one in shown]
        return max((one.ledger_sequence for one in manifests if lacks_entry(ledger, one)), default=0)


def _is_held(error: LedgerError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in _LOCKED
