"""What a site's own things are on its disk: a command that writes where it is told leaves them alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from client.approve import KIT_FILE
from common.errors import ConfigError
from common.site_config import SiteConfig

_SQLITE = ("-journal", "-wal", "-shm")


def refuse_own_path(file: Path, config: SiteConfig, *, site_file: Path) -> None:
    """Refuse to write to what a site uses, by whatever name: also through symbolic links and as a hard link.

    Args:
        file: What is to be written; need not exist.
        config: The site, with absolute paths.
        site_file: Where its site file lies.

    Raises:
        ConfigError: If the file is one of the site's own, or lies in one of its folders.
        OSError: If it cannot be looked at.
    """
    own = tuple(_own_paths(config, site_file))
    names = _real_names(file)
    for path in own:
        if any(name == other or other in name.parents for name in names for other in _real_names(path)):
            raise _refusal(file, path)
    if not file.exists() or (status := file.stat()).st_nlink == 1:
        return
    for path in own:
        for each in (path, *(path.rglob("*") if path.is_dir() else ())):
            if each.exists() and os.path.samestat(status, each.stat()):
                raise _refusal(file, path)


def _own_paths(config: SiteConfig, site_file: Path) -> Iterator[Path]:
    """All files and folders that the site file names, and what lies beside them without being named."""
    yield site_file.absolute()
    yield site_file.absolute().parent / KIT_FILE
    for settings in (config, config.gateway):
        yield from (value for _, value in settings if isinstance(value, Path))
    yield from (config.ledger.with_name(config.ledger.name + ending) for ending in _SQLITE)


def _real_names(path: Path) -> set[Path]:
    """Where a path leads, and where it stands itself if it is a link."""
    whole = path.absolute()
    return {Path(os.path.realpath(whole)), Path(os.path.realpath(whole.parent)) / whole.name}


def _refusal(file: Path, own: Path) -> ConfigError:
    return ConfigError(f"{file}: the site itself uses that ({own}), and would lose it; name a file outside of its own")
