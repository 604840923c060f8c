"""Reads a YAML file into a frozen pydantic model, with one clear error for a wrong one."""

from __future__ import annotations

import json
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.config_errors import sentences
from common.errors import ConfigError
from common.printable import printable

MAX_CONFIG_BYTES = 1 << 20


class Settings(BaseModel):
    """Base of every configuration model: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Settings)


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML keeps the last, and aliases, which can grow a file."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias where one is used."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


def _mapping_of_unique_keys(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{printable(key)}' stands twice", key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_of_unique_keys)


def parse_yaml(text: str, *, source: str) -> Any:  # noqa: ANN401 -- YAML holds anything until a model checks it
    """Parse YAML and refuse keys that stand twice, keys that are no text, and aliases.

    Raises:
        ConfigError: If the text is not YAML; names `source`, line and column.
    """
    try:
        # _PlainLoader is a SafeLoader
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise ConfigError(f"{source}{place}: {problem}; fix the file") from error
    except (ValueError, RecursionError) as error:
        # A date that does not exist, a number of 5000 digits, a thousand brackets.
        raise ConfigError(f"{source}: holds a value that YAML cannot mean ({error}); fix the file") from error


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read `path` as `model`.

    Raises:
        ConfigError: If the file is missing, not YAML, or holds a wrong key or value; one sentence per wrong key that
            names the file, the key, what was seen and what is allowed.
    """
    return parse_settings(_text(path), model, source=str(path))


def read_yaml(path: Path) -> Any:  # noqa: ANN401 -- see `parse_yaml`
    """What a YAML file holds, before a model is chosen for it.

    Raises:
        ConfigError: See `load_settings`.
    """
    return parse_yaml(_text(path), source=str(path))


def _text(path: Path) -> str:
    try:
        found = path.stat()
        # Reading a FIFO, or a device, may never end; a folder is refused by its reading.
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ConfigError(f"{path}: is a FIFO, a device or a socket, and no file; name an existing YAML file")
        if found.st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; a configuration file is not")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name an existing YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}); name a readable UTF-8 file") from error


def parse_settings(text: str, model: type[Model], *, source: str) -> Model:
    """Parse `text` as `model`; `source` names the file in errors.

    Numbers, truth values and text are never taken for each other.

    Raises:
        ConfigError: See `load_settings`.
    """
    content = parse_yaml(text, source=source)
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: holds {type(content).__name__}, a mapping of keys is allowed")
    try:
        # As JSON, since pydantic's strict mode knows there that a list may be a tuple, and text a path.
        return model.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(sentences(error, source=source, content=content, model=model)) from error
