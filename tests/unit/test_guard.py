"""The coordinator does not start where it could decrypt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.encrypt import SecretKey
from client.vault import Vault
from client.vault_lock import Unlock
from common.ckks_parameters import PRESETS, SECRET_KEY_MAGIC
from common.errors import SecretKeyOnServer
from server.guard import refuse_secret_key
from tests.support.flower_federation import REPOSITORY, Federation, environment


def test_a_key_is_found_by_its_name(tmp_path: Path) -> None:
    """Even if its content is encrypted."""
    refuse_secret_key(tmp_path, tmp_path / "missing")
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    (nested / "ckks.key").write_bytes(b"sealed")
    with pytest.raises(SecretKeyOnServer, match="new key epoch"):
        refuse_secret_key(tmp_path)


def test_a_key_is_found_by_its_content(tmp_path: Path) -> None:
    """Even if it was renamed; a file that only mentions the format is none."""
    (tmp_path / "notes.txt").write_bytes(b"see " + SECRET_KEY_MAGIC)
    refuse_secret_key(tmp_path)
    (tmp_path / "backup.bin").write_bytes(SecretKey.generate(PRESETS["compact"]).to_bytes())
    with pytest.raises(SecretKeyOnServer, match=r"backup\.bin"):
        refuse_secret_key(tmp_path)


def test_a_vault_is_found_by_its_content(tmp_path: Path) -> None:
    """It is sealed, and yet has no business there."""
    unlock = Unlock("key-file", bytes(32))
    Vault.create(tmp_path / "sealed.bin", hospital="hospital-1", unlock=unlock, held={"ckks": b"secret"})
    with pytest.raises(SecretKeyOnServer, match=r"sealed\.bin"):
        refuse_secret_key(tmp_path)


def test_the_command_refuses_to_start_beside_a_key(tmp_path: Path) -> None:
    """One line and exit status 2, before any process is started."""
    federation = Federation(tmp_path, ("hospital-1", "hospital-2", "hospital-3"))
    federation.write()
    (tmp_path / "server" / "old.key").write_bytes(SECRET_KEY_MAGIC + bytes(100))
    command = [sys.executable, "-m", "server", "start", "--config", str(federation.server_file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 2
    assert "old.key: a CKKS secret key" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_the_coordinators_program_loads_no_learning_code() -> None:
    """The guard's own control: it speaks up as soon as such a package is loaded."""
    code = (
        "import server.app, server.cli; from server.guard import refuse_learning_code; refuse_learning_code()\n"
        "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); refuse_learning_code()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 1
    assert "DeploymentError: the coordinator has loaded torch" in done.stderr
    assert "line 2, in <module>" in done.stderr


@pytest.mark.parametrize("module", ["client.cli", "client.plan_in_words"])
def test_the_sites_command_loads_no_learning_code_before_it_is_needed(module: str) -> None:
    """A gateway is installed without the extra `site`, and has the same command; the control loads what it names.

    Nor does `approve`, which trains nothing: torch takes seconds, and most of a gigabyte.
    """
    code = f"import sys; import {module}; print([m for m in ('torch', 'opacus', 'tenseal') if m in sys.modules])"
    control = f"import tenseal; {code}"
    for program, loaded in ((code, "[]"), (control, "['tenseal']")):
        done = subprocess.run(  # noqa: S603 -- our own interpreter
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment(),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == loaded
