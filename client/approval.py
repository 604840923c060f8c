"""A hospital's approval of a plan: its own signature over the plan's digest, kept beside its keys."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from pydantic import ValidationError

from client.durable import read_durable, write_durably
from client.file_access import FileAccess
from common.canonical import canonical_bytes
from common.card import HospitalName, SignatureHex
from common.errors import BadSignature, ConfigError, SiteStorageError
from common.identity import Identity, verify
from common.plan import Plan
from common.wire import Hex64, Wire


class Approval(Wire):
    """What a hospital signs when it agrees to a plan."""

    plan: Hex64
    hospital: HospitalName
    approved: str
    signature: SignatureHex


def write_approval(folder: Path, plan: Plan, *, hospital: str, identity: Identity) -> Path:
    """Sign a plan's digest and keep the signature.

    Args:
        folder: The site's `approvals` folder; made if it is not there.
        plan: What was read and agreed to.
        hospital: This hospital.
        identity: Its key.

    Raises:
        SiteStorageError: If the disk refuses.
    """
    unsigned = Approval(
        plan=plan.digest,
        hospital=hospital,
        approved=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        signature="0" * 128,
    )
    signed = unsigned.model_copy(update={"signature": identity.sign(_signed_bytes(unsigned)).hex()})
    try:
        if not folder.is_dir():
            access = FileAccess.kept(folder, mode=0o700) if folder.parent.is_dir() else None
            folder.mkdir(mode=0o700, parents=True)
            if access is not None:
                _give(folder, access)
    except OSError as error:
        raise SiteStorageError(f"{folder}: cannot be made ({error.strerror}); correct 'approvals'") from error
    path = folder / f"{plan.digest}.json"
    write_durably(path, canonical_bytes(signed.model_dump(mode="json")), mode=0o600)
    return path


def check_approved(folder: Path, plan: Plan, *, hospital: str, identity_hex: str) -> None:
    """Check that this hospital itself approved the plan.

    Args:
        folder: The site's `approvals` folder.
        plan: What the site file names.
        hospital: This hospital.
        identity_hex: Public key of its own identity.

    Raises:
        ConfigError: If it did not, or the approval was changed.
    """
    path = folder / f"{plan.digest}.json"
    data = read_durable(path)
    if data is None:
        raise ConfigError(
            f"plan '{plan.name}' (digest {plan.digest[:16]}…) was not approved here: {path} is missing; read the plan "
            "with `fedward-client approve`, which asks before it signs"
        )
    try:
        approval = Approval.model_validate_json(data)
        verify(identity_hex, bytes.fromhex(approval.signature), _signed_bytes(approval))
        if (approval.plan, approval.hospital) != (plan.digest, hospital):
            raise BadSignature("an approval of another plan or hospital")  # noqa: TRY301 -- one refusal for all of it
    except (ValidationError, BadSignature) as error:
        raise ConfigError(
            f"{path}: is no approval of this plan by {hospital}; remove it and run `fedward-client approve` again"
        ) from error


def approved_plans(folder: Path) -> frozenset[str]:
    """Digests of the plans that have an approval in a site's `approvals` folder."""
    return frozenset(path.stem for path in folder.glob("*.json"))


def _give(folder: Path, access: FileAccess) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        access.give(descriptor)
    finally:
        os.close(descriptor)


def _signed_bytes(approval: Approval) -> bytes:
    return b"fedward/approval/1" + canonical_bytes(approval.model_dump(mode="json", exclude={"signature"}))
