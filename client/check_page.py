"""The page that `fedward-client check` writes: what was found, and pictures, for this hospital's eyes alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from client.check import SiteCheck
from client.check_pictures import contact_sheets, histograms
from client.data import ImageTable
from client.data.rows import RowTable
from client.data.source import DataPlace, read_rows
from common.errors import AlreadyExists, SiteStorageError
from common.plan import Plan
from common.plan_data import ImageData

PAGE = "index.html"
_PICTURES = "*.png"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1d2733}"
    "table{border-collapse:collapse}td,th{border:1px solid #c8d0d8;padding:.3rem .7rem;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%;display:block;margin:.5rem 0}"
    ".private{background:#fff3d6;border:1px solid #d9a400;padding:.6rem 1rem}"
)


def write_page(folder: Path, check: SiteCheck, place: DataPlace, plan: Plan, *, hospital: str) -> Path:
    """Write index.html and its pictures, mode 0600 in a folder of mode 0700; a page of an earlier check is replaced.

    Args:
        folder: Is made; may hold an earlier page, and nothing else.
        check: What was found.
        place: Where the data lie.
        plan: The plan.
        hospital: For the title.

    Returns:
        Path of the page.

    Raises:
        AlreadyExists: If the folder holds anything else.
        SiteStorageError: If the disk refuses; an earlier page is untouched then.
    """
    # Before a name is made of it ('.' has none); a link to a folder stays a link, which is refused.
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 -- resolve() would follow the link
    _refuse_other_files(folder)
    pictures = dict(_pictures(check, place, plan))
    html = _html(check, plan, hospital=hospital, pictures={name: alt for name, (alt, _) in pictures.items()})
    partial = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        for name, content in [(PAGE, html.encode()), *((name, png) for name, (_, png) in pictures.items())]:
            with open(partial / name, "wb", opener=_private) as file:
                file.write(content)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        # In place: a shell may stand in the folder.
        for old in folder.iterdir():
            old.unlink()
        for new in partial.iterdir():
            new.rename(folder / new.name)
        partial.rmdir()
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SiteStorageError(
            f"{folder}: cannot be written ({error.strerror}); name another folder by --out"
        ) from error
    return folder / PAGE


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _refuse_other_files(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    known = folder.is_dir() and (folder / PAGE).is_file() and {folder / PAGE, *folder.glob(_PICTURES)}
    if not folder.is_dir() or folder.is_symlink() or set(folder.iterdir()) - (known or set()):
        raise AlreadyExists(f"{folder}: holds other files than an earlier check's; name a new folder by --out")


def _pictures(check: SiteCheck, place: DataPlace, plan: Plan) -> Iterable[tuple[str, tuple[str, bytes]]]:
    """File name, and what it shows with its PNG."""
    if isinstance(check.table, ImageTable):
        for number, (name, png) in enumerate(contact_sheets(check.table), start=1):
            yield f"class-{number}.png", (f"images of the class {name}", png)
    elif isinstance(check.table, RowTable) and not isinstance(plan.data, ImageData):
        rows = read_rows(place, plan.data).rows
        yield "histograms.png", ("how the features are spread", histograms(check.table, rows, plan.data))


def _html(check: SiteCheck, plan: Plan, *, hospital: str, pictures: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{each.records}</td><td>{each.training}</td><td>{each.held_out}</td></tr>"
        for each in check.classes
    )
    findings = [
        *(f"left out: {sentence}" for sentence in check.left_out),
        *(f"missing: {sentence}" for sentence in check.missing),
        *(f"converted: {count} of {what}" for what, count in sorted(check.converted.items())),
        *check.warnings,
    ]
    items = "".join(f"<li>{escape(finding)}</li>" for finding in findings)
    figures = "".join(
        f'<figure><figcaption>{escape(alt)}</figcaption><img src="{name}" alt="{escape(alt)}"></figure>'
        for name, alt in pictures.items()
    )
    by = f" by the column {escape(check.patients_by)}" if check.patients_by else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Data of {escape(hospital)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Data of {escape(hospital)} as the plan {escape(plan.name)} sees them</h1>"
        '<p class="private">This page and its pictures hold patients\' data. They stay on this machine.</p>'
        f"<p>{check.records} records of {check.training + check.held_out} {check.unit}s{by}; what is protected is the "
        f"{check.unit}.</p><table><tr><th>class</th><th>records</th><th>{check.unit}s to train on</th>"
        f"<th>{check.unit}s held out</th></tr>{rows}</table>"
        f"<h2>Left out, converted, noticed</h2><ul>{items or '<li>nothing</li>'}</ul>{figures}</body></html>\n"
    )
