"""`fedward-client doctor`: each check passes on a sound site and fails on its own mistake, and on that alone."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.cli import main as client_main
from client.doctor_finding import Finding, Verdict, examine
from client.doctor_machine import clock, disk, exact_pins, kernel_clock, memory, python_allowed, validity_of, versions
from client.doctor_network import certificate, coordinator_port, gateway_files, runtime_port, says_connected
from client.doctor_proxy import excepted
from client.key_ceremony import epoch_key_name
from client.keygen import VAULT, VAULT_KEY, make_site
from client.ledger import Ledger
from client.ledger_cap import Cap
from client.vault import Vault
from client.vault_lock import read_key_file
from common.config import load_settings
from common.errors import AddressInUse, ConfigError, KeyFileError
from common.plan import Plan
from common.site_config import GatewaySettings, load_site
from scripts.certificates import TlsFiles, _authority_certificate, _server_certificate, write_tls
from tests.support.flower_federation import environment, free_port, wait_until
from tests.support.proxies import ConnectProxy
from tests.support.site_keys import site_identity, site_vault
from tests.support.small_federation import NAMES, provision_small, template

OURS = NAMES[0]
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NEWEST = "and it lacks none that this site and its peers have seen"


@pytest.fixture
def site(base: Path, tmp_path: Path) -> Path:
    """The folder of one hospital, which a test may spoil."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path / "federation" / OURS


def doctor(capsys: pytest.CaptureFixture[str], site: Path, *words: str) -> tuple[int, str]:
    """The command; its exit status and what it printed."""
    before, status = sys.argv, 0
    sys.argv = ["fedward-client", "doctor", "--config", str(site / f"{OURS}.yaml"), *words]
    capsys.readouterr()
    try:
        client_main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before
    return status, capsys.readouterr().out


def rows(capsys: pytest.CaptureFixture[str], site: Path, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The same as JSON: exit status, and each check's row by name."""
    status, said = doctor(capsys, site, "--json", *words)
    return status, {row["name"]: row for row in json.loads(said)["checks"]}


def change(site: Path, **changes: Any) -> None:  # noqa: ANN401 -- YAML values
    """Replace some keys of the site file; a mapping replaces some keys of its section."""
    path = site / f"{OURS}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


# The command.


def test_a_sound_site_passes_every_check_of_its_part(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before its first start, and without a coordinator: a site service needs no network."""
    status, seen = rows(capsys, site, "--part", "site")
    assert status == 0
    assert {name for name, row in seen.items() if row["status"] != "pass"} <= {"clock"}
    assert {"vault", "plan", "CKKS key", "data", "ledger", "state folder", "device", "memory", "disk"} <= set(seen)
    assert seen["data"]["seen"].startswith("12 images of 12 images: 6 dark, 6 light; ")
    assert not (site / "state").exists()
    assert not (site / "ledger.sqlite").exists()


def test_lines_and_json_say_the_same(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per check; a failed one says what to do."""
    shutil.rmtree(site / "approvals")
    _, found = rows(capsys, site, "--part", "site")
    status, text = doctor(capsys, site, "--part", "site")
    lines = text.splitlines()
    assert (status, lines[-1]) == (2, f"1 of {len(found)} checks failed")
    for line, row in zip(lines[:-1], found.values(), strict=True):
        assert line.startswith(f"{row['status']}  {row['name']}: ")
        if row["name"] not in ("clock", "memory", "disk"):
            assert line == f"{row['status']}  {row['name']}: {row['seen']}" + (
                f"; {row['advice']}" * bool(row["advice"])
            )


def test_a_site_file_that_cannot_be_read_is_a_finding_too(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions are still looked at: a wrong one may be the cause."""
    change(site, device="abacus")
    status, found = rows(capsys, site)
    assert status == 2
    assert {name: row["status"] for name, row in found.items()} == {"site file": "fail", "versions": "pass"}
    assert "device: seen 'abacus'" in found["site file"]["seen"]


def test_a_check_that_breaks_is_a_finding() -> None:
    """So a damaged library in one check does not hide what the others see."""

    def look() -> Verdict:
        return Verdict("pass", str(1 // 0))

    found = examine("sum", look)
    assert found.failed
    assert "ZeroDivisionError" in found.line()


# One mistake, one failed check.


def open_state(site: Path) -> str:
    """Replies and model state that every user can read."""
    (site / "state").mkdir(mode=0o755)
    return "state folder"


def open_vault(site: Path) -> str:
    """A vault that others can read."""
    (site / "vault").chmod(0o644)
    return "vault"


def other_key_file(site: Path) -> str:
    """Another hospital's."""
    shutil.copy(site.parent / NAMES[1] / "vault.key", site / "vault.key")
    return "vault"


def other_hospitals_vault(site: Path) -> str:
    """A vault from another hospital, with its key file."""
    for name in ("vault", "vault.key"):
        shutil.copy(site.parent / NAMES[1] / name, site / name)
    return "vault"


def new_keys(site: Path) -> str:
    """Keygen was run again after the card was sent: the roster has the old keys."""
    made = site.parent / "again"
    make_site(made, hospital=OURS, declared_units=6, passphrase=None)
    for name in (VAULT, VAULT_KEY):
        shutil.copy(made / name, site / name)
    return "CKKS key"


def changed_plan(site: Path) -> str:
    """A plan that was not approved."""
    content = yaml.safe_load((site / "plan.yaml").read_text())
    content["privacy"]["epsilon"] = 9.0
    (site / "plan.yaml").write_text(yaml.safe_dump(content))
    return "plan"


def greedy_policy(site: Path) -> str:
    """More hospitals than there are."""
    change(site, privacy={"min_cohort": 50})
    return "plan"


def no_data(site: Path) -> str:
    """A folder that is not mounted."""
    change(site, data="nowhere")
    return "data"


def other_class(site: Path) -> str:
    """A class folder that the plan does not name."""
    (site.parents[1] / "shards" / OURS / "grey").mkdir()
    return "data"


def damaged_ledger(site: Path) -> str:
    """A file that is no ledger any more."""
    (site / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4096))
    (site / "ledger.sqlite").chmod(0o600)
    return "ledger"


def other_source(site: Path) -> str:
    """The ledger was begun for another data source."""
    ledger(site, source="archive").close()
    return "ledger"


def ledger(site: Path, *, source: str = "images") -> Ledger:
    """Open a site's ledger, or begin it."""
    cap = Cap(epsilon=8.0, delta=1e-5)
    return Ledger(site / "ledger.sqlite", hospital=OURS, source=source, identity=site_identity(site), cap=cap)


MISTAKES = [
    open_state,
    open_vault,
    other_key_file,
    other_hospitals_vault,
    new_keys,
    changed_plan,
    greedy_policy,
    no_data,
    other_class,
    damaged_ledger,
    other_source,
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_own_check_and_says_what_to_do(
    mistake: Callable[[Path], str], site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control is the sound site, which fails none; what needs the spoilt thing says that it was not looked at."""
    name = mistake(site)
    status, found = rows(capsys, site, "--part", "site")
    assert status == 2
    failed = {row["name"] for row in found.values() if row["status"] == "fail"}
    # With other keys the ledger, which the old ones signed, would fail as well; there is none yet.
    assert failed == {name}, found
    assert found[name]["advice"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_fails(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` is the control: it takes what there is."""
    change(site, device="cuda")
    status, found = rows(capsys, site, "--part", "site")
    assert (status, found["device"]["status"]) == (2, "fail")
    change(site, device="auto")
    status, found = rows(capsys, site, "--part", "site")
    assert (status, found["device"]["status"]) == (0, "pass")
    assert "means the CPU here" in found["device"]["seen"]


def test_a_key_that_was_not_dealt_yet_is_no_failure(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A site that joined as real hospitals do has none before the first run."""
    vault, plan = site_vault(site), load_settings(site / "plan.yaml", Plan)
    held = {name: secret for name, secret in vault._held.items() if name != epoch_key_name(plan.digest, 1)}
    assert len(held) == len(vault._held) - 1
    (site / VAULT).unlink()
    Vault.create(site / VAULT, hospital=OURS, unlock=read_key_file(site / VAULT_KEY), held=held)
    status, found = rows(capsys, site, "--part", "site")
    assert (status, found["CKKS key"]["status"]) == (0, "note")
    assert "not dealt to this site yet" in found["CKKS key"]["seen"]


def test_what_is_left_out_of_the_data_is_counted_and_not_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator sends these lines to others: no name of a file may stand in them."""
    folder = site.parents[1] / "shards" / OURS / "dark"
    patient = "patient-4711"
    shutil.copy(next(folder.glob("*.png")), folder / f"{patient}.png")
    (folder / f"{patient}-broken.png").write_bytes(b"no image")
    (folder / f"{patient}.txt").write_text("notes")
    status, text = doctor(capsys, site, "--part", "site")
    assert status == 0
    assert "left out: 1 duplicate, 1 not an image, 1 undecodable" in text
    assert patient not in text


def test_units_are_counted_by_the_column_of_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The finding names unit and column; a blank cell fails it, by column and line alone."""
    provision_small(tmp_path, template(privacy={"unit": "patient"}))
    site, data = tmp_path / "federation" / OURS, tmp_path / "shards" / OURS
    change(site, patient_column="who")
    images = sorted(data.glob("*/*.png"))
    lines = [f"{path.relative_to(data).as_posix()},{path.parent.name},Jane-{n // 2}" for n, path in enumerate(images)]
    (data / "index.csv").write_text("\n".join(("path,label,who", *lines)) + "\n")
    status, seen = rows(capsys, site, "--part", "site")
    assert status == 0
    assert seen["data"]["seen"].startswith(f"{len(images)} images of {len(images) // 2} patients by the column 'who':")
    (data / "index.csv").write_text(
        "\n".join(("path,label,who", *lines[:-1], lines[-1].rpartition(",")[0] + ",")) + "\n"
    )
    status, seen = rows(capsys, site, "--part", "site")
    assert status == 2
    assert seen["data"]["status"] == "fail"
    assert f"index.csv line {len(lines) + 1}: the column 'who' is blank" in seen["data"]["seen"]
    assert "Jane" not in str(seen["data"])


def test_a_ledger_that_is_held_is_told_from_a_damaged_one(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By this site's running service: all is well. By anything else: the site could not start."""
    other = ledger(site)
    try:
        status, found = rows(capsys, site, "--part", "site")
        assert (status, found["ledger"]["status"]) == (2, "fail")
        assert "is held by another process" in found["ledger"]["seen"]
    finally:
        other.close()
    argv = [sys.executable, "-m", "client", "service", "--config", str(site / f"{OURS}.yaml")]
    with (site / "service.log").open("wb") as log:
        service = subprocess.Popen(argv, env=environment(), stdout=log, stderr=log)  # noqa: S603 -- our own command
    try:
        wait_until((site / "site.sock").exists, "site service")
        status, found = rows(capsys, site, "--part", "site")
        assert status == 0
        assert found["ledger"]["seen"].endswith(f"; held by this site's running service (process {service.pid})")
        assert found["state folder"]["status"] == "pass"
    finally:
        service.terminate()
        service.wait(timeout=30)
    status, found = rows(capsys, site, "--part", "site")
    assert (status, found["ledger"]["seen"]) == (0, f"0 entries, {NEWEST}; epsilon 0.0000 of 8 spent at delta 1e-05")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_state_folder_of_another_user_fails(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What root sees who runs the doctor in place of the site's user."""
    (site / "state").mkdir(mode=0o700)
    os.chown(site / "state", 10002, 10002)
    _, found = rows(capsys, site, "--part", "site")
    assert found["state folder"]["status"] == "fail"
    assert "run the doctor as the site's user" in found["state folder"]["advice"]


# The gateway's part.


def test_the_gateways_part_needs_nothing_of_the_site(site: Path) -> None:
    """Its user, or its container, has the site file and its own folder; its image has no torch, TenSEAL or Pillow."""
    for entry in site.iterdir():
        if entry.name not in ("gateway", f"{OURS}.yaml"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    change(site, gateway={"superlink": f"127.0.0.1:{free_port()}"})
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'tenseal', 'PIL', 'opacus', 'dp_accounting', 'Crypto'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import typer\n"
        "from client.doctor import doctor\n"
        "typer.run(doctor)\n"
    )
    argv = [sys.executable, "-c", code, "--config", str(site / f"{OURS}.yaml"), "--json"]
    seen = {}
    for part in ("gateway", "site"):
        done = subprocess.run(  # noqa: S603 -- our own command
            [*argv, "--part", part], env=environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode in (1, 2), done.stderr
        seen[part] = done
    found = {row["name"]: row["status"] for row in json.loads(seen["gateway"].stdout)["checks"]}
    assert {name for name, status in found.items() if status == "fail"} == {"coordinator"}
    assert (found["certificate"], found["node key"]) == ("note", "note")
    # The control: the site's part does not even start like this.
    assert "ModuleNotFoundError" in seen["site"].stderr


def settings(folder: Path, files: TlsFiles, superlink: str) -> GatewaySettings:
    """A gateway that trusts an authority."""
    return GatewaySettings(
        superlink=superlink,
        root_certificates=files.root_certificates,
        node_key=folder / "node.key",
        superexec_secret=folder / "superexec.secret",
        runtime_port=free_port(),
        folder=folder / "work",
    )


@contextmanager
def listening(answer: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[str]:
    """A server on loopback that answers each connection; its address."""
    with socket.create_server((host, 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # the listener is closed at the end
                while True:
                    connection, _ = server.accept()
                    with suppress(OSError), connection:
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{host}:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def tls(files: TlsFiles) -> Callable[[socket.socket], None]:
    """Shows a certificate, as the coordinator does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.certificate_key)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    return answer


def hang_up(connection: socket.socket) -> None:
    """What a proxy does that wants another protocol."""
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def tls_files(folder: Path, *, valid_days: int = 365) -> TlsFiles:
    """An authority and a server certificate for localhost and 127.0.0.1."""
    folder.mkdir()
    return write_tls(folder, [], valid_days=valid_days)


def named_otherwise(folder: Path) -> TlsFiles:
    """A certificate that does not name localhost."""
    files = tls_files(folder)
    validity = (dt.datetime.now(dt.UTC) - DAY, dt.datetime.now(dt.UTC) + DAY)
    authority_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = _authority_certificate(authority_key, validity)
    server = _server_certificate(key, authority, authority_key, names=("coordinator.example.org",))
    files.root_certificates.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    files.certificate_key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def look(folder: Path, files: TlsFiles, superlink: str) -> Verdict:
    """What the doctor says of a coordinator's certificate now."""
    return certificate(settings(folder, files, superlink), now=dt.datetime.now(dt.UTC))


def test_a_certificate_of_the_sites_authority_for_this_host_passes(tmp_path: Path) -> None:
    """The control of all that follows; by address and by name."""
    files = tls_files(tmp_path / "tls")
    with listening(tls(files)) as address:
        for superlink in (address, address.replace("127.0.0.1", "localhost")):
            verdict = look(tmp_path, files, superlink)
            assert verdict.status == "pass", verdict
            assert "TLSv1.3" in verdict.seen


@pytest.mark.parametrize(
    ("valid_days", "status", "seen"), [(0, "fail", "has expired"), (20, "note", "19 days are left")]
)
def test_a_certificate_that_ended_fails_and_one_that_ends_soon_is_said(
    tmp_path: Path, valid_days: int, status: str, seen: str
) -> None:
    """The first is told from one of another authority, the second in time to make another."""
    files = tls_files(tmp_path / "tls", valid_days=valid_days)
    with listening(tls(files)) as address:
        verdict = look(tmp_path, files, address)
    assert verdict.status == status
    assert seen in verdict.seen


def test_a_certificate_for_another_host_fails(tmp_path: Path) -> None:
    """By name and by address."""
    files = named_otherwise(tmp_path / "tls")
    with listening(tls(files)) as address:
        verdict = look(tmp_path, files, address.replace("127.0.0.1", "localhost"))
    assert verdict.status == "fail"
    assert "is not for the name localhost" in verdict.seen
    ours = tls_files(tmp_path / "ours")
    with listening(tls(ours), host="127.0.0.2") as address:
        verdict = look(tmp_path, ours, address)
    assert verdict.status == "fail"
    assert "is not for the name 127.0.0.2" in verdict.seen


def test_a_certificate_of_another_authority_fails(tmp_path: Path) -> None:
    """A man in the middle, or the ca.crt of another federation."""
    ours, theirs = tls_files(tmp_path / "ours"), tls_files(tmp_path / "theirs")
    with listening(tls(theirs)) as address:
        verdict = look(tmp_path, ours, address)
    assert verdict.status == "fail"
    assert f"{ours.root_certificates} did not sign" in verdict.seen


def test_a_server_without_tls_fails(tmp_path: Path) -> None:
    """The wrong port, or a proxy."""
    with listening(hang_up) as address:
        verdict = look(tmp_path, tls_files(tmp_path / "tls"), address)
    assert verdict.status == "fail"
    assert "does not speak TLS" in verdict.seen


def test_a_coordinator_is_reached_or_not(tmp_path: Path) -> None:
    """Something listens, nothing listens, no such name."""
    files = tls_files(tmp_path / "tls")
    with listening(hang_up) as address:
        assert coordinator_port(settings(tmp_path, files, address)).status == "pass"
    refused = coordinator_port(settings(tmp_path, files, f"127.0.0.1:{free_port()}"))
    assert refused.status == "fail"
    assert "Connection refused" in refused.seen
    unknown = coordinator_port(settings(tmp_path, files, "coordinator.invalid:9092"))
    assert unknown.status == "fail"


def test_the_gateways_own_port_is_free_or_taken(tmp_path: Path) -> None:
    """A port in use is named before anything starts."""
    ours = settings(tmp_path, tls_files(tmp_path / "tls"), "127.0.0.1:9092")
    assert runtime_port(ours).status == "pass"
    with listening(hang_up) as address:
        taken = ours.model_copy(update={"runtime_port": int(address.rpartition(":")[2])})
        with pytest.raises(AddressInUse, match="cannot be used"):
            runtime_port(taken)


def test_the_gateways_files_are_its_own(site: Path) -> None:
    """Modes, sizes, and an authority that is one."""
    gateway = load_site(site / f"{OURS}.yaml").gateway
    assert gateway_files(gateway).status == "pass"
    gateway.node_key.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode is 0640"):
        gateway_files(gateway)
    gateway.node_key.chmod(0o600)
    gateway.superexec_secret.write_bytes(b"short")
    with pytest.raises(KeyFileError, match="holds 5 bytes"):
        gateway_files(gateway)


def test_a_log_tells_of_a_connection_since_the_last_start(tmp_path: Path) -> None:
    """Also across files that were rotated away; an earlier start's connection counts for nothing."""
    start, connected = "INFO : Starting Flower SuperNode\n", "INFO : SuperNode ID: 17\n"
    log = tmp_path / "supernode.log"
    for newest, older, expected in (
        (start + connected, None, True),
        (start + connected + start, None, False),
        ("Received successfully\n", start + connected, True),
        (start, start + connected, False),
        (connected, start, True),
        ("Received successfully\n", start, False),
    ):
        log.write_text(newest)
        if older is not None:
            (tmp_path / "supernode.log.1").write_text(older)
        assert says_connected(log) is expected, (newest, older)


# Through a proxy.

PROXY_WORDS = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")
# Nobody but the proxy knows this name.
BEHIND_PROXY = "coordinator.fedward.invalid"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No proxy but the test's own."""
    for name in PROXY_WORDS:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def behind_proxy(folder: Path) -> TlsFiles:
    """Authority and certificate of a coordinator with that name."""
    folder.mkdir()
    return write_tls(folder, [BEHIND_PROXY], valid_days=365)


def proxied(folder: Path, files: TlsFiles, port: int) -> tuple[Finding, Finding]:
    """What the doctor says of a coordinator with that name: reached or not, and its certificate."""
    gateway = settings(folder, files, f"{BEHIND_PROXY}:{port}")
    return (
        examine("coordinator", lambda: coordinator_port(gateway)),
        examine("certificate", lambda: certificate(gateway, now=dt.datetime.now(dt.UTC))),
    )


def test_a_coordinator_behind_an_http_proxy_passes(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    """Name and certificate are the coordinator's; without the proxy, the control, nobody knows the name."""
    files = behind_proxy(tmp_path / "tls")
    with listening(tls(files)) as address:
        port = int(address.rpartition(":")[2])
        with ConnectProxy(tmp_path / "proxy.log", port) as proxy:
            assert proxied(tmp_path, files, port)[0].verdict.seen == f"no address is known for {BEHIND_PROXY}"
            assert proxy.asked == []
            clean_environment.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            reached, trusted = proxied(tmp_path, files, port)
            assert (reached.verdict.status, trusted.verdict.status) == ("pass", "pass"), (reached, trusted)
            assert f"through the proxy 127.0.0.1:{proxy.port} (https_proxy)" in reached.verdict.seen
            assert proxy.asked == [f"CONNECT {BEHIND_PROXY}:{port} HTTP/1.1"] * 2
            # An exception leads past it.
            clean_environment.setenv("no_proxy", "intranet.example, fedward.invalid")
            assert proxied(tmp_path, files, port)[0].failed
            assert len(proxy.asked) == 2


def test_another_authority_behind_the_proxy_fails(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    """A proxy that opens TLS shows a certificate of its own."""
    ours, theirs = behind_proxy(tmp_path / "ours"), behind_proxy(tmp_path / "theirs")
    with listening(tls(theirs)) as address:
        port = int(address.rpartition(":")[2])
        with ConnectProxy(tmp_path / "proxy.log", port) as proxy:
            clean_environment.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            reached, trusted = proxied(tmp_path, ours, port)
    assert (reached.verdict.status, trusted.verdict.status) == ("pass", "fail")
    assert "did not sign" in trusted.verdict.seen


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "opens no tunnel to coordinator.fedward.invalid:9092 (403)"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants a name and a password (407)"),
        (b"220 mail.example ESMTP\r\n\r\n", "does not answer like an HTTP proxy"),
        (b"", "does not answer like an HTTP proxy"),
    ],
)
def test_a_proxy_that_opens_no_tunnel_fails_and_its_password_is_not_told(
    answer: bytes, seen: str, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    """The proxy is asked as gRPC asks it: with the password that its address holds."""
    asked = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(1 << 12))
        connection.sendall(answer)

    with listening(refuse) as address:
        clean_environment.setenv("http_proxy", f"http://clinic:s%40cret@{address}")
        reached, _ = proxied(tmp_path, behind_proxy(tmp_path / "tls"), 9092)
    assert reached.failed
    assert seen in reached.verdict.seen
    assert reached.verdict.advice
    assert "cret" not in reached.line()
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"clinic:s@cret") in asked[0]


def test_a_proxy_that_is_down_fails(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    """It is told from a coordinator that is down."""
    clean_environment.setenv("grpc_proxy", f"http://127.0.0.1:{free_port()}")
    reached, _ = proxied(tmp_path, behind_proxy(tmp_path / "tls"), 9092)
    assert reached.failed
    assert "(grpc_proxy) cannot be reached (Connection refused)" in reached.verdict.seen


@pytest.mark.parametrize("value", ["https://127.0.0.1:3128", "127.0.0.1:3128", "proxy", "http://", "http://[::1:9"])
def test_a_proxy_that_grpc_ignores_is_named(value: str, tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> None:
    """It connects directly then; 127.0.0.2 is no exception as 127.0.0.1 is."""
    files = tls_files(tmp_path / "tls")
    clean_environment.setenv("https_proxy", value)
    with listening(tls(files), host="127.0.0.2") as address:
        verdict = coordinator_port(settings(tmp_path, files, address))
    assert verdict.status == "note"
    assert "gRPC ignores https_proxy" in verdict.advice
    verdict = coordinator_port(settings(tmp_path, files, f"{BEHIND_PROXY}:9092"))
    assert verdict.status == "fail"
    assert "gRPC ignores https_proxy" in verdict.advice


def test_exceptions_are_read_as_grpc_reads_them() -> None:
    """By ending or by network; `no_grpc_proxy` counts before `no_proxy`."""
    for host, entries, expected in (
        ("a.clinic.example", "127.0.0.1, .Clinic.example", True),
        ("a.clinic.example", "clinic.example.org", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "11.0.0.0/8,10.1.2", False),
        ("a.clinic.example", "10.0.0.0/8,x/y,", False),
    ):
        assert excepted(host, {"no_proxy": entries}) is expected, (host, entries)
    assert not excepted("a.example", {"no_grpc_proxy": "b.example", "no_proxy": "a.example"})


# The machine.


def test_the_installed_versions_are_the_pinned_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function on an installation whose pins are others."""
    assert versions(site=True).status == "pass"
    other = tmp_path / "fedward-9.9.dist-info"
    other.mkdir()
    needs = ("flwr==1.0.0", "numpy>=2", 'opacus==0.1; extra == "site"', 'no-such-package==1; extra == "site"')
    lines = ("Metadata-Version: 2.1", "Name: fedward", "Version: 9.9", "Requires-Python: <3.11")
    (other / "METADATA").write_text("\n".join((*lines, *(f"Requires-Dist: {need}" for need in needs), "")))
    monkeypatch.syspath_prepend(tmp_path)
    whole, gateway = versions(site=True), versions(site=False)
    assert (whole.status, gateway.status) == ("fail", "fail")
    for said in (
        "Python 3.11",
        "not <3.11",
        "flwr 1.39.0, not 1.0.0",
        "opacus 1.6.0, not 0.1",
        "no-such-package is missing",
    ):
        assert said in whole.seen
    assert "opacus" not in gateway.seen


def test_pins_and_ranges_are_read_as_they_are_written() -> None:
    """Only `==` is a pin; the site's extra counts for the site."""
    needs = ["flwr==1.39.0", "rich<15,>=13", 'tenseal==0.3.18; extra == "site"', 'ruff==1; extra == "dev"']
    assert exact_pins(needs, site=False) == {"flwr": "1.39.0"}
    assert exact_pins(needs, site=True) == {"flwr": "1.39.0", "tenseal": "0.3.18"}
    assert [python_allowed(version, "<3.12,>=3.11") for version in ((3, 10), (3, 11), (3, 12))] == [False, True, False]


def test_the_clock_must_lie_within_the_authoritys_validity(tmp_path: Path) -> None:
    """A day of skew is far outside of a new certificate's first hour; the kernel's word alone fails nobody."""
    validity = (NOW - DAY, NOW + DAY)
    assert clock("synchronised", NOW, validity).status == "pass"
    assert clock("synchronised", NOW, None).status == "pass"
    for now in (NOW - 2 * DAY, NOW + 2 * DAY):
        verdict = clock("synchronised", now, validity)
        assert verdict.status == "fail"
        assert "set the clock right" in verdict.advice
    assert clock("free-running", NOW, validity).status == "note"
    assert clock("unknown", NOW, validity).status == "note"
    assert kernel_clock() in ("synchronised", "free-running", "unknown")
    start, end = validity_of(tls_files(tmp_path / "tls", valid_days=3).root_certificates)
    assert (end - start) == 3 * DAY + dt.timedelta(hours=1)
    (tmp_path / "empty.crt").write_text("nothing")
    for path in (tmp_path / "empty.crt", tmp_path / "nowhere.crt"):
        with pytest.raises(ConfigError, match=r"ask the coordinator for its ca\.crt"):
            validity_of(path)


def test_memory_is_this_machines_or_this_containers(tmp_path: Path) -> None:
    """A container's limit is what its processes are killed by."""
    assert memory(0, cgroup=tmp_path).status == "pass"
    assert memory(1 << 60, cgroup=tmp_path).status == "fail"
    for name, content in (("memory.max", "1000000\n"), ("memory.current", "900000\n")):
        (tmp_path / name).write_text(content)
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")
    assert memory(600_000, cgroup=tmp_path).status == "pass"
    limited = memory(600_001, cgroup=tmp_path)
    assert limited.status == "fail"
    assert "this container" in limited.seen
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(600_001, cgroup=tmp_path).status == "pass"


def test_disk_is_looked_at_where_a_folder_will_be(tmp_path: Path) -> None:
    """Before it is made."""
    assert disk({tmp_path / "a" / "b": 0}).status == "pass"
    short = disk({tmp_path: 0, tmp_path / "a": 1 << 60})
    assert short.status == "fail"
    assert str(tmp_path / "a") in short.seen
    assert not (tmp_path / "a").exists()
