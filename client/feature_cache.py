"""The feature cache: one vector per image, by the image's sha256; one file per recipe, written whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import SiteStorageError

Vectors = dict[str, NDArray[np.float32]]


def read_cache(path: Path, *, width: int) -> Vectors:
    """Read the cached vectors by image digest.

    Args:
        path: File; it need not exist.
        width: Length that each vector must have.

    Returns:
        Vectors by hex sha256; empty if there is no file or a damaged one, which costs a feature pass and nothing else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            digests, vectors = archive["sha256"], archive["vectors"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        logging.getLogger(__name__).warning("the feature cache is damaged: features are computed anew")
        return {}
    sound = (
        digests.dtype == np.uint8
        and digests.ndim == 2
        and digests.shape[1] == 32
        and vectors.dtype == np.float32
        and vectors.shape == (len(digests), width)
        and bool(np.isfinite(vectors).all())
    )
    if not sound:
        logging.getLogger(__name__).warning("the feature cache has an unexpected shape: features are computed anew")
        return {}
    return {row.tobytes().hex(): vector for row, vector in zip(digests, vectors, strict=True)}


def write_cache(path: Path, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Replace the cache file; readable by this user only, because features tell about patients.

    Args:
        path: File; its folder is made if need be.
        vectors: Vectors of one length by hex sha256; images that are not here are forgotten.

    Raises:
        SiteStorageError: If the disk refuses; the old file stays.
    """
    digests = np.array([list(bytes.fromhex(digest)) for digest in vectors], dtype=np.uint8).reshape(-1, 32)
    temporary: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")  # mode 0600
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, sha256=digests, vectors=np.stack(list(vectors.values())))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
        raise SiteStorageError(
            f"the feature cache cannot be written: {error.strerror}; "
            "free disk space or correct the cache folder's permissions"
        ) from error
