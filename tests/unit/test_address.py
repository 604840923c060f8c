"""The coordinator's address in the site file and in the server file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Settings, parse_settings
from common.errors import ConfigError
from common.server_config import ServerConfig
from common.site_config import SiteConfig

CONFIGS = Path(__file__).parents[2] / "configs"

WRONG = [
    ("coordinator.example", "host:port is allowed, with a port from 1 to 65535"),
    (":9092", "host:port is allowed, with a port from 1 to 65535"),
    ("coordinator.example:port", "host:port is allowed, with a port from 1 to 65535"),
    ("coordinator.example:\N{ARABIC-INDIC DIGIT NINE}", "host:port is allowed, with a port from 1 to 65535"),
    ("coordinator.example:0", "a port is a number from 1 to 65535"),
    ("coordinator.example:65536", "a port is a number from 1 to 65535"),
    ("coordinator.example:99999", "a port is a number from 1 to 65535"),
    ("m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example:9092", "or an IPv4 address; write xn--mnchen-3ya.example"),
    ("a b:9092", "the host is a name of ASCII letters, digits, dots and hyphens, or an IPv4 address"),
    ("[::1]:9092", "the host is a name of ASCII letters, digits, dots and hyphens, or an IPv4 address"),
    ("-c:9092", "the host is a name of ASCII letters, digits, dots and hyphens, or an IPv4 address"),
]


def parse_with(model: type[Settings], address: str) -> Settings:
    """A sample file with another address."""
    name = "site.yaml" if model is SiteConfig else "server.yaml"
    content: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    (content["gateway"] if model is SiteConfig else content)[key_of(model).rpartition(".")[2]] = address
    return parse_settings(yaml.safe_dump(content), model, source="file.yaml")


def key_of(model: type[Settings]) -> str:
    """Where the address stands."""
    return "gateway.superlink" if model is SiteConfig else "fleet_address"


@pytest.mark.parametrize("model", [SiteConfig, ServerConfig])
@pytest.mark.parametrize(("address", "allowed"), WRONG)
def test_what_is_no_address_is_refused_by_both_files(model: type[Settings], address: str, allowed: str) -> None:
    """Flower would try a port that does not exist for ten minutes, and fail on a name that no certificate holds."""
    with pytest.raises(ConfigError) as caught:
        parse_with(model, address)
    said = str(caught.value)
    assert said.startswith(f"file.yaml: {key_of(model)}: seen '{address}'; ")
    assert allowed in said
    assert "\n" not in said


@pytest.mark.parametrize("model", [SiteConfig, ServerConfig])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "a.example:65535", "xn--mnchen-3ya.example:9092", "node_1:9092"])
def test_an_address_is_taken(model: type[Settings], address: str) -> None:
    """The control."""
    assert parse_with(model, address)
