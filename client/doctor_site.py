"""What the doctor looks at in the site service's own things: device, folders, vault, plan, keys, data, ledger."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from client.approval import check_approved
from client.data import held_out, load_table
from client.data.left_out import left_out_in_words
from client.data.source import DataPlace, read_data
from client.data.table import ImageTable, SiteTable, records_per_class
from client.doctor_finding import Finding, Verdict, examine, failed, noted, passed
from client.doctor_processes import running_service
from client.keys import open_keys
from client.ledger import Ledger
from client.ledger_cap import Cap, spending
from client.ledger_look import newest_ledger
from client.ledger_seen import last_seen
from client.plan_weights import check_weights, needed_weights
from client.site_plan import load_plan
from client.unlock import find_unlock
from client.vault import BOX, IDENTITY, Vault
from common.errors import LedgerError
from common.identity import Identity
from common.plan import Plan
from common.plural import counted
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
        yield examine("weights", self._weights)
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
        plan = load_plan(self._config)
        self._plan = plan
        row = plan.roster[plan.agreed.position(self._config.hospital)]
        check_approved(self._config.approvals, plan, hospital=row.name, identity_hex=row.identity)
        return passed(f"'{plan.name}' of {len(plan.roster)} hospitals, digest {plan.digest[:16]}…, is approved")

    def _weights(self) -> Verdict:
        if self._plan is None:
            return noted("not looked at, since it needs the plan")
        if needed_weights(self._plan) is None:
            return passed("the plan's model starts from no weights file")
        check_weights(self._plan, self._config.weights)
        return passed(f"{self._config.weights} has the plan's digest, and fits its network")

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
        noun = "image" if isinstance(table, ImageTable) else "row"
        records, owners = counted(len(table.records), noun), counted(len(units), table.unit_name)
        seen = f"{records} of {owners}{by}: {per_class}"
        if table.left_out:
            seen += "; left out: " + ", ".join(left_out_in_words(table.left_out))
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
        identity = Identity.from_seed(self._vault.require(IDENTITY))
        if not config.ledger.exists() and not self._had_a_ledger(identity):
            if not os.access(config.ledger.parent, os.W_OK | os.X_OK):
                return failed(
                    f"{config.ledger.parent} cannot be written by this user", "correct its rights or 'ledger'"
                )
            return passed(f"{config.ledger} is made at the first start; nothing is spent")
        # On a copy, so also beside a running service, which saw only what stood there when it started.
        ledger = newest_ledger(config, identity.public_hex)
        cap = Cap(epsilon=config.privacy.cap_epsilon, delta=config.privacy.cap_delta)
        entries = ledger.entries()
        spent = spending([entry.charge for entry in entries], cap.delta).epsilon
        return passed(
            f"{counted(len(entries), 'entry', 'entries')}, and it lacks none that this site and its peers have seen; "
            f"epsilon {spent:.4f} of {cap.epsilon:g} spent at delta {cap.delta:g}{self._holder(identity, cap)}"
        )

    def _had_a_ledger(self, identity: Identity) -> bool:
        """Whether the state folder remembers a ledger of this source."""
        config = self._config
        source, key = config.privacy.source, identity.public_hex
        return last_seen(config.state, hospital=config.hospital, source=source, public_key=key).anything

    def _holder(self, identity: Identity, cap: Cap) -> str:
        """Who holds the ledger, if this site's own service does.

        Raises:
            LedgerError: If another process does, or it cannot be written.
            SiteStorageError: If the disk refuses.
        """
        config = self._config
        try:
            source, hospital = config.privacy.source, config.hospital
            Ledger(config.ledger, source=source, hospital=hospital, identity=identity, cap=cap).close()
        except LedgerError as error:
            running = running_service(self._config_file) if _is_held(error) else None
            if running is None:
                raise
            return f"; held by this site's running service (process {running})"
        return ""


def _is_held(error: LedgerError) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and (getattr(cause, "sqlite_errorcode", 0) & 0xFF) in _LOCKED
