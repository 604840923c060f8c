"""The start-up kit: one archive per hospital with the agreed plan, the coordinator's address and its authority.

The organiser makes it; the coordinator's identity key signs it, which is the key that the plan names. It holds nothing
secret, yet a hospital compares the fingerprints in it with the other hospitals before it approves the plan.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError

from common.canonical import canonical_bytes
from common.card import HospitalName
from common.config import parse_settings
from common.errors import AlreadyExists, BadSignature, ConfigError, OperatorError
from common.identity import verify
from common.plan import Plan
from common.printable import PrintableText, printable
from common.wire import Hex64, Wire

PLAN, CERTIFICATES, MANIFEST, SIGNATURE, README = "plan.yaml", "ca.crt", "kit.json", "kit.sig", "README.txt"
KIT_FILES = (PLAN, CERTIFICATES, README, MANIFEST, SIGNATURE)
MAX_FILE_BYTES = 4 << 20
_LABEL = b"fedward/kit/1"


class KitManifest(Wire):
    """What the coordinator signs of a kit."""

    format: int = Field(default=1, ge=1, le=1)
    hospital: HospitalName
    superlink: Annotated[PrintableText, StringConstraints(pattern=r"^[^:\s]+:\d{1,5}$")]
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    plan: Hex64
    files: dict[str, Hex64]


@dataclass(frozen=True, slots=True)
class Kit:
    """An opened kit: everything in it fits together and was signed."""

    manifest: KitManifest
    plan: Plan
    plan_text: str
    root_certificates: bytes


def write_kit(  # noqa: PLR0913 -- what a kit consists of
    path: Path,
    *,
    hospital: str,
    superlink: str,
    plan_text: str,
    root_certificates: bytes,
    sign: Callable[[bytes], bytes],
) -> None:
    """Write one hospital's kit.

    Args:
        path: New file, by custom NAME.kit.zip.
        hospital: Whose it is.
        superlink: host:port of the coordinator.
        plan_text: The agreed plan, YAML.
        root_certificates: The coordinator's authority, PEM.
        sign: Signs with the coordinator's identity key.

    Raises:
        AlreadyExists: If the file is there.
        OperatorError: If it cannot be written.
    """
    plan = parse_settings(plan_text, Plan, source=PLAN)
    files = {PLAN: plan_text.encode(), CERTIFICATES: root_certificates, README: _readme(hospital, plan).encode()}
    manifest = KitManifest(
        hospital=hospital,
        superlink=superlink,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        plan=plan.digest,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    head = canonical_bytes(manifest.model_dump(mode="json"))
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (files | {MANIFEST: head, SIGNATURE: sign(_LABEL + head)}).items():
                archive.writestr(name, content)
    except FileExistsError as error:
        raise AlreadyExists(f"{path}: exists; kits are never overwritten; name a new folder") from error
    except OSError as error:
        raise OperatorError(f"{path}: cannot be written ({error.strerror}); name a folder that can be") from error


def read_kit(path: Path) -> Kit:
    """Open a kit and check that it is whole, signed, and of one piece.

    Raises:
        ConfigError: If it is no kit, damaged, not signed by the coordinator that its plan names, or put together from
            different kits.
    """
    files = _read_files(path)
    try:
        manifest = KitManifest.model_validate(json.loads(files[MANIFEST]))
    except (ValidationError, ValueError) as error:
        raise _broken(path, f"its {MANIFEST} is not one") from error
    for name, digest in manifest.files.items():
        if hashlib.sha256(files.get(name, b"")).hexdigest() != digest:
            raise _broken(path, f"{name} is not the file that was signed")
    if missing := {PLAN, CERTIFICATES} - set(manifest.files):
        raise _broken(path, f"{', '.join(sorted(missing))} is not signed")
    plan_text = files[PLAN].decode(errors="replace")
    plan = parse_settings(plan_text, Plan, source=f"{path}: {PLAN}")
    try:
        verify(plan.agreed.coordinator, files[SIGNATURE], _LABEL + files[MANIFEST])
    except BadSignature as error:
        raise _broken(path, "it was not signed by the coordinator that its plan names") from error
    if plan.digest != manifest.plan:
        raise _broken(path, "it was made for another version of its plan")
    return Kit(manifest, plan, plan_text, files[CERTIFICATES])


def is_kit(path: Path) -> bool:
    """Whether a file is an archive, rather than a plan's YAML."""
    return path.suffix == ".zip" or zipfile.is_zipfile(path)


def _read_files(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist()]
            if sorted(names) != sorted(KIT_FILES):
                raise _broken(path, f"it holds {printable(', '.join(sorted(names)[:8]))}")
            files = {}
            for name in names:
                # The size in the archive's directory may lie, so what is unpacked is counted.
                with archive.open(name) as file:
                    files[name] = file.read(MAX_FILE_BYTES + 1)
                if len(files[name]) > MAX_FILE_BYTES:
                    raise _broken(path, f"{name} is larger than {MAX_FILE_BYTES} bytes")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name the kit that the organiser sent") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _broken(path, "it is no archive, or is damaged") from error
    return files


def _broken(path: Path, seen: str) -> ConfigError:
    return ConfigError(f"{path}: no start-up kit that can be trusted: {seen}; ask the organiser for it again")


def _readme(hospital: str, plan: Plan) -> str:
    return (
        f"Start-up kit of {hospital} for the plan '{plan.name}'.\n\n"
        f"  fedward-client approve {hospital}.kit.zip --site SITE --data DATA --cap-epsilon E\n"
        "  fedward-client start --config SITE/site.yaml\n\n"
        "SITE is the folder that `fedward-client keygen` made, DATA the folder of images, E the epsilon that no\n"
        "unit of this hospital's data may ever pass. `fedward-client approve --help` explains the rest.\n"
    )
