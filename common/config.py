"""Reads a YAML file into a frozen pydantic model, with one clear error for a wrong one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError, FedwardError

MAX_CONFIG_BYTES = 1 << 20


class Settings(BaseModel):
    """Base of every configuration model: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Settings)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice; YAML itself keeps the last one without a word."""


def _mapping_of_unique_keys(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_of_unique_keys)


def parse_yaml(text: str, *, source: str) -> Any:  # noqa: ANN401 -- YAML holds anything until a model checks it
    """Parse YAML and refuse keys that stand twice.

    Raises:
        ConfigError: If the text is not YAML; names `source`, line and column.
    """
    try:
        # _UniqueKeyLoader is a SafeLoader
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable as YAML"
        raise ConfigError(f"{source}{place}: {problem}; fix the file") from error


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read `path` as `model`.

    Raises:
        ConfigError: If the file is missing, not YAML, or holds a wrong key or value; one sentence per wrong key that
            names the file, the key, what was seen and what is allowed.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; a configuration file is not")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name an existing YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__}); name a readable UTF-8 file") from error
    return parse_settings(text, model, source=str(path))


def parse_settings(text: str, model: type[Model], *, source: str) -> Model:
    """Parse `text` as `model`; `source` names the file in errors.

    Raises:
        ConfigError: See `load_settings`.
    """
    content = parse_yaml(text, source=source)
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: holds {type(content).__name__}, a mapping of keys is allowed")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(source, content, model, item) for item in error.errors())) from error


def _sentence(source: str, content: dict[str, Any], model: type[BaseModel], item: Any) -> str:  # noqa: ANN401 -- pydantic's ErrorDetails
    location = item["loc"]
    key = ".".join(str(part) for part in location) or "(whole file)"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, FedwardError | ValueError):
        return f"{source}: {key}: {cause}" if location else f"{source}: {cause}"
    if item["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'{_suggestion(model, location)}"
    if item["type"] == "missing":
        return f"{source}: key '{key}' is missing; add it"
    seen = _value_at(content, location)
    return f"{source}: {key}: seen {seen!r}; {item['msg'][0].lower()}{item['msg'][1:]}"


def _value_at(content: Any, location: tuple[int | str, ...]) -> Any:  # noqa: ANN401 -- any YAML value
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            # Union members add their own name to the location; what stands below is the value itself.
            continue
    return content


def _suggestion(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    fields = _fields_at(model, location[:-1])
    if not fields:
        return "; remove it"
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; allowed here: {', '.join(sorted(fields))}"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)
