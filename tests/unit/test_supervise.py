"""Children start in order, are kept up or not, and never outlive their supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from common.child import GAVE_UP, Child, ChildEvent, Refusal
from common.errors import AddressInUse, DeploymentError
from common.health import HealthCheck
from common.supervise import supervise
from tests.support.flower_federation import environment, free_port, wait_until

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


def test_a_child_without_a_ready_line_is_ready_when_started(tmp_path: Path) -> None:
    """Flower's SuperExec says nothing when it serves."""
    events = run([child(tmp_path, "silent", "import time; time.sleep(60)", ready=None)])
    assert [kind for _, kind in events] == ["starting", "ready", "stopping", "stopped"]


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


# A child with three descendants that ignore SIGTERM: one in its group, one in a session of its own, and an orphan.
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note = "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \\
    "pathlib.Path({pids!r}, str(os.getpid())).touch(); time.sleep(120)"
subprocess.Popen([sys.executable, "-c", note])
subprocess.Popen([sys.executable, "-c", note], start_new_session=True)
if os.fork() == 0:
    subprocess.Popen([sys.executable, "-c", note], start_new_session=True)
    os._exit(0)
while len(os.listdir({pids!r})) < 3:
    time.sleep(0.01)
os.open(os.path.join({pids!r}, str(os.getpid())), os.O_CREAT)
print("serves", flush=True)
time.sleep({seconds})
"""
SUPERVISOR = """
import asyncio, os, sys; from pathlib import Path
from common.child import Child; from common.supervise import supervise
argv = (sys.executable, "-c", {code!r})
one = Child("one", argv, dict(os.environ), Path("."), Path("log"), "serves", 60, grace_s={grace_s})
asyncio.run(supervise([[one]], on_event=lambda e: print(e.kind, flush=True), restart=False))
"""


@dataclass
class Family:
    """A supervisor in a process of its own, and all that its child has started."""

    process: subprocess.Popen[bytes]
    pids: list[int]

    @classmethod
    def start(cls, folder: Path, *, grace_s: float) -> Self:
        """Until the child serves."""
        pids = folder / "pids"
        pids.mkdir()
        code = FAMILY.format(pids=str(pids), seconds=120)
        with (folder / "out").open("w") as out:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", SUPERVISOR.format(code=code, grace_s=grace_s)],
                cwd=folder,
                env=environment(),
                stdout=out,
                stderr=out,
            )
        wait_until(lambda: "ready" in (folder / "out").read_text(), "supervisor", timeout_s=60.0)
        found = [int(path.name) for path in pids.iterdir()]
        assert len(found) == 4
        assert all(map(is_running, found))
        return cls(process, found)

    def is_gone(self) -> bool:
        """Whether none of them runs."""
        return not any(map(is_running, self.pids))


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGTERM], 0),
        ([signal.SIGINT], 0),
        ([signal.SIGINT, signal.SIGINT], 0),
        ([signal.SIGKILL], -signal.SIGKILL),
        ([signal.SIGTERM, signal.SIGKILL], -signal.SIGKILL),
    ],
    ids=lambda value: "+".join(n.name for n in value) if isinstance(value, list) else "",
)
def test_no_process_outlives_its_supervisor(tmp_path: Path, numbers: list[signal.Signals], status: int) -> None:
    """However it ends, and however its children hide: a ServerApp is a grandchild, and pushed code may start anything.

    With two signals the grace time is so long that the second one must have ended them.
    """
    family = Family.start(tmp_path, grace_s=0.5 if len(numbers) == 1 else 600.0)
    for number in numbers[:-1]:
        family.process.send_signal(number)
        # Two at once are one to the kernel.
        wait_until(lambda: "stopping" in (tmp_path / "out").read_text(), "stop", timeout_s=30.0)
        assert not family.is_gone()
    family.process.send_signal(numbers[-1])
    assert family.process.wait(timeout=60) == status
    wait_until(family.is_gone, "end of all", timeout_s=30.0)


def test_a_child_that_dies_takes_along_what_it_started(tmp_path: Path) -> None:
    """The next try must not meet the processes of the last one; also those in sessions of their own."""
    pids = tmp_path / "pids"
    pids.mkdir()
    with pytest.raises(DeploymentError, match="ended with status 0"):
        run([child(tmp_path, "one", FAMILY.format(pids=str(pids), seconds=0.5), ready_timeout_s=60)], seconds=None)
    assert len(list(pids.iterdir())) == 4
    assert not any(is_running(int(path.name)) for path in pids.iterdir())


def test_a_child_that_is_slow_gets_more_time_with_each_try(tmp_path: Path) -> None:
    """A busy machine is no reason to give up: here a start takes 1.5 s, and the first try has 0.5."""
    slow = child(tmp_path, "slow", "import time; time.sleep(1.5); " + SERVES, ready_timeout_s=0.5)
    events = run([slow], restart=True)
    kinds = [kind for _, kind in events]
    assert kinds[:2] == ["starting", "died"]
    assert kinds[-3:] == ["ready", "stopping", "stopped"]


def test_a_child_that_is_never_ready_is_given_up_in_the_end(tmp_path: Path) -> None:
    """After the limit for all tries, with the reason of the last one that died by itself."""
    mute = replace(child(tmp_path, "mute", "import time; time.sleep(60)", ready_timeout_s=0.5), give_up_s=4.0)
    started = time.monotonic()
    with pytest.raises(DeploymentError, match="mute was not ready within"):
        run([mute], restart=True)
    assert time.monotonic() - started > 2.5


def test_a_child_that_dies_right_after_its_ready_line_was_ready(tmp_path: Path) -> None:
    """Between two looks at its log, that is. Else it would be given up as one that never connected."""
    hasty = replace(child(tmp_path, "hasty", "print('serves', flush=True)"), give_up_s=1.0)
    kinds: list[str] = []
    died = asyncio.Event()

    def note(event: ChildEvent) -> None:
        kinds.append(event.kind)
        if event.kind == "died":
            died.set()

    async def work() -> None:
        await asyncio.wait_for(died.wait(), 60)

    asyncio.run(supervise([[hasty]], on_event=note, restart=True, work=work))
    assert kinds[:3] == ["starting", "ready", "died"]


def test_everything_that_a_dying_child_wrote_is_read_before_its_cause_is_named(tmp_path: Path) -> None:
    """A megabyte in its last moment, and then the line that counts."""
    dies = "import os; os.write(1, (b'y' * 99 + b'\\n') * 10000 + b'the cause'); os._exit(3)"
    one = child(tmp_path, "talker", dies, ready=None)
    with pytest.raises(DeploymentError, match="talker ended with status 3; last log line: 'the cause'"):
        run([one], seconds=None)
    assert len((tmp_path / "logs" / "talker.log").read_bytes()) == 10_000 * 100 + len("the cause\n")


def test_health_tells_the_state_of_each_child_and_no_word_of_its_log(tmp_path: Path) -> None:
    """What died, how often, and how; a site's log is nobody's but the operator's."""
    was = str(tmp_path / "was")
    dies_once = (
        f"import os; new = not os.path.exists({was!r}); open({was!r}, 'w'); print('secret'); new and os._exit(7); "
    )
    port = free_port()
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            answers.append(json.loads(answer.read()))

    check = HealthCheck("127.0.0.1", port, serving=lambda: True, details=lambda: {"phase": "idle"})
    stages = [[child(tmp_path, "one", dies_once + SERVES)]]
    work = partial(asyncio.to_thread, ask)
    asyncio.run(supervise(stages, on_event=lambda _: None, restart=True, work=work, health=check))
    (answer,) = answers
    assert answer["children"]["one"] | {"up_s": 0} == {
        "state": "ready",
        "restarts": 1,
        "up_s": 0,
        "cause": "ended with status 7",
    }
    assert (answer["ready"], answer["phase"]) == (True, "idle")


JSON_SUPERVISOR = """
import asyncio, os, sys; from pathlib import Path
from common.announce import announcing; from common.child import Child; from common.supervise import supervise
code = (
    "import time; print('2026-01-01 10:00:00,5 WARNING a: b'); print('\\x1b[91mred \\xe4\\x1b[0m'); "
    "print('serves', flush=True); time.sleep(60)"
)
one = Child("one", (sys.executable, "-c", code), dict(os.environ), Path("."), Path("log"), "serves", 60)
async def work(): announcer.say("all up")
with announcing("supervisor", as_json=True) as announcer:
    asyncio.run(supervise([[one]], on_event=announcer.event, restart=True, work=work, lines=announcer.lines))
"""


def test_json_lines_hold_events_and_output_on_stdout_and_in_the_logs(tmp_path: Path) -> None:
    """For whoever collects logs: every line is an object, and nothing else is printed."""
    argv = [sys.executable, "-c", JSON_SUPERVISOR]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=60)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0) for line in lines)
    said = [(line["process"], line.get("level"), line["text"]) for line in lines]
    assert said[0] == ("one", "info", "starting")
    output = [
        ("one", "warning", "2026-01-01 10:00:00,5 WARNING a: b"),
        ("one", None, "red ä"),
        ("one", None, "serves"),
    ]
    assert [line for line in said if line in output] == output
    assert ("supervisor", "info", "all up") in said
    assert said.count(("one", "info", "ready")) == 1
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["process"], line.get("level"), line["text"]) for line in logged][:3] == output


def test_json_lines_that_nobody_reads_hold_up_no_child(tmp_path: Path) -> None:
    """Standard output is a pipe that is full; the child's log is complete all the same."""
    code = "import time\nfor n in range(100000): print(n)\nprint('serves', flush=True)\ntime.sleep(60)"
    script = JSON_SUPERVISOR.replace("one = ", f"code = {code!r}; one = ")
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.wait(timeout=120) == 0
        numbers = [json.loads(line)["text"] for line in (tmp_path / "log").read_bytes().splitlines()]
        assert numbers[:100_000] == [str(n) for n in range(100_000)]


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
