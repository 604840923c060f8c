"""`keygen`, `provision --cards` and `approve`: what a hospital and an organiser can do wrong, one sentence each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torchvision
import yaml
from safetensors.torch import save_file

from client.cli import main as client_main
from client.data.source import DataPlace
from client.declare import site_units
from client.keygen import make_site, read_card
from client.plan_in_words import plan_in_words
from common.errors import AlreadyExists, ConfigError
from common.kit import CERTIFICATES, KIT_FILES, PLAN, read_kit
from common.plan import Plan
from common.site_config import load_site
from scripts.cli import main as fedward_main
from tests.support.small_federation import TEMPLATE, write_images

NAMES = ("hospital-1", "hospital-2", "hospital-3")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals' keys and cards, two organisations of them, and images."""
    folder = tmp_path_factory.mktemp("kits")
    (folder / "cards").mkdir()
    for name in NAMES:
        made = make_site(folder / name, hospital=name, declared_units=12, passphrase=None)
        shutil.copy(made.card_path, folder / "cards")
    (folder / "template.yaml").write_text(yaml.safe_dump(TEMPLATE))
    write_images(folder / "data", per_class=6, seed=0)
    for out in ("first", "second"):
        assert run(fedward_main, "fedward", *organise(folder, out)) == 0
    return folder


@pytest.fixture
def site(base: Path, tmp_path: Path) -> Path:
    """The folder of hospital-1, without a plan yet."""
    shutil.copytree(base / "hospital-1", tmp_path / "hospital-1")
    return tmp_path / "hospital-1"


def organise(base: Path, out: str, *, cards: str = "cards") -> tuple[str, ...]:
    """Arguments of the organiser's command."""
    return ("provision", str(base / "template.yaml"), "--cards", str(base / cards), "--out", str(base / out))


def run(main: Callable[[], None], *words: str) -> int:
    """A command in this process; its exit status."""
    before = sys.argv
    sys.argv = list(words)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def plan_of(base: Path, organised: str = "first") -> Plan:
    """The agreed plan of one organisation."""
    return Plan.model_validate(yaml.safe_load((base / organised / "plan.yaml").read_text()))


def approve(site: Path, base: Path, kit: Path | None = None, *more: str, organised: str = "first") -> int:
    """Approve a kit without being asked."""
    words = ("--site", str(site), "--data", str(base / "data"), "--cap-epsilon", "8", *more)
    if "--digest" not in more:
        words = (*words, "--digest", plan_of(base, organised).digest)
    path = kit or base / organised / "kits" / "hospital-1.kit.zip"
    return run(client_main, "fedward-client", "approve", str(path), *words)


def test_a_kit_is_taken_in_whole(base: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Site file, plan, certificate, approval; and the plan in plain words before."""
    assert approve(site, base) == 0
    said = capsys.readouterr().out
    for words in (
        "3 hospitals take part",
        "epsilon 8 at delta 1e-05",
        "This site's cap is epsilon 8",
        "not covered yet",
    ):
        assert words in said
    for member in plan_of(base).roster:
        assert member.fingerprint in said
    assert (site / "site.yaml").exists()
    assert (site / "gateway" / "ca.crt").read_bytes() == (base / "first" / "coordinator" / "ca.crt").read_bytes()
    assert [path.stem for path in (site / "approvals").iterdir()] == [plan_of(base).digest]


def test_nothing_is_written_before_the_hospital_agrees(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a keyboard and without the digest, and with a wrong one."""
    before = sorted(path.name for path in site.rglob("*"))
    kit = str(base / "first" / "kits" / "hospital-1.kit.zip")
    words = ("--site", str(site), "--data", str(base / "data"), "--cap-epsilon", "8")
    assert run(client_main, "fedward-client", "approve", kit, *words) == 2
    assert "nobody is at the keyboard" in capsys.readouterr().err
    assert approve(site, base, None, "--digest", "0" * 64) == 2
    assert "nothing was approved" in capsys.readouterr().err
    assert sorted(path.name for path in site.rglob("*")) == before


def test_the_weights_file_of_a_network_is_named_and_checked_before_anything_is_signed(
    base: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, another one, gone at a later approval; the controls are the right one, and a plan that needs none."""
    weights, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    state = torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()
    save_file(state, weights)
    save_file({"a": state["fc.bias"]}, other)
    needed = hashlib.sha256(weights.read_bytes()).hexdigest()
    for digest, out in ((needed, "net"), (hashlib.sha256(other.read_bytes()).hexdigest(), "unfit")):
        organise_network(base, tmp_path, out, weights_sha256=digest)

    def network(*words: str, out: str = "net") -> int:
        kit = tmp_path / out / "kits" / "hospital-1.kit.zip"
        return approve(site, base, kit, "--digest", plan_of(tmp_path, out).digest, *words)

    before = sorted(path.name for path in site.rglob("*"))
    for words, out, sentence in (
        ((), "net", f"--weights: seen none; the plan starts from the weights file with sha256 {needed}"),
        (("--weights", str(tmp_path)), "net", "which is no file"),
        (("--weights", str(other)), "net", "other.safetensors: the weights file has sha256"),
        (("--weights", str(other)), "unfit", "does not fit 'torchvision:shufflenet_v2_x0_5'"),
    ):
        assert network(*words, out=out) == 2
        assert sentence in capsys.readouterr().err
    assert approve(site, base, None, "--weights", str(weights)) == 2
    assert "starts from no weights file; leave it out" in capsys.readouterr().err
    assert sorted(path.name for path in site.rglob("*")) == before
    assert network("--weights", str(weights)) == 0
    named = load_site(site / "site.yaml").weights
    assert named is not None
    assert named.samefile(weights)
    again = ("approve", str(tmp_path / "net" / "kits" / "hospital-1.kit.zip"), "--site", str(site), "--digest")
    digest = plan_of(tmp_path, "net").digest
    assert run(client_main, "fedward-client", *again, digest) == 0
    weights.unlink()
    capsys.readouterr()
    assert run(client_main, "fedward-client", *again, digest) == 2
    assert "the weights file cannot be read (No such file or directory)" in capsys.readouterr().err


def organise_network(base: Path, folder: Path, out: str, *, weights_sha256: str) -> None:
    """Plan and kits of a network that starts from a weights file; the organiser holds none."""
    model = {
        "kind": "network",
        "architecture": "torchvision:shufflenet_v2_x0_5",
        "weights_sha256": weights_sha256,
        "trainable": "head",
        "image_size": 32,
        "views": 1,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    (folder / "template.yaml").write_text(yaml.safe_dump({**TEMPLATE, "model": model}))
    words = ("provision", str(folder / "template.yaml"), "--cards", str(base / "cards"), "--out", str(folder / out))
    assert run(fedward_main, "fedward", *words) == 0


def test_a_later_plan_is_approved_without_repeating_the_choices(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The site file stays as the hospital has it."""
    assert approve(site, base) == 0
    site_file = site / "site.yaml"
    site_file.write_text(site_file.read_text().replace("device: auto", "device: cpu"))
    kit = str(base / "second" / "kits" / "hospital-1.kit.zip")
    digest = plan_of(base, "second").digest
    assert run(client_main, "fedward-client", "approve", kit, "--site", str(site), "--digest", digest) == 0
    assert "device: cpu" in site_file.read_text()
    assert len(list((site / "approvals").iterdir())) == 2
    capsys.readouterr()


def later(base: Path, site: Path, *more: str) -> int:
    """Approve the second kit as the manual says."""
    kit, digest = str(base / "second" / "kits" / "hospital-1.kit.zip"), plan_of(base, "second").digest
    return run(client_main, "fedward-client", "approve", kit, "--site", str(site), "--digest", digest, *more)


def words(base: Path, site: Path, *, unit: Literal["patient", "record"]) -> str:
    """The plan in words for the images beside the site."""
    plan = plan_of(base)
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"unit": unit})})
    privacy = load_site(site / "site.yaml").privacy
    units = site_units(DataPlace(site.parent / "images"), plan)
    return "\n".join(plan_in_words(plan, hospital="hospital-1", privacy=privacy, units=units))


def test_the_unit_of_privacy_is_the_one_that_the_sites_data_gives(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lesion where index.csv names it, else an image; never a patient. And the count beside the declared one."""
    assert approve(site, base) == 0
    said = capsys.readouterr().out
    assert "units to train on (declared: 12)" in said
    assert "patient" not in said
    folder = site.parent / "images"
    shutil.copytree(base / "data", folder)
    assert "Unit of privacy: image: this site's index.csv names no lesions" in words(base, site, unit="patient")
    assert "image: each counts by itself (the plan's unit is 'record')" in words(base, site, unit="record")
    images = sorted(path.relative_to(folder) for path in folder.rglob("*.*") if path.suffix in (".png", ".jpg"))
    rows = [f"{path.as_posix()},{path.parent.name},{path.parent.name}{n // 2}" for n, path in enumerate(images[:-1])]
    (folder / "index.csv").write_text("\n".join(("path,label,lesion_id", *rows)) + "\n")
    said = words(base, site, unit="patient")
    assert "Unit of privacy: lesion: all images of a lesion count as one; not a person" in said
    assert "1 units are without a lesion_id" in said
    assert all(line.isprintable() for line in said.splitlines())


def patients_of(base: Path, folder: Path, column: str) -> Path:
    """A copy of the images whose index.csv names two images of each patient."""
    shutil.copytree(base / "data", folder)
    images = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    rows = [f"{path.as_posix()},{path.parent.name},{path.parent.name}{n // 2}" for n, path in enumerate(images)]
    (folder / "index.csv").write_text("\n".join((f"path,label,{column}", *rows)) + "\n")
    return folder


def test_the_column_of_patients_is_chosen_at_the_first_approval(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the site file, and what is shown before says patient; the control is `auto` with patient_id."""
    plan = plan_of(base)
    with_patients = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"unit": "patient"})})
    for column, named in (("subject", ("--patient-column", "subject")), ("patient_id", ())):
        data = patients_of(base, site.parent / column, column)
        home = site.parent / f"site-{column}"
        shutil.copytree(site, home)
        assert approve(home, base, None, "--data", str(data), *named) == 0
        config = load_site(home / "site.yaml")
        assert config.patient_column == (named[1] if named else "auto")
        units = site_units(DataPlace.of_site(config), with_patients)
        assert (units.kind, units.named, units.patient_column) == ("patient", 6, column)
    capsys.readouterr()


def test_keygen_counts_by_the_column_of_patients(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a hospital declares is its weight: patients, not images, where it says who they are."""
    data = patients_of(base, tmp_path / "images", "subject")
    asked = yaml.safe_load((base / "template.yaml").read_text())
    asked["privacy"]["unit"], asked["data"]["held_out"] = "patient", 0.0
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(asked))
    words = ("keygen", "hospital-9", "--plan", str(tmp_path / "template.yaml"), "--data", str(data))
    for home, more, said in (
        ("a", ("--patient-column", "subject"), "6 training units (patients, by the column 'subject' of index.csv)"),
        ("b", (), "12 training units (images)"),
    ):
        assert run(client_main, "fedward-client", *words, "--site", str(tmp_path / home), *more) == 0
        assert f"which declares {said}, are in" in capsys.readouterr().out


def test_a_column_that_would_count_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A number that is given is taken as it is: whoever names a column beside it would believe that it was counted."""
    words = ("fedward-client", "keygen", "hospital-9", "--units", "6", "--site", str(tmp_path / "a"))
    for column in ("subject", "auto"):
        assert run(client_main, *words, "--patient-column", column) == 2
        assert "--patient-column: counts with --plan and --data only" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert run(client_main, *words) == 0
    assert "which declares 6 training units (as --units says), are in" in capsys.readouterr().out


def test_another_count_than_the_declared_one_is_said_before_the_hospital_agrees(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever forgets the column of patients at approve; the control is the same column at both commands."""
    asked = yaml.safe_load((base / "template.yaml").read_text())
    asked["privacy"]["unit"], asked["data"]["held_out"] = "patient", 0.0
    (site.parent / "template.yaml").write_text(yaml.safe_dump(asked))
    cards, out = str(base / "cards"), site.parent / "first"
    words = ("provision", str(site.parent / "template.yaml"), "--cards", cards, "--out", str(out))
    assert run(fedward_main, "fedward", *words) == 0
    write_images(site.parent / "data", per_class=12, seed=3)
    data = patients_of(site.parent, site.parent / "images", "subject")
    assert (
        site_units(DataPlace(data, patient_column="subject"), plan_of(site.parent)).training == 12
    )  # as its card declares
    for more, is_said in (((), True), (("--patient-column", "subject"), False)):
        home = site.parent / f"site-{is_said}"
        shutil.copytree(site, home)
        capsys.readouterr()
        assert approve(home, site.parent, None, "--data", str(data), *more) == 0
        sentence = "Mind: this site declared 12 training units to keygen, its data has 24; units were counted here by "
        assert (sentence + "patient_column auto: if keygen was" in capsys.readouterr().out) == is_said


def test_the_plan_in_words_says_who_recomputes_sums(base: Path, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In either mode: what a hospital gets of the others, and what it may rely on."""
    assert approve(site, base) == 0
    assert "Every hospital recomputes each sum before it decrypts it" in capsys.readouterr().out
    plan, privacy = plan_of(base), load_site(site / "site.yaml").privacy
    sampled = plan.model_copy(update={"encryption": plan.encryption.model_copy(update={"verification": "sampled"})})
    said = "\n".join(plan_in_words(sampled, hospital="hospital-1", privacy=privacy, units=None))
    assert "verification is sampled: every part of a sum is recomputed by 2 hospitals" in said


def test_a_later_approval_goes_on_where_the_images_cannot_be_counted(
    base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever approves need not have the right to them; then what decides the unit is said."""
    assert approve(site, base) == 0
    path = site / "site.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"data": "nowhere"}))
    capsys.readouterr()
    assert later(base, site) == 0
    said = capsys.readouterr()
    assert "this site's data was not counted" in said.err
    assert "This site declared 12 units to train on; its data was not counted." in said.out


def test_a_later_kit_goes_where_the_site_file_says(base: Path, site: Path) -> None:
    """Plan, certificate and approvals were moved by the hospital; owner and mode stay as they were."""
    assert approve(site, base) == 0
    path = site / "site.yaml"
    content = yaml.safe_load(path.read_text())
    content |= {"plan": "moved/agreed.yaml", "approvals": "moved/signed"}
    content["gateway"]["root_certificates"] = "moved/authority.crt"
    path.write_text(yaml.safe_dump(content))
    (site / "moved").mkdir()
    shutil.copy(site / "plan.yaml", site / "moved" / "agreed.yaml")
    (site / "moved" / "agreed.yaml").chmod(0o640)
    if os.geteuid() == 0:  # only root can give a file to the service's user
        os.chown(site / "moved", 4711, 4712)
        os.chown(site / "moved" / "agreed.yaml", 4713, 4714)
    before = (site / "plan.yaml").read_bytes()
    assert later(base, site) == 0
    assert (site / "plan.yaml").read_bytes() == before
    agreed = site / "moved" / "agreed.yaml"
    assert agreed.read_bytes() == (base / "second" / "plan.yaml").read_bytes()
    assert agreed.stat().st_mode & 0o777 == 0o640
    assert (site / "moved" / "authority.crt").stat().st_mode & 0o777 == 0o644
    signed = site / "moved" / "signed"
    (approval,) = signed.iterdir()
    if os.geteuid() == 0:
        assert (agreed.stat().st_uid, agreed.stat().st_gid) == (4713, 4714)
        for made in (signed, approval, site / "moved" / "authority.crt"):
            assert (made.stat().st_uid, made.stat().st_gid) == (4711, 4712)


def test_the_vaults_copy_of_the_node_key_is_enough(base: Path, site: Path) -> None:
    """The file is the gateway's; a file with another key is no copy and is refused."""
    (site / "gateway" / "node.key").rename(site / "kept")
    assert approve(site, base) == 0
    shutil.copy(base / "hospital-2" / "gateway" / "node.key", site / "gateway" / "node.key")
    assert later(base, site) == 2


def test_a_key_file_that_was_moved_is_named_once(base: Path, site: Path, tmp_path: Path) -> None:
    """As keygen advises; the site file then says where it is."""
    (site / "vault.key").rename(tmp_path / "safe.key")
    assert approve(site, base) == 2
    assert approve(site, base, None, "--vault-key", str(tmp_path / "safe.key")) == 0
    assert load_site(site / "site.yaml").vault_key == tmp_path / "safe.key"
    assert later(base, site) == 0


@pytest.mark.parametrize(
    ("phrase", "sentence"),
    [
        ("seven plain words", "the vault holds another identity"),
        ("eight plain words", "the passphrase does not open it"),
    ],
)
def test_the_service_alone_takes_a_passphrase_from_a_file(base: Path, site: Path, phrase: str, sentence: str) -> None:
    """The right one opens the vault of new keys, which is found out next; the control is a wrong one."""
    assert approve(site, base) == 0
    path = site / "site.yaml"
    content = yaml.safe_load(path.read_text())
    del content["vault_key"]
    path.write_text(yaml.safe_dump(content))
    make_site(site / "new", hospital="hospital-1", declared_units=12, passphrase=b"seven plain words")
    (site / "new" / "vault").replace(site / "vault")
    (site / "phrase").write_text(f"{phrase}\n")
    (site / "phrase").chmod(0o600)
    command = (sys.executable, "-m", "client", "service", "--config", str(path))
    environment = {name: value for name, value in os.environ.items() if name != "FEDWARD_UNLOCK_FD"}
    ended = subprocess.run(  # noqa: S603 -- our own interpreter with our own arguments
        (*command, "--passphrase-file", str(site / "phrase")),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_a_way_of_its_own_to_the_coordinator_is_kept(base: Path, site: Path) -> None:
    """Its control is the kit of a coordinator that moved, among the mistakes."""
    assert approve(site, base) == 0
    address_changed(site)
    assert later(base, site) == 0
    assert load_site(site / "site.yaml").gateway.superlink == "relay.local:9999"


def address_changed(site: Path) -> None:
    """Another address in the site file."""
    path = site / "site.yaml"
    content = yaml.safe_load(path.read_text())
    content["gateway"]["superlink"] = "relay.local:9999"
    path.write_text(yaml.safe_dump(content))


def other_address(base: Path, site: Path) -> tuple[int, str]:
    """A coordinator that moved, as far as this site knows."""
    assert approve(site, base) == 0
    address_changed(site)
    taken = json.loads((site / "kit.json").read_text())
    (site / "kit.json").write_text(json.dumps(taken | {"superlink": "relay.local:9999"}))
    named = read_kit(base / "second" / "kits" / "hospital-1.kit.zip").manifest.superlink
    return later(base, site), f"coordinator at {named}, the site file names relay.local:9999"


def choice_repeated(base: Path, site: Path) -> tuple[int, str]:
    """What would be ignored."""
    assert approve(site, base) == 0
    return later(base, site, "--cap-epsilon", "2", "--public-data"), "--cap-epsilon, --public-data: of a site's first"


def damaged_record(base: Path, site: Path) -> tuple[int, str]:
    """Half a kit.json."""
    assert approve(site, base) == 0
    (site / "kit.json").write_text('{"format": 1, "hosp')
    return later(base, site), "kit.json: is damaged; remove it"


def no_delta(base: Path, site: Path) -> tuple[int, str]:
    """Zero is not the default."""
    return approve(site, base, None, "--cap-delta", "0"), "error: --cap-delta: seen 0"


def exact_counts_of_private_data(base: Path, site: Path) -> tuple[int, str]:
    """Two options that do not fit."""
    return approve(site, base, None, "--metrics", "aggregate"), "error: --metrics: seen 'aggregate' without"


def no_data(base: Path, site: Path) -> tuple[int, str]:
    """A folder mistyped."""
    return approve(site, base, None, "--data", str(site / "nowhere")), "--data: seen "


def other_hospitals_kit(base: Path, site: Path) -> tuple[int, str]:
    """A kit for another hospital."""
    del site
    return approve_kit_of(base, base / "first" / "kits" / "hospital-2.kit.zip"), "the kit is for hospital-2"


def approve_kit_of(base: Path, kit: Path) -> int:
    """Hospital-1 takes that kit."""
    return approve(base / "hospital-1", base, kit)


def older_kit(base: Path, site: Path) -> tuple[int, str]:
    """The clock of this site's last kit is ahead."""
    assert approve(site, base) == 0
    manifest = json.loads((site / "kit.json").read_text())
    manifest["created"] = "2099-01-01T00:00:00+00:00"
    (site / "kit.json").write_text(json.dumps(manifest))
    return approve(site, base), "this site already has the one of 2099-01-01"


def changed(base: Path, site: Path, name: str, content: bytes) -> Path:
    """A kit with one other file."""
    path = site / "changed.kit.zip"
    with zipfile.ZipFile(base / "first" / "kits" / "hospital-1.kit.zip") as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))
    return path


def other_certificate(base: Path, site: Path) -> tuple[int, str]:
    """A man in the middle's authority."""
    return approve(site, base, changed(base, site, CERTIFICATES, b"evil")), "ca.crt is not the file that was signed"


def other_plan(base: Path, site: Path) -> tuple[int, str]:
    """The plan of another organisation, with its own coordinator."""
    text = (base / "second" / "plan.yaml").read_bytes()
    return approve(site, base, changed(base, site, PLAN, text)), "plan.yaml is not the file that was signed"


def bad_signature(base: Path, site: Path) -> tuple[int, str]:
    """A kit that another coordinator signed."""
    with zipfile.ZipFile(base / "second" / "kits" / "hospital-1.kit.zip") as other:
        signature = other.read("kit.sig")
    kit = changed(base, site, "kit.sig", signature)
    return approve(site, base, kit), "it was not signed by the coordinator that its plan names"


def no_archive(base: Path, site: Path) -> tuple[int, str]:
    """Half a download."""
    whole = (base / "first" / "kits" / "hospital-1.kit.zip").read_bytes()
    (site / "half.kit.zip").write_bytes(whole[: len(whole) // 2])
    return approve(site, base, site / "half.kit.zip"), "it is no archive, or is damaged"


def bomb(base: Path, site: Path) -> tuple[int, str]:
    """A small archive that unpacks to a lot."""
    with zipfile.ZipFile(site / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in KIT_FILES:
            archive.writestr(name, bytes(50 << 20))
    return approve(site, base, site / "bomb.zip"), "is larger than 4194304 bytes"


def other_files(base: Path, site: Path) -> tuple[int, str]:
    """A path that would leave the folder."""
    with zipfile.ZipFile(site / "evil.zip", "w") as archive:
        archive.writestr("../../evil", b"")
    return approve(site, base, site / "evil.zip"), "it holds ../../evil"


def no_kit(base: Path, site: Path) -> tuple[int, str]:
    """A name mistyped."""
    return approve(site, base, site / "nowhere.kit.zip"), "No such file or directory"


def keys_made_anew(base: Path, site: Path) -> tuple[int, str]:
    """The card that was sent is of other keys."""
    shutil.rmtree(site)
    make_site(site, hospital="hospital-1", declared_units=12, passphrase=None)
    return approve(site, base), "the row of hospital-1 holds other keys than this site's"


def wrong_column(base: Path, site: Path) -> tuple[int, str]:
    """A name without a letter."""
    return approve(site, base, None, "--patient-column", ""), "error: --patient-column: "


def no_data_named(base: Path, site: Path) -> tuple[int, str]:
    """A first approval without its choices."""
    kit, digest = str(base / "first" / "kits" / "hospital-1.kit.zip"), plan_of(base).digest
    words = ("approve", kit, "--site", str(site), "--digest", digest)
    return run(client_main, "fedward-client", *words), "needs its start-up kit, --data and --cap-epsilon"


def wrong_cap(base: Path, site: Path) -> tuple[int, str]:
    """No budget at all."""
    return approve(site, base, None, "--cap-epsilon", "0"), "error: --cap-epsilon: seen 0"


def no_site(base: Path, site: Path) -> tuple[int, str]:
    """Keygen was forgotten."""
    return approve(site / "nowhere", base), "which `fedward-client keygen` makes"


def cards_of_one_hospital(base: Path, site: Path) -> tuple[int, str]:
    """One identity under two names."""
    cards = site / "cards"
    shutil.copytree(base / "cards", cards)
    text = (cards / "hospital-3.card.yaml").read_text().replace("hospital-3", "hospital-4")
    (cards / "hospital-4.card.yaml").write_text(text)
    words = organise(base, "never", cards=str(cards))
    return run(fedward_main, "fedward", *words), "was not signed by the hospital itself"


def card_twice(base: Path, site: Path) -> tuple[int, str]:
    """The same card under two file names."""
    cards = site / "cards"
    shutil.copytree(base / "cards", cards)
    shutil.copy(cards / "hospital-3.card.yaml", cards / "copy.card.yaml")
    return run(fedward_main, "fedward", *organise(base, "never", cards=str(cards))), "have one name"


def no_cards(base: Path, site: Path) -> tuple[int, str]:
    """An empty folder."""
    (site / "cards").mkdir()
    words = organise(base, "never", cards=str(site / "cards"))
    return run(fedward_main, "fedward", *words), "holds no NAME.card.yaml"


MISTAKES = [
    other_hospitals_kit,
    older_kit,
    other_certificate,
    other_plan,
    bad_signature,
    no_archive,
    bomb,
    other_files,
    no_kit,
    keys_made_anew,
    no_data_named,
    wrong_column,
    wrong_cap,
    other_address,
    choice_repeated,
    damaged_record,
    no_delta,
    exact_counts_of_private_data,
    no_data,
    no_site,
    cards_of_one_hospital,
    card_twice,
    no_cards,
]


SECOND_TIME = (older_kit, other_address, choice_repeated, damaged_record)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(
    mistake: Callable[[Path, Path], tuple[int, str]], base: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control is the kit that is taken in whole."""
    status, sentence = mistake(base, site)
    said = capsys.readouterr().err
    assert status == 2
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (base / "never").exists()
    assert not (site / "approvals").exists() or len(list((site / "approvals").iterdir())) == 1
    assert mistake in SECOND_TIME or not (site / "approvals").exists()


def test_keys_are_never_overwritten_and_half_a_site_is_never_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full folder, a name that is none, both ways to count."""
    made = make_site(tmp_path / "site", hospital="hospital-1", declared_units=3, passphrase=None)
    with pytest.raises(AlreadyExists, match="keys are never overwritten"):
        make_site(tmp_path / "site", hospital="hospital-1", declared_units=3, passphrase=None)
    assert read_card(made.card_path) == made.card
    for words in (("Hospital 1", "--units", "3"), ("hospital-1",), ("hospital-1", "--units", "3", "--data", ".")):
        assert run(client_main, "fedward-client", "keygen", *words, "--site", str(tmp_path / "other")) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_site_in_an_unusual_place_is_made_whole_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder one stands in, a link to an empty folder, more units than a plan can hold."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    made = make_site(tmp_path / "link", hospital="hospital-1", declared_units=3, passphrase=None)
    assert read_card(made.card_path) == made.card
    assert (tmp_path / "empty" / "vault").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(client_main, "fedward-client", "keygen", "hospital-1", "--site", ".", "--units", "3") == 2
    assert "is the folder you are in" in capsys.readouterr().err
    many = ("keygen", "hospital-1", "--site", "many", "--units", str(10**9 + 1))
    assert run(client_main, "fedward-client", *many) == 2
    assert not list((tmp_path / "here").iterdir())
    assert not list(tmp_path.glob(".*"))


def test_a_card_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Any field: the control is the card as it was."""
    made = make_site(tmp_path / "site", hospital="hospital-1", declared_units=30, passphrase=None)
    text = made.card_path.read_text()
    made.card_path.write_text(text.replace("declared_units: 30", "declared_units: 31"))
    with pytest.raises(ConfigError, match="was not signed by the hospital itself"):
        read_card(made.card_path)


def test_a_kit_says_what_it_is(base: Path) -> None:
    """And holds no secret: its files are these."""
    kit = read_kit(base / "first" / "kits" / "hospital-1.kit.zip")
    assert kit.manifest.hospital == "hospital-1"
    assert kit.plan == plan_of(base)
    with zipfile.ZipFile(base / "first" / "kits" / "hospital-1.kit.zip") as archive:
        assert set(archive.namelist()) == set(KIT_FILES)
        assert "fedward-client approve hospital-1.kit.zip" in archive.read("README.txt").decode()
