"""The compose files and systemd units say what docs/containers.md promises: who may see, write and reach what.

Each check is a function that lists what is wrong, and is shown to find it in a file that was made wrong.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import parse_settings
from common.flower import NO_PROXY, PROXIES, proxy_environment
from common.site_config import SiteConfig, load_site
from scripts.compose_init import (
    COORDINATOR,
    COORDINATOR_RUNTIME_PORT,
    GATEWAY,
    GATEWAY_RUNTIME_PORT,
    SITE,
    container_site,
)

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
UNITS = REPOSITORY / "deploy" / "systemd"
FILES = ("compose.yaml", "site.compose.yaml", "coordinator.compose.yaml")
HOSPITALS = tuple(f"hospital-{number}" for number in range(1, 6))
SITE_ONLY = ("data", "keys", "state")

Compose = dict[str, Any]


def compose(name: str) -> Compose:
    """A compose file with its anchors and merge keys resolved."""
    content = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def users(services: Compose) -> dict[str, int]:
    """The user of each service."""
    return {name: int(str(service["user"]).partition(":")[0]) for name, service in services.items()}


def sources(service: Compose) -> set[str]:
    """Volumes and host paths that a service mounts."""
    # `:?text` and `:-text` inside ${} are no separators.
    return {re.sub(r"\$\{(\w+)[^}]*\}", r"$\1", volume).split(":")[0] for volume in service.get("volumes", [])}


def not_hardened(content: Compose) -> list[str]:
    """Services that can do more than they must."""
    wrong = []
    for name, service in content["services"].items():
        wrong += [
            f"{name}: {what}"
            for what, right in {
                "init": service.get("init") is True,
                "read_only": service.get("read_only") is True,
                "cap_drop": service.get("cap_drop") == ["ALL"],
                "cap_add": not service.get("cap_add") or name == "init",
                "security_opt": service.get("security_opt") == ["no-new-privileges:true"],
                "privileged": "privileged" not in service and "pid" not in service and "ipc" not in service,
                "limits": {"mem_limit", "cpus", "pids_limit"} <= set(service),
                "tmpfs": any(mount.startswith("/tmp:size=") for mount in service.get("tmpfs", [])),  # noqa: S108
                "health": "healthcheck" in service or name in ("init", "run"),
                "restart": name == "init" or service.get("restart") not in (None, "no"),
                "user": users({name: service})[name] > 10_000 or name == "init",
            }.items()
            if not right
        ]
    return wrong


def sites_with_a_network(content: Compose) -> list[str]:
    """Site services that could reach anything but their socket."""
    sites = {name: s for name, s in content["services"].items() if name.endswith("site") or "site-" in name}
    assert sites
    return [name for name, s in sites.items() if s.get("network_mode") != "none" or "networks" in s or "ports" in s]


def shared_volumes(content: Compose) -> list[str]:
    """Named volumes that a container mounts and that are none of its business."""
    wrong = []
    for name, service in content["services"].items():
        if name == "init":
            continue
        owner, _, part = name.rpartition("-")
        allowed = {
            "site": {f"{owner}-{kind}" for kind in (*SITE_ONLY, "socket")},
            "gateway": {f"{owner}-gateway", f"{owner}-socket"},
        }.get(part, {"coordinator-keys", "coordinator-work"})
        wrong += [f"{name}: {volume}" for volume in sorted(sources(service) - allowed)]
    return wrong


def published_ports(content: Compose) -> dict[str, list[str]]:
    """Ports that are reachable from outside the machine's containers."""
    return {name: service["ports"] for name, service in content["services"].items() if service.get("ports")}


@pytest.mark.parametrize("name", FILES)
def test_every_container_is_hardened(name: str) -> None:
    """Non-root, nothing writable but volumes and tmpfs, no capability, no way to gain one, limits, a health check."""
    assert not_hardened(compose(name)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"read_only": False},
        {"cap_drop": []},
        {"cap_add": ["SYS_ADMIN"]},
        {"security_opt": []},
        {"user": "0:0"},
        {"init": False},
        {"mem_limit": None},
        {"healthcheck": None},
        {"restart": "no"},
        {"privileged": True},
    ],
    ids=str,
)
def test_a_softened_container_would_be_found(change: dict[str, Any]) -> None:
    """Control of `not_hardened`: each single softening of one service is seen."""
    content = copy.deepcopy(compose("compose.yaml"))
    service = content["services"]["hospital-3-gateway"] | change
    content["services"]["hospital-3-gateway"] = {key: value for key, value in service.items() if value is not None}
    assert not_hardened(content)


def test_five_hospitals_are_two_containers_each() -> None:
    """As the README and the issue name them; every site has a user that differs from every gateway's."""
    services = compose("compose.yaml")["services"]
    expected = {f"{hospital}-{part}" for hospital in HOSPITALS for part in ("site", "gateway")}
    assert set(services) == {"init", "coordinator", "run"} | expected
    found = users(services)
    assert {found[f"{hospital}-site"] for hospital in HOSPITALS} == {SITE.user}
    assert {found[f"{hospital}-gateway"] for hospital in HOSPITALS} == {GATEWAY.user}
    assert found["coordinator"] == found["run"] == COORDINATOR.user
    assert len({SITE.user, GATEWAY.user, COORDINATOR.user}) == 3


@pytest.mark.parametrize("name", ["compose.yaml", "site.compose.yaml"])
def test_a_site_has_no_network(name: str) -> None:
    """What reads patients' images cannot open a connection; the control gives one site a network."""
    content = compose(name)
    assert sites_with_a_network(content) == []
    site = next(key for key in content["services"] if key.endswith("site"))
    changed = copy.deepcopy(content)
    del changed["services"][site]["network_mode"]
    assert sites_with_a_network(changed) == [site]


def test_no_container_mounts_what_is_another_ones() -> None:
    """A gateway has no data, keys or state; no hospital has anything of another; the control mounts keys."""
    content = compose("compose.yaml")
    assert shared_volumes(content) == []
    changed = copy.deepcopy(content)
    changed["services"]["hospital-2-gateway"]["volumes"].append("hospital-2-keys:/keys:ro")
    changed["services"]["hospital-4-site"]["volumes"].append("hospital-5-data:/more:ro")
    changed["services"]["run"]["volumes"] = ["hospital-1-state:/state"]
    assert shared_volumes(changed) == [
        "run: hospital-1-state",
        "hospital-2-gateway: hospital-2-keys",
        "hospital-4-site: hospital-5-data",
    ]


def test_a_production_gateway_mounts_the_site_file_its_own_keys_and_the_socket() -> None:
    """Nothing else of the site's folder, and nothing of it to write to."""
    gateway = compose("site.compose.yaml")["services"]["gateway"]
    assert sources(gateway) == {"$FEDWARD_SITE_FOLDER/site.yaml", "$FEDWARD_SITE_FOLDER/gateway", "socket"}
    assert all(volume.endswith(":ro") for volume in gateway["volumes"])
    assert "secrets" not in gateway


def test_a_proxy_reaches_the_gateway_and_nobody_else() -> None:
    """In lower case, as gRPC reads them; a proxy's address may hold a password, and a site has no network."""
    services = compose("site.compose.yaml")["services"]
    assert services["gateway"]["environment"] == {
        "https_proxy": "${FEDWARD_HTTPS_PROXY:-}",
        "no_proxy": "${FEDWARD_NO_PROXY:-}",
    }
    assert [name for name, s in services.items() if "https_proxy" in s["environment"]] == ["gateway"]
    assert settings("fedward-gateway.service")["EnvironmentFile"] == ["-/etc/fedward/gateway.env"]
    assert "EnvironmentFile" not in settings("fedward-site.service")


def test_the_variables_of_a_proxy_are_those_that_the_supernode_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, as compose sets them where the operator names none, they are the same as none."""
    for name in (*PROXIES, *NO_PROXY):
        monkeypatch.delenv(name, raising=False)
    names = compose("site.compose.yaml")["services"]["gateway"]["environment"]
    for name in names:
        monkeypatch.setenv(name, "")
    assert proxy_environment() == {}
    for name in names:
        monkeypatch.setenv(name, f"a {name}")
    assert proxy_environment() == {"https_proxy": "a https_proxy", "no_proxy": "127.0.0.1,localhost,a no_proxy"}


def test_a_vault_is_opened_by_a_key_file_or_a_passphrase() -> None:
    """Both reach the site's container as secrets, which its gateway lacks."""
    content = compose("site.compose.yaml")
    site = content["services"]["site"]
    assert site["command"][-2:] == ["--passphrase-file", "/run/secrets/vault_passphrase"]
    assert set(site["secrets"]) == set(content["secrets"]) == {"vault_key", "vault_passphrase"}
    assert all(secret["file"].endswith(":-/dev/null}") for secret in content["secrets"].values())


@pytest.mark.parametrize("name", ["compose.yaml", "site.compose.yaml"])
def test_the_socket_is_writable_for_the_site_alone(name: str) -> None:
    """A gateway that could write to the folder could put a socket of its own in the place of the site's."""
    content = compose(name)
    sockets = {key: volume for key, volume in content["volumes"].items() if key.endswith("socket")}
    assert sockets
    for volume in sockets.values():
        assert volume["driver_opts"]["o"] == f"size=1m,uid={SITE.user},gid=10010,mode=2750"
    for key, service in content["services"].items():
        mounts = [volume for volume in service.get("volumes", []) if "/run/fedward" in volume]
        assert all(mount.endswith(":ro") for mount in mounts) == (not key.endswith(("site", "site-gpu")) or not mounts)


def test_the_data_is_read_only_for_the_site() -> None:
    """Training reads images; nothing may change them."""
    for name in ("compose.yaml", "site.compose.yaml"):
        mounts = [v for s in compose(name)["services"].values() for v in s.get("volumes", []) if "/fedward/data" in v]
        assert mounts
        assert all(mount.endswith(":/fedward/data:ro") for mount in mounts)


def test_only_the_fleet_port_is_published() -> None:
    """Flower's Control and Runtime APIs have no login; in the demo even the Fleet port is on loopback."""
    demo = published_ports(compose("compose.yaml"))
    assert demo == {"coordinator": ["${FEDWARD_FLEET_BIND:-127.0.0.1}:${FEDWARD_FLEET_PORT:-9092}:9092"]}
    assert published_ports(compose("site.compose.yaml")) == {}
    (ports,) = published_ports(compose("coordinator.compose.yaml")).values()
    assert ports == ["${FEDWARD_FLEET_BIND:-0.0.0.0}:${FEDWARD_FLEET_PORT:-9092}:${FEDWARD_FLEET_PORT:-9092}"]


def test_hospitals_cannot_reach_one_another() -> None:
    """Each gateway is alone with the coordinator on an internal network."""
    content = compose("compose.yaml")
    for hospital in HOSPITALS:
        assert content["services"][f"{hospital}-gateway"]["networks"] == [hospital]
        assert content["networks"][hospital] == {"internal": True}
    members = [name for name, service in content["services"].items() if "hospital-1" in service.get("networks", [])]
    assert members == ["coordinator", "hospital-1-gateway"]


def test_the_gpu_variant_differs_from_the_site_in_the_gpu_alone() -> None:
    """Two definitions of one container would drift apart."""
    services = compose("site.compose.yaml")["services"]
    gpu = {key: value for key, value in services["site-gpu"].items() if key not in ("profiles", "deploy")}
    assert gpu == {key: value for key, value in services["site"].items() if key != "profiles"}
    (device,) = services["site-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_every_variable_of_a_compose_file_stands_in_its_example() -> None:
    """An operator fills in the example; a variable that is missing there is found only when it fails."""
    for name in ("site", "coordinator"):
        used = set(re.findall(r"\$\{(\w+)", (DOCKER / f"{name}.compose.yaml").read_text()))
        shown = set(re.findall(r"^#?(\w+)=", (DOCKER / f"{name}.env.example").read_text(), re.MULTILINE))
        assert used == shown - {"COMPOSE_PROFILES"}


def test_the_containers_site_file_is_one(tmp_path: Path) -> None:
    """The demo's site file is the one that provision writes, with the containers' paths: all absolute, all mounted."""
    sample = yaml.safe_load((REPOSITORY / "configs" / "site.yaml").read_text())
    content = container_site(sample)
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    site = load_site(tmp_path / "site.yaml")
    paths = {value for value in vars(site).values() if isinstance(value, Path)}
    paths |= {value for value in vars(site.gateway).values() if isinstance(value, Path)}
    assert not [path for path in paths if path.is_relative_to(tmp_path)], "a path is still relative"
    services = compose("compose.yaml")["services"]
    mounts = {
        volume.split(":")[1]
        for part in ("site", "gateway")
        for volume in (*services[f"hospital-1-{part}"]["volumes"], *services[f"hospital-1-{part}"]["tmpfs"])
        for volume in ([volume] if volume.startswith("hospital-1-") else [f":{volume}"])
    }
    assert not [path for path in paths if not any(path.is_relative_to(mount) for mount in mounts)]
    assert parse_settings(yaml.safe_dump(content), SiteConfig, source="site.yaml").hospital == sample["hospital"]


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("compose.yaml", "coordinator"),
        ("compose.yaml", "hospital-1-gateway"),
        ("coordinator.compose.yaml", "coordinator"),
        ("site.compose.yaml", "gateway"),
    ],
)
def test_the_health_checks_ask_where_health_is_told(name: str, service: str) -> None:
    """A health check of another port would never, or always, be green."""
    content = compose(name)["services"][service]
    *_, option, port = content["command"]
    assert option == "--health-port"
    assert content["healthcheck"]["test"][-1] == f"get:127.0.0.1:{port}/health"
    assert port not in (str(GATEWAY_RUNTIME_PORT), str(COORDINATOR_RUNTIME_PORT))


def test_a_sites_health_check_asks_its_socket() -> None:
    """It has no network at all."""
    site = compose("compose.yaml")["services"]["hospital-1-site"]
    assert site["healthcheck"]["test"][-1] == "unix:/run/fedward/site.sock"


def test_the_image_makes_the_users_that_the_compose_files_name() -> None:
    """The numbers stand in both, since files on volumes carry them."""
    text = (DOCKER / "Dockerfile").read_text()
    made = dict(re.findall(r"useradd --uid (\d+) .* (fedward-\w+)$", text.replace(" \\\n", "\n"), re.MULTILINE))
    assert {name: int(number) for number, name in made.items()} == {
        "fedward-coordinator": COORDINATOR.user,
        "fedward-site": SITE.user,
        "fedward-gateway": GATEWAY.user,
    }


def test_the_images_context_is_a_list_of_what_goes_in() -> None:
    """Whatever else lies in the folder (a federation's keys, data, results) stays out of every image."""
    lines = [
        line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert lines[0] == "*"
    for line in lines[1:]:
        assert line == "**/__pycache__" or (line.startswith("!") and (REPOSITORY / line[1:]).exists()), line


def settings(unit: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_the_units_run_as_three_users() -> None:
    """Two per site, and the gateway alone is in the socket's group."""
    names = {unit: settings(f"fedward-{unit}.service")["User"] for unit in ("site", "gateway", "coordinator")}
    assert names == {unit: [f"fedward-{unit}"] for unit in names}
    assert settings("fedward-gateway.service")["SupplementaryGroups"] == ["fedward-socket"]
    assert "SupplementaryGroups" not in settings("fedward-site.service")
    sysusers = (UNITS / "fedward.sysusers.conf").read_text()
    assert set(re.findall(r"^u (\S+)", sysusers, re.MULTILINE)) == {
        user for values in names.values() for user in values
    }


def test_the_site_unit_has_no_network() -> None:
    """Neither a route nor a kind of socket but Unix ones; the gateway and the coordinator have."""
    site = settings("fedward-site.service")
    assert (site["PrivateNetwork"], site["RestrictAddressFamilies"]) == (["yes"], ["AF_UNIX"])
    for unit in ("gateway", "coordinator"):
        assert "PrivateNetwork" not in settings(f"fedward-{unit}.service")


HARDENING: dict[str, str] = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
    "RestrictSUIDSGID": "yes",
    "PrivateDevices": "yes",
}


@pytest.mark.parametrize("unit", ["site", "gateway", "coordinator"])
def test_every_unit_is_hardened(unit: str) -> None:
    """The same for all three."""
    found = settings(f"fedward-{unit}.service")
    assert {key: found.get(key) for key in HARDENING} == {key: [value] for key, value in HARDENING.items()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", ["site", "gateway", "coordinator"])
def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    """A misspelt setting is a warning that nobody reads, and protects nothing; the control misspells one."""
    path = tmp_path / f"fedward-{unit}.service"
    # The command of the unit is not installed where tests run; everything else is verified as it is.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (UNITS / path.name).read_text(), flags=re.MULTILINE)

    def complaints(content: str) -> str:
        path.write_text(content)
        command = ["systemd-analyze", "verify", "--man=no", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- ours
        return "\n".join(line for line in result.stderr.splitlines() if path.name in line or str(tmp_path) in line)

    assert complaints(text) == ""
    assert "ProtectSytem" in complaints(text.replace("ProtectSystem=", "ProtectSytem="))


def test_the_command_that_reads_a_passphrase_is_the_units_own() -> None:
    """An addition has to name the whole command again, and would drift from the unit's."""
    empty, command = settings("fedward-site-passphrase.conf")["ExecStart"]
    assert empty == ""
    assert [command] == [
        f"{own} --passphrase-file /etc/fedward/passphrase" for own in settings("fedward-site.service")["ExecStart"]
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("drop_in", ["gpu", "passphrase"])
def test_systemd_understands_the_units_additions(drop_in: str, tmp_path: Path) -> None:
    """Read together with the unit; the control has a misspelt setting, and a command beside the unit's own."""
    unit = tmp_path / "fedward-site.service"
    unit.write_text(
        re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (UNITS / unit.name).read_text(), flags=re.MULTILINE)
    )
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    text = re.sub(
        r"^ExecStart=\S+",
        "ExecStart=/bin/true",
        (UNITS / f"fedward-site-{drop_in}.conf").read_text(),
        flags=re.MULTILINE,
    )

    def complaints(content: str) -> str:
        (folder / f"{drop_in}.conf").write_text(content)
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        result = subprocess.run(  # noqa: S603 -- ours
            command, capture_output=True, text=True, check=False, env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
        )
        return "\n".join(line for line in result.stderr.splitlines() if "fedward" in line or str(tmp_path) in line)

    assert complaints(text) == ""
    assert complaints(text.replace("ExecStart=\n", "") + "DevicePolcy=closed\nExecStart=/bin/true\n")


def test_no_file_names_a_registry() -> None:
    """Where packages and images come from is the operator's setting, not ours."""
    pattern: Callable[[str], object] = re.compile(
        # Names below .example are nobody's: the sample of a proxy.
        r"https?://(?![\w.-]+\.example(?![\w.-]))|\b(?:ghcr|quay|docker)\.io\b"
    ).search
    texts = [path for folder in (DOCKER, UNITS) for path in folder.rglob("*") if path.is_file()]
    assert len(texts) > 10
    assert [path.name for path in texts if pattern(path.read_text(encoding="utf-8"))] == []
    assert pattern("RUN pip install --index-url https://packages.example.org/simple")


def test_the_script_says_in_one_line_that_docker_is_missing(tmp_path: Path) -> None:
    """With no engine behind the socket, or no docker command at all: nothing is built, nothing is started."""
    result = subprocess.run(  # noqa: S603 -- our own script
        [REPOSITORY / "scripts" / "compose_demo.sh"],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "DOCKER_HOST": f"unix://{tmp_path}/no.sock",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("compose_demo: Docker with compose is needed: ")
