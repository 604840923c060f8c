"""The commands of docs/containers.md, and what a small federation needs to run them."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from scripts.split import split_dataset
from scripts.synthetic import write_synthetic

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "containers.md"
LAST_PORT, CONNECT_TIMEOUT_S = 65_535, 2.0


def blocks(heading: str) -> list[str]:
    """The `sh` blocks of the page between a heading and the next one."""
    title = f"# {heading}\n"
    before, found, below = PAGE.read_text(encoding="utf-8").partition(title)
    assert found, heading
    assert before.rsplit("\n", 1)[-1].strip("#") == "", heading
    below = re.split(r"^#+ (?=[A-Z])", below, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```sh\n(.*?)^```$", below, re.MULTILINE | re.DOTALL)


def replace_words(commands: str, words: dict[str, str]) -> str:
    """Commands with other names in them, in the order of `words`."""
    for old, new in words.items():
        commands = commands.replace(old, new)
    return commands


def digest_of(said: str) -> str:
    """The plan's digest, as `fedward provision` tells it."""
    (digest,) = re.findall(r"^plan ([0-9a-f]{64})$", said, re.MULTILINE)
    return str(digest)


def open_ports(address: str) -> set[int]:
    """Every TCP port of an IPv4 address that takes a connection."""
    found = set()
    for port in range(1, LAST_PORT + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            if probe.connect_ex((address, port)) == 0:
                found.add(port)
    return found


def draw_shares(folder: Path, *, hospitals: int) -> dict[str, Path]:
    """Drawn images, dealt to hospitals; the data folder of each, by name."""
    write_synthetic(folder / "images", images_per_class=12, seed=0)
    dealt = split_dataset(folder / "images", folder / "shards", hospitals=hospitals, seed=0, on_undecodable="refuse")
    return {share.name: share.data for share in dealt.shares}
