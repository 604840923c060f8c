"""Many trivial hospitals in one process, each with a connection of its own: `python many_sites.py FOLDER NAME...`.

Flower's own client code talks to the coordinator, as in a SuperNode; no ClientApp is started for a message.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.client.grpc_rere_client.connection import grpc_request_response
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.retry import make_simple_grpc_retry_invoker

from common.config import load_settings
from common.plan import Plan
from common.records import REPLY, REQUEST, frame_to_record, record_to_frame
from tests.support.trivial_site import TrivialSite

POLL_S = 1.0


def serve(folder: Path, name: str) -> None:
    """Be one hospital until the process ends."""
    content = json.loads((folder / name / "site.json").read_text())
    site = TrivialSite(name, folder / name, load_settings(folder / "plan.yaml", Plan))
    key = load_ssh_private_key((folder / name / "node.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with grpc_request_response(
        content["gateway"]["superlink"],
        insecure=False,
        retry_invoker=make_simple_grpc_retry_invoker(),
        root_certificates=content["gateway"]["root_certificates"],
        authentication_keys=(key, key.public_key()),
    ) as (_, receive, send, _run, _fab, pull_object, push_object, confirm):
        sys.stdout.write(f"{name} connected\n")
        sys.stdout.flush()
        while True:
            received = receive()
            if received is None:
                time.sleep(POLL_S)
                continue
            head, tree = received
            run = head.metadata.run_id
            contents = pull_objects([item.object_id for item in iterate_object_tree(tree)], partial(pull_object, run))
            confirm(run, head.metadata.message_id)
            message = inflate_object_from_contents(head.metadata.message_id, contents)
            assert isinstance(message, Message)
            message.metadata.__dict__["_message_id"] = head.metadata.message_id
            answer = site.answer(record_to_frame(message.content, REQUEST))
            reply = Message(frame_to_record(answer, REPLY), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            wanted, session = send(reply, get_object_tree(reply), 0.1)
            push_object_contents_from_iterable(
                ((identifier, item.deflate()) for identifier, item in objects.items() if identifier in wanted),
                push_object_fn=partial(push_object, run, session),
            )


def guarded(folder: Path, name: str) -> None:
    """A hospital whose failure ends the process."""
    try:
        serve(folder, name)
    finally:
        sys.stdout.flush()
        os._exit(1)


if __name__ == "__main__":
    threads = [threading.Thread(target=guarded, args=(Path(sys.argv[1]), name)) for name in sys.argv[2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
