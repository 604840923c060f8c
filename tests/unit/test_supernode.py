"""A SuperNode whose work has ended ends as a process, which nothing but its end tells to the gateway."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, DeactivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse

from client.gateway import gateway_children
from common.child import Child, ChildEvent
from common.flower import flower_command
from common.node_key import write_node_key, write_superexec_secret
from common.site_config import GatewaySettings
from common.supervise import supervise
from scripts.certificates import write_tls
from tests.support.flower_federation import free_port

LIMIT_S = 120.0
FURTHER_CALLS = 20
FLOWERS_PAUSE_S = 3.0
ANSWERS: dict[str, bytes] = {
    "ActivateNode": ActivateNodeResponse(node_id=17).SerializeToString(),
    "DeactivateNode": DeactivateNodeResponse().SerializeToString(),
    "PullMessages": PullMessagesResponse().SerializeToString(),
    "SendNodeHeartbeat": SendNodeHeartbeatResponse(success=True).SerializeToString(),
}


class Coordinator:
    """Flower's side of a connection, with errors in place of some of its answers.

    Args:
        broken: Names of the calls that are answered with an error.
    """

    def __init__(self, broken: frozenset[str]) -> None:
        self._broken = broken
        self.calls: Counter[str] = Counter()
        self._pulled: list[float] = []

    @property
    def least_pause_s(self) -> float:
        """The shortest time between two calls for messages."""
        return min(later - earlier for earlier, later in itertools.pairwise(self._pulled))

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server serves."""
        return grpc.method_handlers_generic_handler(
            "flwr.proto.Fleet",
            {name: grpc.unary_unary_rpc_method_handler(self._call(name, answer)) for name, answer in ANSWERS.items()},
        )

    def _call(self, name: str, answer: bytes) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            del request
            self.calls[name] += 1
            if name == "PullMessages":
                self._pulled.append(time.monotonic())
            if name in self._broken:
                context.abort(grpc.StatusCode.INTERNAL, "Internal server error.")
            return answer

        return call


@contextmanager
def serving(folder: Path, *broken: str) -> Iterator[tuple[Coordinator, Child]]:
    """A coordinator on loopback, and a gateway's SuperNode for it."""
    tls = write_tls(folder, [], valid_days=2)
    write_node_key(folder / "node.key")
    write_superexec_secret(folder / "site.secret")
    coordinator = Coordinator(frozenset(broken))
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((coordinator.handler(),))
    pair = (tls.certificate_key.read_bytes(), tls.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    settings = GatewaySettings(
        superlink=f"127.0.0.1:{port}",
        root_certificates=tls.root_certificates,
        node_key=folder / "node.key",
        superexec_secret=folder / "site.secret",
        runtime_port=free_port(),
        folder=folder / "gateway",
    )
    server.start()
    try:
        yield coordinator, gateway_children(settings, folder / "none.sock", connect_timeout_s=LIMIT_S)[0][0]
    finally:
        server.stop(grace=None)


def causes(supernode: Child, coordinator: Coordinator, *, pulls: int) -> list[str]:
    """Why it died, until it was let in twice or has asked for messages `pulls` times."""
    died: list[str] = []
    calls = coordinator.calls

    def note(event: ChildEvent) -> None:
        if event.kind == "died":
            died.append(event.detail)

    async def work() -> None:
        async with asyncio.timeout(LIMIT_S):
            while calls["ActivateNode"] < 2 and calls["PullMessages"] < pulls:  # noqa: ASYNC110 -- gRPC's threads count
                await asyncio.sleep(0.1)

    asyncio.run(supervise(((supernode,),), on_event=note, restart=True, work=work))
    return died


@pytest.mark.parametrize("broken", [("PullMessages",), ("PullMessages", "DeactivateNode"), ("SendNodeHeartbeat",)])
def test_a_supernode_that_the_coordinator_failed_once_connects_again(tmp_path: Path, broken: tuple[str, ...]) -> None:
    """A locked database, say. Where a heartbeat fails, Flower works on and no run sees it any more."""
    with serving(tmp_path, *broken) as (coordinator, supernode):
        died = causes(supernode, coordinator, pulls=1_000)
    # It may have been failed again by the time that it was stopped.
    assert coordinator.calls["ActivateNode"] >= 2
    assert "ended with status 1: 127.0.0.1:" in died[0]
    assert "connects again by itself" in died[0]


def test_a_supernode_whose_coordinator_answers_stays(tmp_path: Path) -> None:
    """The control: nothing else ends it. And it asks again before Flower's own would; once is enough to see."""
    with serving(tmp_path) as (coordinator, supernode):
        assert causes(supernode, coordinator, pulls=10) == []
    assert coordinator.calls["ActivateNode"] == 1
    assert coordinator.least_pause_s < FLOWERS_PAUSE_S


def answers(port: int) -> bool:
    """Whether a SuperNode's Runtime API is there: it has nothing at this path, and says so."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)) as connection:
        connection.request("GET", "/nothing")
        return connection.getresponse().status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("broken", "goes_on"), [("PullMessages", "DeactivateNode"), ("SendNodeHeartbeat", "PullMessages")]
)
def test_flowers_own_command_stays_after_such_an_error(tmp_path: Path, broken: str, goes_on: str) -> None:
    """Why there is `client.supernode`; a Flower whose process ends by itself needs it no more.

    Behind the error its main thread takes leave of the coordinator, or asks for messages as before where only the
    thread of the heartbeats has died, every 3 s at the most; and the process still serves.
    """
    with serving(tmp_path, broken) as (coordinator, supernode):
        argv = supernode.argv[supernode.argv.index(flower_command("flower-supernode")) :]
        port, log, calls = int(argv[argv.index("--port") + 1]), supernode.log_path, coordinator.calls

        async def work() -> None:
            async with asyncio.timeout(LIMIT_S):
                while "Error" not in log.read_text():  # noqa: ASYNC110 -- a file wakes nobody
                    await asyncio.sleep(0.1)
                # The call that is under way and a whole one behind it, but for the leave, of which there is one.
                wanted = 1 if goes_on == "DeactivateNode" else calls[goes_on] + 2
                while calls[goes_on] < wanted:  # noqa: ASYNC110 -- gRPC's threads count
                    await asyncio.sleep(0.1)
                assert all([await asyncio.to_thread(answers, port) for _ in range(FURTHER_CALLS)])

        own = replace(supernode, argv=(sys.executable, *argv))
        asyncio.run(supervise(((own,),), on_event=lambda _: None, restart=False, work=work))
    assert coordinator.calls["ActivateNode"] == 1
    if goes_on == "PullMessages":
        # Without `client.supernode` no message is asked for sooner.
        assert coordinator.least_pause_s >= FLOWERS_PAUSE_S
