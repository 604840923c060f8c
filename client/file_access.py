"""Who may read a file that is replaced: the same as before, also where root replaces a service's file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class FileAccess:
    """Mode and owner that a file shall have."""

    mode: int
    user: int
    group: int

    @classmethod
    def kept(cls, path: Path, *, mode: int) -> Self:
        """As the file has them that lies there; else `mode`, and the owner of the folder.

        Args:
            path: A file that may be there; its folder is.
            mode: Of a new file, such as 0o600.

        Raises:
            OSError: If the folder cannot be looked at.
        """
        if path.exists():
            seen = path.stat()
            mode = stat.S_IMODE(seen.st_mode)
        else:
            seen = path.parent.stat()
        return cls(mode, seen.st_uid, seen.st_gid)

    def give(self, descriptor: int) -> None:
        """Set them on an open file or folder; only root can give a file away, others own what they write.

        Raises:
            OSError: If the system refuses.
        """
        os.fchmod(descriptor, self.mode)
        if os.geteuid() == 0:
            os.fchown(descriptor, self.user, self.group)
