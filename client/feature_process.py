"""Runs a long feature pass in a process of its own, whose memory goes back to the system with it.

The backbone's activations leave holes in the heap: 100 to 300 MB that a site service would hold for as long as it is
up. And a decoder that a hostile image file crashes takes this process down, not the one that holds the keys.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from client.data import ImageTable, OnUndecodable
from client.features import FeatureRecipe, PooledFeatures, extract, missing_images
from common.errors import DataError, FedwardError
from common.launch import die_with_parent

# Starting a process with torch costs four seconds of CPU: about as much as this many views.
FEWEST_VIEWS = 256


def extract_apart(
    table: ImageTable,
    recipe: FeatureRecipe,
    *,
    cache_dir: Path,
    on_progress: Callable[[int, int], None],
    on_undecodable: OnUndecodable,
) -> PooledFeatures:
    """`client.features.extract`, in a process of its own where much is to be computed; same arguments, same result.

    Raises:
        DataError: As `extract` does; or if the process died.
        SiteStorageError: As `extract` does.
    """
    missing = missing_images(table, recipe, cache_dir=cache_dir)
    if missing * recipe.views < FEWEST_VIEWS:
        return extract(table, recipe, cache_dir=cache_dir, on_progress=on_progress, on_undecodable=on_undecodable)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (theirs, os.getpid(), torch.get_num_threads(), table, recipe, cache_dir, on_undecodable)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        return _listen(ours, process.join, lambda: process.exitcode, on_progress)
    finally:
        ours.close()
        process.kill()
        process.join()


def _listen(
    pipe: Connection,
    join: Callable[[], None],
    status: Callable[[], int | None],
    on_progress: Callable[[int, int], None],
) -> PooledFeatures:
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            join()
            raise DataError(
                f"the feature pass ended with status {status()} before it was done; the images done so far are "
                "cached: start the site again, with more memory if the kernel killed it"
            ) from None
        if isinstance(message, PooledFeatures):
            return message
        if isinstance(message, FedwardError):
            raise message
        on_progress(*message)


def _work(  # noqa: PLR0913, PLR0917 -- multiprocessing passes positions
    pipe: Connection,
    parent: int,
    threads: int,
    table: ImageTable,
    recipe: FeatureRecipe,
    cache_dir: Path,
    on_undecodable: OnUndecodable,
) -> None:
    die_with_parent(parent)
    torch.set_num_threads(threads)
    try:
        result = extract(
            table,
            recipe,
            cache_dir=cache_dir,
            on_progress=lambda done, total: pipe.send((done, total)),
            on_undecodable=on_undecodable,
        )
    except FedwardError as error:
        pipe.send(error)
    else:
        pipe.send(result)
