"""The coordinator's half of the hostile app: sends the search to every gateway and keeps what comes back."""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

WANTED, FOUND = Path("/tmp/evil-wanted.json"), Path("/tmp/evil-found.json")  # noqa: S108 -- in the container

app = ServerApp()


@app.main()
def main(grid: Grid, _context: Context) -> None:
    """Ask each gateway once."""
    wanted = WANTED.read_text()
    names = {node.node_id: node.name for node in grid.get_nodes()}
    requests = [
        Message(
            RecordDict({"wanted": ConfigRecord({"json": wanted})}), dst_node_id=node, message_type=MessageType.QUERY
        )
        for node in names
    ]
    found = {}
    for reply in grid.send_and_receive(requests, timeout=120.0):
        name = str(names[reply.metadata.src_node_id])
        found[name] = (
            {"error": str(reply.error.reason)}
            if reply.has_error()
            else json.loads(str(reply.content.config_records["found"]["json"]))
        )
    FOUND.write_text(json.dumps(found))
