"""The files of class folders: which classes have a folder, and which files in them are images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.image_files import DICOM_SUFFIXES, composed, is_dicom_file, is_hidden, is_picture
from common.errors import DataError
from common.plural import counted


def class_root(root: Path, folder: str | None) -> Path:
    """The folder of class folders.

    Args:
        root: The site's data folder.
        folder: As for `client.data.class_folders.load_table`.

    Raises:
        DataError: If there is no such folder.
    """
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist or is no folder; name the folder that holds the class folders"
        )
    if folder is None:
        return root / "Train" if (root / "Train").is_dir() else root
    if not (root / folder).is_dir():
        raise DataError(f"the data folder {root} has no folder {folder}; it must hold <class>/*.jpg")
    return root / folder


def class_names(base: Path, classes: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, Path]]:
    """All class names, and the folder of each that has one; accents may be composed in one and not in the other.

    Args:
        base: Folder of class folders.
        classes: The plan's; None takes the folders' names, sorted.

    Raises:
        DataError: If there is no folder, one of a class that the plan does not know, or two of one class.
    """
    found = sorted(entry.name for entry in base.iterdir() if entry.is_dir() and not is_hidden(entry))
    if not found:
        raise DataError(f"the data folder {base} has no class folder; put images into {base.name}/<class>/*.jpg")
    if classes is None:
        return tuple(found), {name: base / name for name in found}
    known = {composed(name): name for name in classes}
    unknown = [name for name in found if composed(name) not in known]
    if unknown:
        raise DataError(
            f"the data folder has {counted(len(unknown), 'class folder')} that the plan does not name: "
            f"{', '.join(map(_with_edges, unknown))}; allowed are {', '.join(classes)}"
        )
    folders: dict[str, Path] = {}
    for name in found:
        if known[composed(name)] in folders:
            raise DataError(
                f"the data folder has two folders of the class {known[composed(name)]}, whose accents are written in "
                "two ways (NFC and NFD); put their images into one"
            )
        folders[known[composed(name)]] = base / name
    return tuple(classes), folders


def _with_edges(name: str) -> str:
    """The name, with quotes around spaces that one would not see."""
    return name if name == name.strip() else repr(name)


def list_images(base: Path, folders: Mapping[str, Path]) -> tuple[list[tuple[Path, str]], Counter[str]]:
    """Image files of the class folders with their class, sorted by path, and how many others there are, by reason.

    DICOM files may lie at any depth below, as archives write them (patient, study, series); pictures directly.

    Args:
        base: Folder of class folders.
        folders: Folder by class.

    Raises:
        DataError: If there is no image at all.
    """
    files: list[tuple[Path, str]] = []
    loose = [entry for entry in base.iterdir() if not entry.is_dir()]
    passed_over: Counter[str] = Counter(outside_class_folders=sum(is_picture(e) or is_dicom_file(e) for e in loose))
    for name, folder in folders.items():
        for entry in sorted(folder.iterdir()):
            if is_hidden(entry):
                passed_over["hidden"] += 1
            elif entry.is_dir():
                files += [(path, name) for path in _below(entry, passed_over)]
            elif (
                is_picture(entry)
                or is_dicom_file(entry)
                or (entry.suffix.lower() in DICOM_SUFFIXES and entry.is_file())
            ):
                files.append((entry, name))
            else:
                passed_over["not_an_image"] += 1
    if not files:
        found = ", ".join(in_words(passed_over)) or "nothing else"
        raise DataError(
            f"the data folder {base} holds no .jpg, .jpeg or .png file in its class folders, and no DICOM file below "
            f"them, but {found}; put images directly into the class folders"
        )
    return files, +passed_over


def _below(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """DICOM files of a subfolder, sorted; but none of one that is a link, which may lead to another class."""
    found: list[Path] = []
    for entry in sorted(folder.rglob("*")):
        if entry.is_dir():
            continue
        if any(part.startswith(".") for part in entry.relative_to(folder.parent).parts):
            passed_over["hidden"] += 1
        elif is_picture(entry):
            passed_over["in_subfolder"] += 1
        elif not is_dicom_file(entry):
            passed_over["not_an_image"] += 1
        elif folder.is_symlink():
            passed_over["in_subfolder"] += 1
        else:
            found.append(entry)
    return found


def in_words(passed_over: Mapping[str, int]) -> list[str]:
    """How many files were passed over, by reason, for people."""
    sentences = {
        "in_subfolder": ("image", " in subfolders of class folders"),
        "outside_class_folders": ("image", " outside of class folders"),
        "not_an_image": ("file", " of another kind than .jpg, .jpeg, .png and DICOM"),
        "hidden": ("hidden name", " with a dot in front"),
    }
    return [
        counted(passed_over[reason], noun) + words for reason, (noun, words) in sentences.items() if passed_over[reason]
    ]
