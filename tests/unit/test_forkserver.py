"""The fork server runs Flower's own command in a fork, and nothing depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flwr
import pytest
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND, TaskType
from flwr.supernode.cli.flwr_clientapp import _parse_args_run_flwr_clientapp

from client.forkserver import COMMAND, READY_LINE, write_shim
from tests.support.flower_federation import environment, wait_until


def run_shim(shim: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flwr-clientapp` as SuperExec would: by name, through PATH."""
    path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(  # noqa: S603
        [COMMAND, *arguments], env=environment() | {"PATH": path}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The log of a running fork server on `tmp_path / fork.sock`."""
    path = tmp_path / "log"
    argv = [sys.executable, "-m", "client.forkserver", str(tmp_path / "fork.sock")]
    with path.open("w") as out:
        process = subprocess.Popen(argv, env=environment(), stdout=out, stderr=out)  # noqa: S603
    try:
        wait_until(lambda: READY_LINE in path.read_text(), "fork server", timeout_s=30.0)
        yield path
    finally:
        process.kill()
        process.wait()


def test_the_pinned_flower_still_starts_client_apps_by_this_name_and_these_arguments() -> None:
    """The fork server stands on nothing else; a new Flower must be looked at before this line changes."""
    assert flwr.__version__.startswith("1.39.")
    assert TASK_TYPE_TO_COMMAND[TaskType.CLIENT_APP] == COMMAND
    address = TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[TaskType.CLIENT_APP]
    argv = [address, "127.0.0.1:1", "--token", "t", "--insecure", "--parent-pid", "1"]
    assert _parse_args_run_flwr_clientapp().parse_args(argv).parent_pid == 1


def test_a_message_is_handled_by_a_fork_of_the_server(tmp_path: Path, log: Path) -> None:
    """Flower's own parser answers in the server's log, and the shim says nothing."""
    shim = write_shim(tmp_path / "bin", tmp_path / "fork.sock")
    done = run_shim(shim, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: "usage: flwr-clientapp" in log.read_text(), "help", timeout_s=10.0)


def test_the_server_survives_bad_input_and_a_failing_client_app(tmp_path: Path, log: Path) -> None:
    """One broken message must not stop a hospital."""
    shim = write_shim(tmp_path / "bin", tmp_path / "fork.sock")
    assert run_shim(shim, "--no-such-option").returncode == 0
    wait_until(lambda: "error: one of the arguments" in log.read_text(), "error", timeout_s=10.0)
    assert run_shim(shim, "--help").returncode == 0
    wait_until(lambda: "usage: flwr-clientapp" in log.read_text(), "help", timeout_s=10.0)


def test_without_the_server_the_stock_command_runs(tmp_path: Path) -> None:
    """Slower, never broken."""
    shim = write_shim(tmp_path / "bin", tmp_path / "fork.sock")
    done = run_shim(shim, "--help")
    assert done.returncode == 0
    assert "usage: flwr-clientapp" in done.stdout


def test_a_folder_with_blanks_works(tmp_path: Path, log: Path) -> None:
    """A #! line would break there."""
    shim = write_shim(tmp_path / "a folder with 'blanks'", tmp_path / "fork.sock")
    assert run_shim(shim, "--help").stdout == ""
    wait_until(lambda: "usage: flwr-clientapp" in log.read_text(), "help", timeout_s=10.0)
