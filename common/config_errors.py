"""What is wrong with a configuration file, in one sentence per key: file, key, what was seen, what is allowed."""

from __future__ import annotations

import contextlib
import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.printable import printable

Location = tuple[int | str, ...]

_MAX_SEEN_CHARACTERS = 80
_SIMILAR_ENOUGH = 0.75  # `node_kye` is meant to be `node_key`; `colour` is not meant to be `cohort`


def sentences(error: ValidationError, *, source: str, content: dict[str, Any], model: type[BaseModel]) -> str:
    """One line for each wrong key of `content`, which `model` refused.

    Args:
        error: What pydantic says.
        source: Name of the file.
        content: What the file holds.
        model: What it should be.
    """
    by_key: dict[str, list[str]] = {}
    items = error.errors()
    for item in items:
        if item["type"] == "too_short" and any(_below(item["loc"], other["loc"]) for other in items):
            continue  # a wrong item is not counted, and is reported itself
        key, problem = _problem(item, content, model)
        by_key.setdefault(key, []).append(problem)
    return "\n".join(f"{source}: {key}{_joined(problems)}" for key, problems in by_key.items())


def _joined(problems: list[str]) -> str:
    """A key that may be one of two things fails as both: what is allowed by the second is an alternative."""
    return ", or ".join([problems[0], *(problem.split("; ", 1)[-1] for problem in problems[1:])])


def _problem(item: ErrorDetails, content: dict[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    """The key, and what follows it in the sentence."""
    location, kind, context = (
        _keys(item["loc"], content, missing=item["type"] == "missing"),
        item["type"],
        item.get("ctx", {}),
    )
    if kind == "union_tag_not_found":
        location, kind = (*location, _discriminator(context)), "missing"
    if kind == "union_tag_invalid":
        location = (*location, _discriminator(context))
        return _dotted(location), f": seen {context['tag']!r}; {context['expected_tags']} are allowed"
    if kind == "missing":
        return f"key '{_dotted(location)}'", " is missing; add it"
    if kind == "extra_forbidden":
        return f"unknown key '{_dotted(location)}'", _suggestion(model, location, content)
    if kind in ("value_error", "assertion_error") and "error" in context:
        return _dotted(location), f"{': ' if location else ''}{context['error']}"
    return _dotted(location), f": seen {_shown(_value_at(content, location))}; {_allowed(item, content, location)}"


def _discriminator(context: dict[str, Any]) -> str:
    """The key in the file: pydantic says `'name' | 'alias'` where it has another name in Python."""
    return str(context["discriminator"]).rpartition(" | ")[2].strip("'")


def _allowed(item: ErrorDetails, content: dict[str, Any], location: Location) -> str:
    kind, value = item["type"], _value_at(content, location)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "a mapping of keys is allowed"
    if kind in ("float_type", "int_type") and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = float(value)
            return (
                f"a number is allowed, this is text; write {_as_yaml(number, whole=kind == 'int_type')} without quotes"
            )
    message = item["msg"].replace("valid array", "list").replace(" after validation", "").replace("Tuple", "The list")
    return f"{message[0].lower()}{message[1:]}"


def _as_yaml(number: float, *, whole: bool) -> str:
    if whole or "e" not in repr(number):
        return f"{number:g}" if whole else repr(number)
    mantissa, exponent = repr(number).split("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SEEN_CHARACTERS else f"{text[: _MAX_SEEN_CHARACTERS - 1]}…"


def _below(location: Location, other: Location) -> bool:
    return len(other) > len(location) and other[: len(location)] == location


def _dotted(location: Location) -> str:
    return printable(".".join(str(part) for part in location))


def _keys(location: Location, content: object, *, missing: bool) -> Location:
    """The location without the names of union members, which pydantic adds and no file holds."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        found, below = _step(content, part)
        if found:
            content = below
        if found or (missing and index == len(location) - 1):
            kept.append(part)
    return tuple(kept)


def _step(content: object, part: int | str) -> tuple[bool, Any]:
    if isinstance(content, dict) and part in content:
        return True, content[part]
    if isinstance(content, list) and isinstance(part, int) and part < len(content):
        return True, content[part]
    return False, None


def _value_at(content: object, location: Location) -> object:
    for part in location:
        content = _step(content, part)[1]
    return content


def _suggestion(model: type[BaseModel], location: Location, content: dict[str, Any]) -> str:
    fields = _fields_at(model, location[:-1], content)
    close = difflib.get_close_matches(str(location[-1]), fields, n=1, cutoff=_SIMILAR_ENOUGH)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; allowed here: {', '.join(sorted(fields))}" if fields else "; remove it"


def _fields_at(model: type[BaseModel], location: Location, content: object) -> list[str]:
    """Names of the keys that the model knows at a place of the file."""
    current: type[BaseModel] | None = model
    for part in location:
        content = _step(content, part)[1]
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = _model_of(field.annotation, content) if field else None
    return list(current.model_fields) if current else []


def _model_of(annotation: object, content: object) -> type[BaseModel] | None:
    """The model in an annotation; of several, that whose `kind` the file names."""
    models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
    if len(models) > 1 and isinstance(content, dict):
        return next((m for m in models if content.get("kind") in get_args(m.model_fields["kind"].annotation)), None)
    return models[0] if models else None
