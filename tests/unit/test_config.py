"""Wrong configuration files: one clear sentence with file, key, seen and allowed; exit code 2; never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.card import sign_card
from common.config import MAX_CONFIG_BYTES, Settings, load_settings, parse_settings
from common.errors import ConfigError
from common.identity import Identity
from common.plan import Plan
from common.server_config import ServerConfig, load_server
from common.site_config import SiteConfig, load_site
from tests.support.cards import make_card, make_rows

CONFIGS = Path(__file__).parents[2] / "configs"
PLANS = sorted((CONFIGS / "plans").glob("*.yaml"))
TEMPLATE = CONFIGS / "plans" / "demo.yaml"
NETWORK = {
    "kind": "network",
    "architecture": "torchvision:resnet18",
    "weights_sha256": "0" * 64,
    "trainable": "last:1",
    "image_size": 64,
    "views": 1,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
CNN = {"kind": "groupnorm-cnn", "image_size": 32, "width": 8, "seed": 0}


def content_of(path: Path) -> dict[str, Any]:
    """A sample file as a mapping."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def refusal(content: dict[str, Any] | str, model: type[Settings]) -> str:
    """What is said about a wrong file."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, model, source="file.yaml")
    return str(caught.value)


def changed(path: Path, key: str, value: object) -> dict[str, Any]:
    """A sample file with one key set, `...` removes it."""
    content = content_of(path)
    *parents, last = key.split(".")
    place = content
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


ROWS = make_rows(["h0", "h1", "h2"])
TWO_HOSPITALS = "seen 2 hospitals; at least 3 are allowed: each of two would read the other's update from their sum"
UNSIGNED = (
    "file.yaml: federation: h2: its row was not signed by the hospital itself, or was changed since; ask the hospital "
    "for the card that `fedward-client keygen` wrote"
)


def agreed(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 -- YAML values
    """A sample plan with a roster of three hospitals of 100 units, and some sections changed."""
    content = content_of(TEMPLATE)
    content["encryption"]["update_norm_bound"] = 1.0
    content["federation"] = {
        "coordinator": "f" * 64,
        "epoch": 1,
        "trainable_parameters": 10,
        "hospitals": [dict(row) for row in ROWS],
    }
    content["cohort"] |= {"threshold": 3, "min_cohort": 3}
    for section, values in changes.items():
        content[section].update(values)
    return content


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_sample_plan_loads(path: Path) -> None:
    """As a template: hospitals come with provision."""
    plan = load_settings(path, Plan)
    assert plan.federation is None
    assert plan.name == path.stem


def test_verification_is_full_up_to_64_mebibytes_of_uploads_and_sampled_above() -> None:
    """By the plan's own sizes: three uploads of 2987 chunks of 7488 bytes are below, of 2988 above."""

    def verification(chunks: int, setting: str) -> str:
        counts = len(content_of(TEMPLATE)["data"]["classes"]) ** 2
        content = agreed(
            encryption={"verification": setting}, federation={"trainable_parameters": chunks * 2048 - counts - 1}
        )
        return parse_settings(yaml.safe_dump(content), Plan, source="plan").verification

    assert 3 * 2987 * 7488 <= 64 << 20 < 3 * 2988 * 7488
    assert [verification(chunks, "auto") for chunks in (1, 2987, 2988)] == ["full", "full", "sampled"]
    assert [verification(1, setting) for setting in ("full", "sampled")] == ["full", "sampled"]
    assert verification(5000, "full") == "full"


def test_the_sample_site_and_server_files_load() -> None:
    """Paths become absolute from the folder of the file."""
    site, server = load_site(CONFIGS / "site.yaml"), load_server(CONFIGS / "server.yaml")
    assert site.plan == CONFIGS / "plan.yaml"
    assert site.gateway.node_key == CONFIGS / "gateway" / "node.key"
    assert server.identity_key.is_absolute()
    assert {path.name for path in CONFIGS.glob("*.yaml")} == {"site.yaml", "server.yaml"}
    assert len(PLANS) >= 3


COHORT_KEYS = "allowed here: assumed_colluders, attempts, min_cohort, page_kib, round_timeout_s, threshold, whole_kib"
# Key, value, and the whole sentence after "file.yaml: ".
WRONG_PLANS: list[tuple[str, object, str]] = [
    ("privacy.epsilonn", 1, "unknown key 'privacy.epsilonn'; did you mean 'epsilon'?"),
    (
        "cohort.colour",
        1,
        "unknown key 'cohort.colour'; " + COHORT_KEYS,
    ),
    ("privacy.epsilon", 0, "privacy.epsilon: seen 0; input should be greater than 0"),
    ("privacy.epsilon", -3.5, "privacy.epsilon: seen -3.5; input should be greater than 0"),
    ("privacy.epsilon", 1000.5, "privacy.epsilon: seen 1000.5; input should be less than or equal to 1000"),
    ("privacy.epsilon", True, "privacy.epsilon: seen True; input should be a valid number"),
    ("privacy.epsilon", float("nan"), "privacy.epsilon: seen nan; input should be a finite number"),
    (
        "privacy.delta",
        "1e-5",
        "privacy.delta: seen '1e-5'; a number is allowed, this is text; write 1.0e-05 without quotes",
    ),
    ("privacy.delta", 1.0, "privacy.delta: seen 1.0; input should be less than 1"),
    ("privacy.clip", ..., "key 'privacy.clip' is missing; add it"),
    ("privacy", None, "privacy: seen None; a mapping of keys is allowed"),
    ("training.rounds", "many", "training.rounds: seen 'many'; input should be a valid integer"),
    (
        "training.rounds",
        "10",
        "training.rounds: seen '10'; a number is allowed, this is text; write 10 without quotes",
    ),
    ("training.rounds", 1.5, "training.rounds: seen 1.5; input should be a valid integer"),
    ("training.sampling.kind", "shuffled", "training.sampling.kind: seen 'shuffled'; 'full', 'poisson' are allowed"),
    ("training.sampling", {}, "key 'training.sampling.kind' is missing; add it"),
    ("training.sampling", {"kind": "poisson"}, "key 'training.sampling.rate' is missing; add it"),
    ("training.sampling", "full", "training.sampling: seen 'full'; a mapping of keys is allowed"),
    (
        "training.sampling",
        {"kind": "poisson", "rate": 1},
        "training.sampling.rate: seen 1; input should be less than 1",
    ),
    (
        "training.server_optimiser.momentumm",
        0.1,
        "unknown key 'training.server_optimiser.momentumm'; did you mean 'momentum'?",
    ),
    ("model.viewz", 1, "unknown key 'model.viewz'; did you mean 'views'?"),
    ("model.views", 9, "model.views: seen 9; input should be less than or equal to 8"),
    (
        "model.kind",
        "resnet",
        "model.kind: seen 'resnet'; 'lite0-head', 'groupnorm-cnn', 'network', 'linear', 'mlp', 'cox' are allowed",
    ),
    (
        "model",
        NETWORK | {"architecture": "resnet18"},
        (
            "model.architecture: seen 'resnet18'; string should match pattern "
            "'^(lite0|torchvision:[a-z0-9_]{1,60}|timm:[a-z0-9_]{1,60})$'"
        ),
    ),
    (
        "model",
        NETWORK | {"weights_sha256": None},
        (
            "model.weights_sha256: architecture 'torchvision:resnet18' brings no weights; give the digest of the "
            "weights file that all sites hold, or else a public seed to start from, and not both"
        ),
    ),
    (
        "model",
        NETWORK | {"weights_sha256": None, "seed": 1},
        (
            "model.trainable: seen 'last:1' with a random start; only 'all' is allowed there: frozen layers of random "
            "numbers see nothing; name a weights file by its digest"
        ),
    ),
    (
        "model",
        NETWORK | {"architecture": "lite0"},
        (
            "model.weights_sha256: seen a digest or a seed with architecture 'lite0'; only null without a seed is "
            "allowed there: its weights come with its package"
        ),
    ),
    (
        "model",
        NETWORK | {"views": 8},
        (
            "model.views: seen 8 with trainable 'last:1'; only 1 is allowed there: views are averaged where the head "
            "alone is trained"
        ),
    ),
    ("model", CNN | {"width": 6}, "model.width: seen 6; a multiple of 4 is allowed (GroupNorm has 4 groups)"),
    ("data.classes", ["nevus"], "data.classes: seen ['nevus']; the list should have at least 2 items, not 1"),
    ("data.classes", "nevus", "data.classes: seen 'nevus'; input should be a list"),
    (
        "data.classes",
        ["a", "b\x1b[2J\nc"],
        "data.classes.1: seen 'b\\x1b[2J\\nc'; printable characters on one line are allowed",
    ),
    (
        "data.held_out_salt",
        "a\u202eb",
        "data.held_out_salt: seen 'a\\u202eb'; printable characters on one line are allowed",
    ),
    (
        "cohort.\x1b[2J\nerror",
        1,
        "unknown key 'cohort.\\x1b[2J\\nerror'; " + COHORT_KEYS,
    ),
    ("data.classes", ["a", "b", "a"], "data: classes: seen 'a' twice; every class stands once; remove one"),
    (
        "encryption.update_norm_bound",
        "big",
        "encryption.update_norm_bound: seen 'big'; input should be a valid number, or input should be 'auto'",
    ),
    ("encryption.preset", "loose", "encryption.preset: seen 'loose'; input should be 'compact' or 'precise'"),
    (
        "encryption.verification",
        "none",
        "encryption.verification: seen 'none'; input should be 'auto', 'full' or 'sampled'",
    ),
    ("encryption.verification", ..., "key 'encryption.verification' is missing; add it"),
    (
        "cohort.min_cohort",
        2,
        "cohort.min_cohort: seen 2; input should be greater than or equal to 3, or input should be 'auto'",
    ),
    (
        "cohort.threshold",
        "most",
        "cohort.threshold: seen 'most'; input should be a valid integer, or input should be 'auto'",
    ),
    ("cohort.threshold", ..., "key 'cohort.threshold' is missing; add it"),
    ("cohort.assumed_colluders", ..., "key 'cohort.assumed_colluders' is missing; add it"),
    (
        "cohort.assumed_colluders",
        0,
        "cohort.assumed_colluders: seen 0; input should be greater than or equal to 1",
    ),
    (
        "cohort.assumed_colluders",
        "auto",
        "cohort.assumed_colluders: seen 'auto'; input should be a valid integer",
    ),
]


@pytest.mark.parametrize(("key", "value", "sentence"), WRONG_PLANS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_key_of_a_plan_gets_one_sentence(key: str, value: object, sentence: str) -> None:
    """File, key, seen, allowed; in a list of sentences nobody finds the mistake."""
    assert refusal(changed(TEMPLATE, key, value), Plan) == f"file.yaml: {sentence}"


def test_two_wrong_keys_get_two_lines() -> None:
    """Each of them whole."""
    content = changed(TEMPLATE, "privacy.epsilon", 0)
    content["privacy"]["clipp"] = content["privacy"].pop("clip")
    lines = refusal(content, Plan).splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        "file.yaml: privacy.epsilon: seen 0",
        "file.yaml: key 'privacy.clip' is missing",
        "file.yaml: unknown key 'privacy.clipp'",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            agreed(privacy={"delta": 0.02}),
            "file.yaml: privacy.delta: seen 0.02 for h0 with 100 units; less than 1/n = 0.01 is allowed; lower delta",
        ),
        (
            agreed(cohort={"min_cohort": 4}),
            (
                "file.yaml: cohort.min_cohort: seen 4 with 3 hospitals and threshold 3; only 3 is allowed: "
                "a round of more hospitals than there are never comes"
            ),
        ),
        (
            agreed(cohort={"assumed_colluders": 2}),
            (
                "file.yaml: cohort.assumed_colluders: seen 2 with 3 hospitals; at most 1 is allowed: "
                "colluders take their own updates out of a sum, and what is left must hold two others' at least"
            ),
        ),
        (
            agreed(cohort={"threshold": "auto"}),
            "file.yaml: cohort.threshold: seen 'auto' beside a roster; `fedward provision` sets a number",
        ),
        (
            agreed(cohort={"min_cohort": "auto"}),
            "file.yaml: cohort.min_cohort: seen 'auto' beside a roster; `fedward provision` sets a number",
        ),
        (
            agreed(federation={"hospitals": ROWS[:2]}),
            "file.yaml: federation: " + TWO_HOSPITALS,
        ),
        (
            agreed(encryption={"update_norm_bound": "auto"}),
            "file.yaml: encryption.update_norm_bound: seen 'auto' beside a roster; `fedward provision` sets a number",
        ),
        (
            agreed(federation={"hospitals": [ROWS[0], ROWS[1], dict(ROWS[1])]}),
            "file.yaml: federation: two hospitals share a name or an identity key; each needs its own",
        ),
        (
            agreed(federation={"hospitals": [ROWS[0], ROWS[1], ROWS[2] | {"box": ROWS[1]["box"]}]}),
            "file.yaml: federation: two hospitals share a node key or a box key; each makes its own with keygen",
        ),
        (
            agreed(federation={"hospitals": [ROWS[0], ROWS[1], ROWS[2] | {"epsilon": 1001.0}]}),
            "file.yaml: federation.hospitals.2.epsilon: seen 1001.0; input should be less than or equal to 1000",
        ),
        (
            agreed(federation={"hospitals": [ROWS[0], ROWS[1], ROWS[2] | {"declared_units": 101}]}),
            UNSIGNED,
        ),
        (
            agreed(federation={"hospitals": [ROWS[0], ROWS[1], ROWS[2] | {"box": "2" * 64}]}),
            UNSIGNED,
        ),
    ],
)
def test_an_unsound_plan_is_refused(content: dict[str, Any], sentence: str) -> None:
    """Keys that do not fit each other; the control is the same plan without the change."""
    assert refusal(content, Plan) == sentence
    assert parse_settings(yaml.safe_dump(agreed()), Plan, source="file.yaml").roster


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"box": "00" * 32}, "h2: box: seen no key that can be used; an X25519 public key, and no point of low order"),
        ({"box": "01" + "00" * 31}, "h2: box: seen no key"),
        ({"box": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}, "h2: box: seen no key"),
        ({"node": "ecdsa-sha2-nistp384 AAAA"}, "h2: node: seen no key that can be used; an EC P-384 public key"),
    ],
)
def test_a_signed_row_with_keys_that_are_none_is_refused(changes: dict[str, str], sentence: str) -> None:
    """A hospital that signs such a card would take part with a box that everybody opens; the control signs its own."""
    identity = Identity.generate()
    own = make_card("h2", identity)
    parts = {"name": "h2", "box": own.box, "node": own.node, "declared_units": 100}
    for change, allowed in (({}, True), (changes, False)):
        card = sign_card(identity, **(parts | change))  # type: ignore[arg-type]  # a row's fields by name
        content = agreed(federation={"hospitals": [ROWS[0], ROWS[1], card.model_dump(mode="json")]})
        if allowed:
            assert parse_settings(yaml.safe_dump(content), Plan, source="file.yaml").roster
        else:
            assert sentence in refusal(content, Plan)


WRONG_SITES: list[tuple[str, object, str]] = [
    ("privacy.cap_epsilon", 0, "privacy.cap_epsilon: seen 0; input should be greater than 0"),
    ("privacy.cap_epsilon", 1000.5, "privacy.cap_epsilon: seen 1000.5; input should be less than or equal to 1000"),
    (
        "privacy.metrics_epsilon",
        720000,
        "privacy.metrics_epsilon: seen 720000; input should be less than or equal to 1000",
    ),
    (
        "privacy.metrics_epsilon",
        1e-9,
        "privacy.metrics_epsilon: seen 1e-09; input should be greater than or equal to 0.001",
    ),
    ("privacy.cap_epsilon", ..., "key 'privacy.cap_epsilon' is missing; add it"),
    (
        "privacy.source",
        "skin\r",
        "privacy.source: seen 'skin\\r'; printable characters on one line are allowed",
    ),
    ("privacy.public_data", "yes", "privacy.public_data: seen 'yes'; input should be a valid boolean"),
    ("privacy.min_cohort", 2, "privacy.min_cohort: seen 2; input should be greater than or equal to 3"),
    ("gateway.node_kye", "x", "unknown key 'gateway.node_kye'; did you mean 'node_key'?"),
    ("gateway.runtime_port", 80, "gateway.runtime_port: seen 80; input should be greater than or equal to 1024"),
    ("data", 5, "data: seen 5; input should be a valid string"),
    ("approvals", 5, "approvals: seen 5; input should be a valid string"),
    ("vault", ..., "key 'vault' is missing; add it"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), WRONG_SITES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_wrong_key_of_a_site_gets_one_sentence(key: str, value: object, sentence: str) -> None:
    """The same for the hospital's own file."""
    assert refusal(changed(CONFIGS / "site.yaml", key, value), SiteConfig) == f"file.yaml: {sentence}"


def test_exact_counts_need_public_data() -> None:
    """Its control is the same file with `public_data: true`."""
    content = changed(CONFIGS / "site.yaml", "privacy.metrics", "aggregate")
    assert "metrics: seen 'aggregate' without 'public_data: true'" in refusal(content, SiteConfig)
    content["privacy"]["public_data"] = True
    assert parse_settings(yaml.safe_dump(content), SiteConfig, source="file.yaml")


def test_a_wrong_key_of_the_server_gets_one_sentence() -> None:
    """Also inside lists."""
    content = content_of(CONFIGS / "server.yaml")
    content["nodes"][0]["public_kee"] = "x"
    assert refusal(content, ServerConfig) == "file.yaml: unknown key 'nodes.0.public_kee'; did you mean 'public_key'?"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "file.yaml: holds NoneType, a mapping of keys is allowed"),
        ("- name", "file.yaml: holds list, a mapping of keys is allowed"),
        ("name: a\nname: b", "file.yaml line 2, column 1: the key 'name' stands twice; fix the file"),
        ("data:\n  kind: a\n  kind: b", "file.yaml line 3, column 3: the key 'kind' stands twice; fix the file"),
        ("a: b: c", "file.yaml line 1, column 5: mapping values are not allowed here; fix the file"),
        ("1: a", "file.yaml line 1, column 1: a key that is no text; fix the file"),
        ("? [a]\n: 1", "file.yaml line 1, column 3: a key that is no text; fix the file"),
        ("a: &a [1]\nb: *a", "file.yaml line 2, column 4: aliases are not allowed; fix the file"),
        ("a: !!python/object/apply:os.system [x]", "file.yaml line 1, column 4: could not determine a constructor"),
        ("a: 2026-02-31", "file.yaml: holds a value that YAML cannot mean"),
        ("[" * 5000, "file.yaml: holds a value that YAML cannot mean"),
        ("a: " + "9" * 5000, "file.yaml: holds a value that YAML cannot mean"),
        ("a: \0", "file.yaml: not readable as YAML"),
    ],
    ids=range(13),
)
def test_a_text_that_is_no_configuration_gets_one_sentence(text: str, sentence: str) -> None:
    """Line and column where there is one."""
    said = refusal(text, Plan)
    assert said.startswith(sentence)
    assert "\n" not in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, far too large."""
    (tmp_path / "latin.yaml").write_bytes("name: Universitäts".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    for name, sentence in (
        ("missing.yaml", "no such file; name an existing YAML file"),
        ("latin.yaml", "cannot be read (UnicodeDecodeError); name a readable UTF-8 file"),
        ("large.yaml", f"larger than {MAX_CONFIG_BYTES} bytes; a configuration file is not"),
        ("", "cannot be read (IsADirectoryError); name a readable UTF-8 file"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(tmp_path / name, Plan)
        assert str(caught.value) == f"{tmp_path / name}: {sentence}"


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_config_error(text: str) -> None:
    """Whatever an organiser mails to a hospital."""
    with pytest.raises(ConfigError):
        parse_settings(text, Plan, source="file.yaml")


def test_a_socket_path_that_the_kernel_refuses_is_refused_at_load(tmp_path: Path) -> None:
    """With the file's name; a short one in the same file loads."""
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(changed(CONFIGS / "site.yaml", "socket", "s" * 101)), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"site\.yaml: socket: seen a path of \d+ bytes .* at most 100 bytes"):
        load_site(path)
    path.write_text(yaml.safe_dump(changed(CONFIGS / "site.yaml", "socket", "s")), encoding="utf-8")
    assert load_site(path).socket == tmp_path / "s"
