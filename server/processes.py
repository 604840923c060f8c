"""The coordinator as processes: SuperLink and SuperExec, and Flower's command line for what they offer."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

from common.child import Child, Refusal
from common.errors import ConfigError, DeploymentError
from common.flower import flower_command, flower_environment
from common.identity import read_secret
from common.launch import END_NOW
from common.process_settings import rotation
from common.server_config import NodeEntry, ServerConfig
from common.spawn import spawn
from common.supervise import require_free
from server.run_folder import CONFIG_VARIABLE

LOOPBACK = "127.0.0.1"
CONNECTION = "fedward"
SUPERLINK_DATABASE = "superlink.db"
# More at once only take turns on the machine's cores: each is a second of Python start-up.
MOST_COMMANDS_AT_ONCE = 2
COMMAND_TIMEOUT_S = 60.0
ALREADY_REGISTERED = "[code: 23]"
# Flower's words when nobody listens, or not yet.
UNAVAILABLE = "Connection to the SuperLink is unavailable"
REGISTER_TIMEOUT_S = 600.0
REGISTER_BACKOFF_S = (1.0, 2.0, 5.0, 10.0)


def coordinator_children(config: ServerConfig, config_path: Path) -> tuple[tuple[Child, ...], ...]:
    """The coordinator's processes, in stages for `common.supervise`.

    Args:
        config: The server file, with absolute paths.
        config_path: Where it is; the ServerApp reads it again.

    Raises:
        KeyFileError: If a private key or secret is missing or readable by others.
        ConfigError: If a certificate is missing.
    """
    for secret in (config.certificate_key, config.superexec_secret, config.identity_key):
        read_secret(secret)
    for key, path in (("certificate", config.certificate), ("root_certificates", config.root_certificates)):
        if not path.is_file():
            raise ConfigError(f"{key}: {path} is no file; name the coordinator's own PEM file in server.yaml")
    _write_connection(config)
    environment = _environment(config) | {CONFIG_VARIABLE: str(config_path.resolve())}
    host, port = fleet_bind_address(config)

    def child(name: str, argv: tuple[str, ...], *, ready: str | None, ports: tuple[tuple[str, int], ...]) -> Child:
        return Child(
            name=name,
            argv=argv,
            env=environment,
            cwd=config.folder,
            log_path=config.folder / "logs" / f"{name}.log",
            ready_pattern=ready,
            ready_timeout_s=60.0,
            ports=ports,
            refusals=_refusals(config),
            rotation=rotation(config.log_max_mib, config.log_files),
        )

    ports = ((host, port), (LOOPBACK, config.runtime_port))
    return (
        (child("superlink", _superlink(config), ready="Application startup complete", ports=ports),),
        (child("superexec", _superexec(config), ready=None, ports=()),),
    )


def forget_superlink_state(config: ServerConfig) -> None:
    """Remove the SuperLink's database of an earlier start; ours is in the store.

    It never shrinks and keeps every ciphertext that passed, and a gateway that was taken out of the server file would
    still be known to it. Gateways that are up lose their node id, end, and are started again by their supervisors.

    Raises:
        AddressInUse: If a coordinator still runs on this file's ports.
    """
    for host, port in (fleet_bind_address(config), (LOOPBACK, config.runtime_port)):
        require_free(host, port, name="superlink")
    for path in config.folder.glob(f"{SUPERLINK_DATABASE}*"):
        path.unlink()


def fleet_bind_address(config: ServerConfig) -> tuple[str, int]:
    """Where the SuperLink listens for hospitals: loopback if their address is, else all interfaces."""
    host, _, port = config.fleet_address.rpartition(":")
    return (LOOPBACK if host in ("localhost", LOOPBACK) else "0.0.0.0", int(port))  # noqa: S104 -- the public port


async def register_nodes(config: ServerConfig, *, give_up_s: float = REGISTER_TIMEOUT_S) -> None:
    """Let the gateways of the server file connect, each under its hospital's name.

    Args:
        config: The server file.
        give_up_s: How long to ask again where the SuperLink gives no answer, seconds: the machine may be busy.

    Raises:
        DeploymentError: If the SuperLink refuses one, which is final; names the hospital. Or if it gives no answer.
    """
    give_up = time.monotonic() + give_up_s
    turn = asyncio.Semaphore(MOST_COMMANDS_AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            for node in config.nodes:
                group.create_task(_register(config, node, turn, give_up=give_up))
    except* DeploymentError as failures:
        raise failures.exceptions[0] from None


async def flwr(config: ServerConfig, *arguments: str) -> dict[str, Any]:
    """Run one of Flower's commands against this coordinator and return its JSON.

    Raises:
        DeploymentError: If it does not end in time, or prints no JSON.
    """
    answer = await _ask(config, *arguments)
    if answer is None:
        raise DeploymentError(f"flwr {arguments[0]}: no answer from the SuperLink; look into logs/superlink.log")
    return answer


async def _ask(config: ServerConfig, *arguments: str) -> dict[str, Any] | None:
    """What one of Flower's commands answers; None if it does not in time, or prints no JSON."""
    process = await spawn(
        "flwr",
        (flower_command("flwr"), *arguments, "--format", "json"),
        output=asyncio.subprocess.PIPE,
        errors=asyncio.subprocess.DEVNULL,
        env=_environment(config),
        cwd=config.folder,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        return dict(json.loads(output))
    except (TimeoutError, ValueError):
        return None
    finally:
        if process.returncode is None:
            process.send_signal(END_NOW)
            await process.wait()


async def _register(config: ServerConfig, node: NodeEntry, turn: asyncio.Semaphore, *, give_up: float) -> None:
    if not node.public_key.is_file():
        raise DeploymentError(f"{node.public_key}: no such file; ask {node.name} for its gateway's public key")
    words = ("supernode", "register", str(node.public_key), CONNECTION, "--name", node.name)
    for pause_s in itertools.chain(REGISTER_BACKOFF_S, itertools.repeat(REGISTER_BACKOFF_S[-1])):
        async with turn:
            answer = await _ask(config, *words)
        problem = " ".join(str((answer or {}).get("error-message", "")).split())
        if answer is not None and (answer.get("success") or ALREADY_REGISTERED in problem):
            return
        if answer is not None and UNAVAILABLE not in problem:
            raise DeploymentError(f"{node.name}: the SuperLink refuses its key {node.public_key}: {problem}")
        if time.monotonic() + pause_s > give_up:
            raise DeploymentError(
                f"{node.name}: its key could not be registered, since the SuperLink gives no answer; look at "
                f"{config.folder / 'logs' / 'superlink.log'}, and start the coordinator again on a less busy machine"
            )
        await asyncio.sleep(pause_s)


def _environment(config: ServerConfig) -> dict[str, str]:
    return flower_environment(config.folder / "flower")


def _write_connection(config: ServerConfig) -> None:
    home = config.folder / "flower"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # JSON strings are TOML strings.
    address, certificates = json.dumps(f"{LOOPBACK}:{config.runtime_port}"), json.dumps(str(config.root_certificates))
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f"[superlink.{CONNECTION}]\naddress = {address}\nroot-certificates = {certificates}\n",
        encoding="utf-8",
    )


def _refusals(config: ServerConfig) -> tuple[Refusal, ...]:
    return (
        Refusal(
            r"(?m)^ssl\.SSLError",
            f"{config.certificate}, {config.certificate_key} and {config.root_certificates} are no certificate, its "
            "key and its authority in PEM form; name the files that were made together in server.yaml",
            final=True,
        ),
    )


def _superlink(config: ServerConfig) -> tuple[str, ...]:
    host, port = fleet_bind_address(config)
    return (
        flower_command("flower-superlink"),
        *("--ssl-ca-certfile", str(config.root_certificates)),
        *("--ssl-certfile", str(config.certificate)),
        *("--ssl-keyfile", str(config.certificate_key)),
        "--enable-supernode-auth",
        *("--database", str(config.folder / SUPERLINK_DATABASE)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(config.superexec_secret)),
        "--disable-runtime-dependency-installation",
        *("--host", LOOPBACK, "--port", str(config.runtime_port)),
        *("--fleet-api-type", "grpc-rere"),
        *("--fleet-api-address", f"{host}:{port}"),
    )


def _superexec(config: ServerConfig) -> tuple[str, ...]:
    return (
        flower_command("flower-superexec"),
        *("--runtime-api-address", f"{LOOPBACK}:{config.runtime_port}"),
        *("--root-certificates", str(config.root_certificates)),
        *("--superexec-auth-secret-file", str(config.superexec_secret)),
    )
