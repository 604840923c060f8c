"""Draw synthetic "skin lesions" of nine classes, for trying the federation without any patient's image.

Every picture is drawn by this program from random numbers. The classes borrow the names of nine diagnoses and a rough
idea of their colours and textures so that the demo's output reads like a real one; they say nothing about skin, and
accuracy on them says nothing about accuracy on patients.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from common.errors import OperatorError
from scripts.whole_folder import whole_folder

IMAGE_SIZE: Final = 180
_DRAWN_SIZE: Final = 120  # enlarged at the end: drawing costs half of the time
MARKER_NAME: Final = "SYNTHETIC.txt"
MARKER_TEXT: Final = (
    "These images are synthetic: scripts/synthetic.py drew them from random numbers. No patient, no photograph and\n"
    "no generative model is behind them. Class names are labels of a toy task, not diagnoses; results on them say\n"
    "nothing about medicine.\n"
)
_LESION_PERIOD: Final = 7  # every seventh image is a second one of the lesion before it

Plane = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class _Look:
    """How a class is drawn; every number is the middle of a wide random range.

    Attributes:
        colour: RGB of the lesion, 0 to 255.
        second: RGB that the texture mixes in.
        radius: Share of the image's half side.
        ragged: Relative roughness of the border.
        soft: Width of the border's fading, relative to the radius.
        texture: Which pattern is laid over.
        strength: How much of `second` the pattern brings, 0 to 1.
    """

    colour: tuple[int, int, int]
    second: tuple[int, int, int]
    radius: float
    ragged: float
    soft: float
    texture: str
    strength: float


_LOOKS: Final = {
    "actinic keratosis": _Look((196, 124, 110), (232, 206, 190), 0.52, 0.14, 0.45, "scales", 0.55),
    "basal cell carcinoma": _Look((206, 140, 132), (150, 40, 52), 0.50, 0.08, 0.25, "vessels", 0.60),
    "dermatofibroma": _Look((170, 116, 92), (226, 196, 176), 0.44, 0.05, 0.40, "centre", 0.70),
    "melanoma": _Look((92, 58, 48), (38, 36, 58), 0.60, 0.24, 0.15, "clouds", 0.75),
    "nevus": _Look((140, 92, 68), (84, 50, 38), 0.44, 0.05, 0.18, "network", 0.45),
    "pigmented benign keratosis": _Look((152, 110, 78), (96, 64, 46), 0.54, 0.11, 0.14, "globules", 0.55),
    "seborrheic keratosis": _Look((150, 112, 84), (222, 196, 150), 0.54, 0.09, 0.08, "pearls", 0.60),
    "squamous cell carcinoma": _Look((198, 118, 104), (240, 214, 170), 0.56, 0.18, 0.20, "crust", 0.70),
    "vascular lesion": _Look((168, 44, 62), (96, 18, 48), 0.46, 0.07, 0.12, "lacunae", 0.60),
}
CLASSES: Final = tuple(_LOOKS)


def write_synthetic(root: Path, *, images_per_class: int, seed: int) -> None:
    """Write `Train/<class>/synthetic_XXXX.jpg`, index.csv and SYNTHETIC.txt, all of it or nothing.

    One lesion in six has two images. The same arguments draw the same pixels.

    Args:
        root: Folder to make; may exist if it is empty.
        images_per_class: Images of each of the nine classes, 1 to 9999.
        seed: Seed of the drawing, >= 0.

    Raises:
        AlreadyExists: If `root` holds anything.
        OperatorError: If `images_per_class` or `seed` is out of range, or the disk refuses.
    """
    if not 1 <= images_per_class <= 9999 or seed < 0:
        raise OperatorError(
            f"{images_per_class} images per class with seed {seed}: 1 to 9999 and a seed >= 0 are allowed"
        )
    with whole_folder(root, mode=0o755) as partial:
        _write_all(partial, images_per_class=images_per_class, seed=seed)


def is_synthetic(root: Path) -> bool:
    """Whether a folder carries the marker that `write_synthetic` leaves."""
    return (root / MARKER_NAME).is_file()


def _write_all(root: Path, *, images_per_class: int, seed: int) -> None:
    rows = []
    for class_index, label in enumerate(CLASSES):
        folder = root / "Train" / label
        folder.mkdir(parents=True)
        for number in range(images_per_class):
            lesion = number - (number + 1) // _LESION_PERIOD
            shape = np.random.default_rng((seed, class_index, 0, lesion))
            photograph = np.random.default_rng((seed, class_index, 1, number))
            name = f"synthetic_{number:04d}.jpg"
            Image.fromarray(draw(label, shape, photograph)).save(folder / name, quality=90)
            rows.append((f"Train/{label}/{name}", label, f"synthetic-{class_index}-{lesion:04d}"))
    with (root / "index.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "lesion_id"))
        writer.writerows(rows)
    (root / MARKER_NAME).write_text(MARKER_TEXT, encoding="utf-8")


def draw(label: str, shape: np.random.Generator, photograph: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture of one lesion.

    Args:
        label: One of `CLASSES`.
        shape: Randomness of the lesion: two pictures of a lesion get equal generators.
        photograph: Randomness of this picture: skin, light, position, hairs, noise.

    Returns:
        Shape (180, 180, 3), RGB, uint8.
    """
    look = _LOOKS[label]
    # A lesion leans towards another class by up to two fifths: without it the task would be trivial.
    lean, other = shape.uniform(0.0, 0.4), _LOOKS[CLASSES[shape.integers(len(CLASSES))]]
    colour = _mix(_rgb(look.colour), _rgb(other.colour), lean) + _rgb(shape.normal(0, 9, 3))
    second = _mix(_rgb(look.second), _rgb(other.second), lean) + _rgb(shape.normal(0, 9, 3))
    x, y = _coordinates(photograph)
    distance, inside = _lesion_mask(x, y, look, shape)
    pattern = _mix(_pattern(look.texture, x, y, distance, shape), _pattern(other.texture, x, y, distance, shape), lean)
    pattern *= look.strength * shape.uniform(0.5, 1.2)
    skin = _rgb((222, 178, 156)) + _rgb(photograph.normal(0, 8, 3)) + 10 * _noise(photograph, 4)[..., None]
    body = _mix(colour, second, np.clip(pattern, 0, 1)[..., None]) + 10 * _noise(shape, 6)[..., None]
    image = _mix(skin, body, inside[..., None])
    image = _add_hairs(image, photograph) * photograph.uniform(0.85, 1.12)
    image += 6 * photograph.standard_normal(image.shape, dtype=np.float32)
    small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _rgb(values: ArrayLike) -> Plane:
    return np.asarray(values, dtype=np.float32)


def _mix(first: Plane, second: Plane, share: float | Plane) -> Plane:
    mixed: Plane = first + (second - first) * share
    return mixed


def _coordinates(rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Turned, shifted and scaled coordinates of the pixels; about -1 to 1."""
    axis = np.linspace(-1, 1, _DRAWN_SIZE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.2)
    x, y = x - rng.normal(0, 0.06), y - rng.normal(0, 0.06)
    return zoom * (math.cos(angle) * x - math.sin(angle) * y), zoom * (math.sin(angle) * x + math.cos(angle) * y)


def _lesion_mask(x: Plane, y: Plane, look: _Look, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Distance from the middle relative to the border, and how much of each pixel is lesion (0 to 1)."""
    theta = np.arctan2(y, x)
    border = np.ones_like(theta)
    for wave in range(2, 9):
        border += look.ragged * rng.normal(0, 1) / math.sqrt(wave) * np.cos(wave * theta + rng.uniform(0, 2 * math.pi))
    radius = look.radius * rng.uniform(0.8, 1.2)
    squeeze = rng.uniform(0.75, 1.0)
    distance = np.hypot(x, y / squeeze) / (radius * np.maximum(border, 0.3))
    return distance, 0.5 - 0.5 * np.tanh((distance - 1) / (0.5 * look.soft))


def _noise(rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise of about unit size with `cells` bumps along the image's side."""
    grid = Image.fromarray(rng.normal(0, 1, (cells + 3, cells + 3)).astype(np.float32))
    return np.asarray(grid.resize((_DRAWN_SIZE, _DRAWN_SIZE), Image.Resampling.BICUBIC))


def _pattern(texture: str, x: Plane, y: Plane, distance: Plane, rng: np.random.Generator) -> Plane:
    """How much of the second colour lies on each pixel, 0 to 1."""
    warp = 0.06 * _noise(rng, 5)
    pitch = rng.uniform(0.85, 1.2) * (15 if texture == "lacunae" else 34)
    grid = np.sin(pitch * (x + warp)) * np.sin(pitch * (y - warp))
    match texture:
        case "network":
            pattern = np.exp(-((grid / 0.25) ** 2))
        case "globules":
            pattern = np.where(grid > 0.55, 1.0, 0.0)
        case "lacunae":
            pattern = np.where(grid > 0.25, 1.0, 0.0)
        case "pearls":
            pattern = np.where(_noise(rng, 22) > 1.3, 1.0, 0.0)
        case "vessels":
            pattern = np.exp(-((_noise(rng, 7) / 0.09) ** 2))
        case "centre":
            pattern = np.exp(-((distance / 0.45) ** 2))
        case "scales":
            pattern = np.where(_noise(rng, 30) > 0.6, 1.0, 0.0) * np.clip(0.6 + 0.5 * _noise(rng, 5), 0, 1)
        case "crust":
            pattern = np.clip(1.5 * _noise(rng, 11) - 0.3, 0, 1)
        case _:  # clouds
            pattern = np.clip(0.5 + 1.2 * _noise(rng, 4), 0, 1)
    return pattern


def _add_hairs(image: Plane, rng: np.random.Generator) -> Plane:
    """Up to four dark curved hairs."""
    rows, columns = np.mgrid[0:_DRAWN_SIZE, 0:_DRAWN_SIZE].astype(np.float32) * (IMAGE_SIZE / _DRAWN_SIZE)
    for _ in range(rng.integers(0, 5)):
        angle, offset, bend = rng.uniform(0, math.pi), rng.uniform(20, 160), rng.normal(0, 0.002)
        along = math.cos(angle) * (columns - 90) + math.sin(angle) * (rows - 90)
        across = -math.sin(angle) * (columns - 90) + math.cos(angle) * (rows - 90) + 90 - offset + bend * along**2
        image = image * (1 - 0.6 * np.exp(-(across**2)))[..., None]
    return image
