"""The folder of one run on the site's disk: every write is atomic and flushed before anything depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from client.durable import disk_refused, read_durable, write_durably
from common.errors import SiteStorageError, WrongPlan


class RunFolder:
    """A folder that belongs to one plan, whose digest is in its file `plan`.

    Nothing is made on the disk before there is something to keep: a `hello` alone takes no space.
    """

    def __init__(self, folder: Path, *, plan: str) -> None:
        """Open the folder of a run.

        Args:
            folder: Where it is, or will be, readable by the owner only.
            plan: Digest of the plan that the run follows.

        Raises:
            WrongPlan: If the run was begun under another plan: its updates lie on another grid.
            SiteStorageError: If the disk refuses.
        """
        self._folder, self._plan = folder, plan
        begun_under = self.plan_of(folder)
        if begun_under is not None and begun_under != plan:
            raise WrongPlan("a run that this site began under another plan goes on under this one; refuse it")

    @staticmethod
    def plan_of(folder: Path) -> str | None:
        """Digest of the plan of the run in this folder, or None if there is no run in it."""
        data = read_durable(folder / "plan")
        return data.decode(errors="replace") if data is not None else None

    def _forget(self, paths: Iterable[Path]) -> None:
        try:
            for path in tuple(paths):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_refused(self._folder, error) from error

    def _read(self, name: str) -> bytes | None:
        return read_durable(self._folder / name)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise disk_refused(self._folder, error) from error
        if not (self._folder / "plan").exists():
            write_durably(self._folder / "plan", self._plan.encode())
        write_durably(self._folder / name, data)

    @contextmanager
    def _intact(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, BadZipFile) as error:
            raise SiteStorageError(
                f"{self._folder / name}: is damaged; this site sits this run out; mend the disk and start a new run"
            ) from error
