"""The folder in which a demo works: which options made it, and what of it stays."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from common.config import Settings, load_settings
from common.errors import DeploymentError, OperatorError
from scripts.report_file import write_json

OPTIONS_FILE = "demo.json"
# In the order in which a difference is told; the plan's digest last, since it says least.
_WORDS = {
    "data": "--data, --mapping or --sites",
    "seed": "--seed",
    "hospitals": "--hospitals",
    "rounds": "--rounds, else the plan's,",
    "epsilon": "--epsilon, else the plan's,",
    "template": "--plan of digest",
}


class MadeWith(Settings):
    """The options that made a federation; `demo.json` in the work folder.

    `data` is absolute paths, `synthetic`, or the name of a package's data; `template` is the digest of the plan with
    the command line's wishes, before its hospitals were added.
    """

    data: str
    seed: int
    hospitals: int
    rounds: int
    epsilon: float
    template: str


def remember_options(work: Path, made_with: MadeWith) -> None:
    """Write what a later demo in this folder is compared with.

    Raises:
        OperatorError: If the file cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"--work {work}: cannot be made ({error.strerror}); name another folder") from error
    write_json(work / OPTIONS_FILE, made_with.model_dump(mode="json"))


def require_same_options(work: Path, asked: MadeWith) -> None:
    """Refuse options that an agreed federation would not follow.

    Raises:
        OperatorError: If one differs, or nobody wrote them down.
    """
    path = work / OPTIONS_FILE
    if not path.is_file():
        raise OperatorError(
            f"{work}: holds a federation, but no {OPTIONS_FILE} that tells which options made it; "
            "name a new --work folder"
        )
    stored = load_settings(path, MadeWith)
    for name, words in _WORDS.items():
        before, now = getattr(stored, name), getattr(asked, name)
        if before != now:
            raise OperatorError(
                f"{work}: was made with {words} {before}, seen {now}; "
                "repeat the options of the first demo there, or name a new --work folder"
            )


class WorkFolder:
    """A named folder, which stays, or a temporary one, which goes; use it as a context.

    After a `DeploymentError` the logs of a temporary folder stay, since its sentence names one: keys, images, ledgers
    and state go. Set `keep` to have all of it stay.
    """

    def __init__(self, named: Path | None, *, keep: bool) -> None:
        self._temporary = named is None
        self.keep = keep
        self.path = named.resolve() if named is not None else Path(tempfile.mkdtemp(prefix="fedward-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._temporary:
            return
        if self.keep:
            print(f"work folder kept: {self.path}", file=sys.stderr)
        elif isinstance(error, DeploymentError) and any(self.path.rglob("*.log")):
            _remove_all_but_logs(self.path)
            print(f"logs kept: {self.path}", file=sys.stderr)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


def _remove_all_but_logs(folder: Path) -> None:
    # Backwards: what a folder holds comes before the folder.
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # logs are in it
                path.rmdir()
        elif path.suffix != ".log":
            path.unlink(missing_ok=True)
