"""From a hospital to the coordinator: through an HTTP proxy alone, and with a wrong clock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.certificates import write_tls
from tests.support.flower_federation import REPOSITORY, Federation, environment, wait_until
from tests.support.proxies import ConnectProxy

pytestmark = pytest.mark.slow

NAMES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
WITHOUT_PROXY, WITH_WRONG_CLOCK = NAMES[2:]
# Nobody but the proxy knows this name.
COORDINATOR = "coordinator.fedward.invalid"
WRONG_CLOCK = Path(__file__).parents[1] / "support" / "wrong_clock"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator that is up, under a name that no resolver knows."""
    up = Federation(tmp_path_factory.mktemp("proxy"), NAMES, rounds=1)
    up.write()
    server = up.server_file.parent
    for name in ("ca.crt", "server.crt", "server.key"):
        (server / name).unlink()
    write_tls(server, [COORDINATOR], valid_days=2)
    try:
        up.start_coordinator()
        yield up
    finally:
        up.close()


def test_hospitals_reach_the_coordinator_through_an_http_proxy(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that leaves the hospital goes through it, and nothing of what stays within: it sees one address."""
    superlink = f"{COORDINATOR}:{federation.fleet_port}"
    with ConnectProxy(federation.folder / "proxy.log", federation.fleet_port) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "intranet.example")
        for name in NAMES[:3]:
            federation.write_site(name, superlink=superlink)
            federation.start_hospital(name)
        for name in NAMES[:3]:
            federation.wait_connected(name)
        argv = [sys.executable, "-m", "server", "run", str(federation.plan_file), "--connect-timeout-s", "9"]
        argv += ["--config", str(federation.server_file)]
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        assert len(proxy.asked) >= len(NAMES[:3])
        assert set(proxy.asked) == {f"CONNECT {superlink} HTTP/1.1"}
        for name in NAMES[:3]:
            federation.stop(name)


def test_without_the_proxy_the_coordinator_is_out_of_reach(federation: Federation) -> None:
    """The control of the test above."""
    federation.write_site(WITHOUT_PROXY, superlink=f"{COORDINATOR}:{federation.fleet_port}")
    federation.start_hospital(WITHOUT_PROXY)
    log = federation.folder / WITHOUT_PROXY / "gateway" / "logs" / "supernode.log"
    wait_until(lambda: log.exists() and "Connection attempt failed" in log.read_text(), "a failed attempt")
    federation.stop(WITHOUT_PROXY)
    assert "supernode ready" not in federation.log(WITHOUT_PROXY)


def test_a_clock_that_is_a_day_ahead_is_named(federation: Federation) -> None:
    """Flower signs the time with each call; its own log says two words."""
    path = os.pathsep.join((str(WRONG_CLOCK), str(REPOSITORY)))
    federation.start_hospital(WITH_WRONG_CLOCK, PYTHONPATH=path)
    wait_until(lambda: "supernode died" in federation.log(WITH_WRONG_CLOCK), "the SuperNode's end")
    federation.stop(WITH_WRONG_CLOCK)
    said = next(line for line in federation.log(WITH_WRONG_CLOCK).splitlines() if "supernode died" in line)
    assert f"the clocks of this machine and of 127.0.0.1:{federation.fleet_port} differ" in said
    assert "set the clock of this machine" in said
