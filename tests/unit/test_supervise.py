"""Children start in order, are kept up or not, and never outlive their supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from common.child import GAVE_UP, Child, ChildEvent, Refusal
from common.errors import AddressInUse, DeploymentError
from common.supervise import supervise
from tests.support.flower_federation import environment, wait_until

SERVES = "import time; print('serves', flush=True); time.sleep(60)"


def child(folder: Path, name: str, code: str, *, ready: str | None = "serves", ready_timeout_s: float = 10.0) -> Child:
    """A Python program as a child."""
    return Child(
        name=name,
        argv=(sys.executable, "-c", code),
        env=dict(os.environ),
        cwd=folder,
        log_path=folder / "logs" / f"{name}.log",
        ready_pattern=ready,
        ready_timeout_s=ready_timeout_s,
        grace_s=5.0,
    )


def run(*stages: list[Child], restart: bool = False, seconds: float | None = 0.0) -> list[tuple[str, str]]:
    """Supervise until `seconds` after all are ready; the events."""
    events: list[tuple[str, str]] = []

    def note(event: ChildEvent) -> None:
        events.append((event.name, event.kind))

    async def work() -> None:
        await asyncio.sleep(60.0 if seconds is None else seconds)

    asyncio.run(supervise(stages, on_event=note, restart=restart, work=work))
    return events


def test_each_stage_waits_for_the_one_before_and_stops_in_reverse(tmp_path: Path) -> None:
    """The SuperExec must find its SuperLink, and hospitals must not see it vanish first."""
    late = "import time; time.sleep(0.4); " + SERVES
    events = run([child(tmp_path, "first", late)], [child(tmp_path, "second", SERVES)])
    assert events == [
        ("first", "starting"),
        ("first", "ready"),
        ("second", "starting"),
        ("second", "ready"),
        ("second", "stopping"),
        ("second", "stopped"),
        ("first", "stopping"),
        ("first", "stopped"),
    ]


def test_a_death_before_readiness_names_the_child_and_its_last_words(tmp_path: Path) -> None:
    """And everything that was up is stopped."""
    dies = "import sys; print('\\x1b[91mport is on fire\\x1b[0m', flush=True); sys.exit(3)"
    pid = tmp_path / "pid"
    first = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); " + SERVES
    with pytest.raises(DeploymentError, match=r"second ended with status 3; last log line: 'port is on fire'"):
        run([child(tmp_path, "first", first)], [child(tmp_path, "second", dies)])
    assert not psutil.pid_exists(int(pid.read_text()))


def test_a_death_in_service_ends_everything_unless_restarts_are_wanted(tmp_path: Path) -> None:
    """The demo stops at once; a hospital's site goes on."""
    once = f"import os; new = not os.path.exists({str(tmp_path / 'was')!r}); open({str(tmp_path / 'was')!r}, 'w'); "
    dies_once = (
        once + "print('serves', flush=True); import time; time.sleep(0.2 if new else 60); os.kill(os.getpid(), 9)"
    )
    with pytest.raises(DeploymentError, match="was ended by SIGKILL"):
        run([child(tmp_path, "mortal", dies_once)], seconds=None)
    (tmp_path / "was").unlink()
    events = run([child(tmp_path, "mortal", dies_once)], restart=True, seconds=3.5)
    assert [kind for _, kind in events][:6] == ["starting", "ready", "died", "starting", "ready", "stopping"]


def test_a_refusal_is_explained_and_a_final_one_is_not_tried_again(tmp_path: Path) -> None:
    """The hospital's engineer reads a sentence, not Flower's log."""
    code = "print('CERTIFICATE_VERIFY_FAILED'); raise SystemExit(1)"
    refused = child(tmp_path, "gateway", code)
    refused = replace(refused, refusals=(Refusal("CERTIFICATE_VERIFY", "ask for the right ca.crt", final=True),))
    started = time.monotonic()
    with pytest.raises(DeploymentError, match=r"gateway ended with status 1: ask for the right ca\.crt"):
        run([refused], restart=True)
    assert time.monotonic() - started < 5.0


def test_a_child_that_gave_up_speaks_for_itself(tmp_path: Path) -> None:
    """Its sentences and nothing around them; a child that crashed in service is started again all the same."""
    gives_up = "print('INFO reading'); print('error: plan.yaml: a: seen 0\\nplan.yaml: b: seen 1'); raise SystemExit(2)"
    refused = replace(child(tmp_path, "site", gives_up), refusals=(GAVE_UP,))
    with pytest.raises(DeploymentError, match=r"^site: plan\.yaml: a: seen 0; plan\.yaml: b: seen 1$"):
        run([refused], restart=True)
    was = str(tmp_path / "was")
    crashes_once = f"import os; new = not os.path.exists({was!r}); open({was!r}, 'w'); new and os.abort(); " + SERVES
    events = run([replace(child(tmp_path, "crash", crashes_once), refusals=(GAVE_UP,))], restart=True)
    assert [kind for _, kind in events] == ["starting", "died", "starting", "ready", "stopping", "stopped"]


def test_an_error_of_the_work_itself_is_raised_as_it_is(tmp_path: Path) -> None:
    """Also from a task of its own: a group of errors would be a traceback to the operator."""

    async def fail() -> None:
        raise DeploymentError("hospital-2 has no key")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    stages = [[child(tmp_path, "one", SERVES)]]
    with pytest.raises(DeploymentError, match="hospital-2 has no key"):
        asyncio.run(supervise(stages, on_event=lambda _: None, restart=True, work=work))


def test_a_child_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    """It may hang in a connection."""
    with pytest.raises(DeploymentError, match=r"was not ready within 0\.5 s"):
        run([child(tmp_path, "mute", "import time; time.sleep(60)", ready_timeout_s=0.5)])


def test_a_missing_program_is_one_sentence(tmp_path: Path) -> None:
    """Not an exception inside a task that nobody reads."""
    missing = Child("ghost", ("no-such-program",), dict(os.environ), tmp_path, tmp_path / "log", "x", 5.0)
    with pytest.raises(DeploymentError, match="no-such-program: cannot be started"):
        run([missing])


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    """Starting half a coordinator would leave a confusing log."""
    events: list[ChildEvent] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wants = Child("superlink", ("true",), {}, tmp_path, tmp_path / "log", None, 5.0, ports=(("127.0.0.1", port),))
        with pytest.raises(AddressInUse, match=f"superlink: port {port} on 127"):
            asyncio.run(supervise([[wants]], on_event=events.append, restart=False))
    assert events == []


def test_a_child_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    """Grandchildren too: a ServerApp is a child of the SuperExec."""
    stubborn = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); " + SERVES
    )
    one = child(tmp_path, "stubborn", stubborn)
    one = replace(one, grace_s=0.5)
    run([one])
    # The kernel ends a killed process a moment after the signal.
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())), "end of the grandchild", timeout_s=5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    """Not even if the supervisor is killed: then the kernel ends them."""
    pid = tmp_path / "pid"
    serves = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); " + SERVES
    supervisor = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from common.child import Child; from common.supervise import supervise\n"
        f"argv = (sys.executable, '-c', {serves!r})\n"
        "one = Child('one', argv, dict(os.environ), Path('.'), Path('log'), 'serves', 9)\n"
        "asyncio.run(supervise([[one]], on_event=lambda e: print(e.kind, flush=True), restart=False))\n"
    )
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", supervisor], cwd=tmp_path, env=environment(), stdout=out, stderr=out
        )
    wait_until(lambda: "ready" in (tmp_path / "out").read_text(), "supervisor", timeout_s=20.0)
    assert is_running(int(pid.read_text()))
    process.send_signal(number)
    status = process.wait(timeout=20)
    wait_until(lambda: not is_running(int(pid.read_text())), "end of the child", timeout_s=5.0)
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else 0)


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
