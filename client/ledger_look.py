"""What the commands of `client.ledger_commands` do, on a copy of the ledger: it is not locked, the vault stays shut."""

from __future__ import annotations

from pathlib import Path

from client.durable import write_durably
from client.ledger_copy import LedgerCopy, copy_ledger
from client.ledger_export import export_entries, read_export, when
from client.ledger_report import Report, report
from client.ledger_seen import last_seen, require_newest
from client.own_paths import refuse_own_path
from client.site_plan import load_plan
from common.errors import AlreadyExists, ConfigError, LedgerError, SiteStorageError
from common.plan import Plan
from common.plural import counted
from common.printable import printable
from common.site_config import SiteConfig, load_site

_ONLY_THE_SITE = "only the site can tell whether newer entries were left out"


def look(site: SiteConfig) -> Report:
    """What is shown of a site's ledger.

    Raises:
        LedgerError: If it is not sound.
        ConfigError: If plan or site file do not fit it.
    """
    plan = load_plan(site)
    return report(own_ledger(site, roster_key(site, plan)), site, plan=plan)


def verify_own(site: SiteConfig) -> str:
    """Verify a site's ledger and that it is the newest that the site knows of; the sentence to print.

    Raises:
        LedgerError: If it is not sound.
        LedgerRolledBack: If it is an older copy.
        ConfigError: If plan or site file do not fit it.
        SiteStorageError: If the state folder cannot be read.
    """
    ledger = newest_ledger(site, roster_key(site, load_plan(site)))
    return f"{site.hospital}: {_whole(ledger)}; it lacks nothing that this site's state folder and its peers have seen"


def verify_file(file: Path, *, public_key: str) -> str:
    """Verify a copy of a ledger; the sentence to print.

    Raises:
        LedgerError: If it is not sound, or of another site.
    """
    return f"{file}: {_whole(copy_ledger(file, public_key=public_key))}; {_ONLY_THE_SITE}"


def verify_export(file: Path, *, public_key: str) -> str:
    """Verify an exported file; the sentence to print.

    Raises:
        LedgerError: If it is not sound, or of another site, or holds no entry: any key would verify that.
    """
    entries = read_export(file, public_key=public_key, as_csv=_is_csv(file))
    if not entries:
        raise LedgerError(
            f"{file}: holds no entry, so nothing in it is signed and it says of no hospital what it spent; export "
            "again when something is charged, or verify a copy of the ledger itself with --file"
        )
    last = f", the last of {when(entries[-1])}, hash {entries[-1].hash}"
    count = counted(len(entries), "entry", "entries")
    return f"{file}: {count}, unaltered and signed by {public_key[:16]}…{last}; {_ONLY_THE_SITE}"


def write_export(site_file: Path, file: Path, *, replace: bool) -> str:
    """Write all entries of a site's ledger to a file, whole or not at all; the sentence to print.

    Args:
        site_file: The site's file.
        file: What to write.
        replace: Whether a file that is there may go; nothing that the site itself uses ever does.

    Raises:
        AlreadyExists: If the file is there and is not to be replaced.
        LedgerError: If the ledger is not sound.
        ConfigError: If plan or site file do not fit it, or the file is a folder or the site's own.
        SiteStorageError: If the file cannot be written.
    """
    site = load_site(site_file)
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder; name a file in it")
    refuse_own_path(file, site, site_file=site_file)
    key = roster_key(site, load_plan(site))
    if file.exists() and not replace:
        raise AlreadyExists(f"{file}: exists; name another file, or give --force to replace it")
    entries = own_ledger(site, key).entries()
    try:
        write_durably(file, export_entries(entries, as_csv=_is_csv(file)))
    except SiteStorageError as error:
        seen = error.__cause__.strerror if isinstance(error.__cause__, OSError) else "refused"
        raise SiteStorageError(f"{file}: cannot be written ({seen}); name a file in a folder with room") from error
    are = "entry is" if len(entries) == 1 else "entries are"
    return f"{len(entries)} {are} in {file}; --public-key {key} verifies them"


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def roster_key(site: SiteConfig, plan: Plan) -> str:
    """The public key that a site's ledger is signed with, 64 hex digits."""
    return plan.roster[plan.agreed.position(site.hospital)].identity


def newest_ledger(site: SiteConfig, key: str) -> LedgerCopy:
    """A site's ledger, verified; it lacks nothing that the site's state folder and its peers have seen in it.

    Args:
        site: The site.
        key: Its public key, 64 hex digits.

    Raises:
        LedgerError: If it is not sound, or of another source, or there is none.
        LedgerRolledBack: If it is an older copy.
        SiteStorageError: If the state folder cannot be read.
    """
    # Before the ledger, which may grow meanwhile.
    seen = last_seen(site.state, hospital=site.hospital, source=site.privacy.source, public_key=key)
    ledger = own_ledger(site, key)
    require_newest(ledger, seen)
    return ledger


def own_ledger(site: SiteConfig, key: str) -> LedgerCopy:
    """A site's ledger, verified; whether it is the newest is not asked.

    Raises:
        LedgerError: If it is not sound, or of another source.
    """
    return copy_ledger(site.ledger, public_key=key, source=site.privacy.source)


def _whole(ledger: LedgerCopy) -> str:
    entries = ledger.entries()
    last = f", the last of {when(entries[-1])}" if entries else ""
    # Only entries and marks are signed: a file without them could name anybody's key.
    empty = not entries and not ledger.marks
    signed = "holds nothing that is signed, and names the key" if empty else "is unaltered and signed by"
    return (
        f"ledger of source '{printable(ledger.source)}' {signed} {ledger.public_key[:16]}…: "
        f"{counted(len(entries), 'entry', 'entries')}{last}, hash {ledger.head()}, "
        f"{counted(len(ledger.marks or ()), 'mark')} of images and units"
    )
