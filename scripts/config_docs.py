"""Writes docs/configuration.md from the models that read the files: `python -m scripts.config_docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from common.plan import Plan
from common.server_config import ServerConfig
from common.site_config import SiteConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

`python -m scripts.config_docs` wrote this page from the models in `common/plan.py`, `common/site_config.py` and
`common/server_config.py`; a test compares them. Do not edit it by hand.

All files are YAML. A wrong file ends the command with exit code 2 and one line per wrong key, which names the file, the
key, what was seen and what is allowed. An unknown key and a key that stands twice are errors. Relative paths start from
the folder of the file that holds them. Two traps of YAML: write `1.0e-5`, since `1e-5` is text to it, and quote a value
that begins with `*`, `&`, `!`, `%`, `@` or a backtick.

Every key without a default must be there. A privacy parameter of the plan never has one.
"""
PLAN = """
What all hospitals agree to. Templates are `configs/plans/demo.yaml` (drawn lesions), `configs/plans/skin9.yaml` (nine
classes of dermoscopy images), `configs/plans/skin9-distributed.yaml` (the same with shared noise),
`configs/plans/skin9-network.yaml` (the last block of a network trained), `configs/plans/cnn.yaml` (a network trained
whole), `configs/plans/heart.yaml`, `configs/plans/breast.yaml` (tables),
`configs/plans/survival.yaml` (times to an event) and `configs/plans/ancestry.yaml` (genotypes; [data.md](data.md)
explains the mapping files of sites). A template has no `federation`; `fedward provision` adds it and sets
`encryption.update_norm_bound`, `cohort.threshold` and `cohort.min_cohort` where they say `auto`.
The SHA-256 of the plan's canonical form is its digest: it stands in every message, and a site takes part only in plans
whose digest it approved.

Beyond the ranges below a plan is refused if delta is not below 1/n for a hospital with n declared units, if a class, a
hospital's name or a key stands twice, if the CKKS modulus has no room for the updates of the roster, and, at the site,
if a trained layer is not supported by Opacus. Mode `distributed` asks for more: one local step, no local momentum, the
preset `precise`, no budget of a hospital's own, two honest shares of noise at least ([privacy.md](privacy.md)). A plan
is refused as well unless its n hospitals, `cohort.threshold` t,
`cohort.min_cohort` and `cohort.assumed_colluders` c keep all of these:

* n >= 3: each of two hospitals would read the other's update from their sum;
* 2t >= n + c + 1: else the coordinator and c hospitals could have two different sums of one round revealed;
* t <= `min_cohort` <= n: those who must reveal a sum are in it;
* `min_cohort` - c >= 2: colluders take their own updates out of a sum, and two others' must be left.

`auto` keeps them for every n with one colluder. n - `min_cohort` hospitals may drop out of a round: none of 3 (t = 3),
one of 4 (t = 3) or 5 (t = 4), three of 10 (t = 7).
"""
SITE = """
What only this hospital decides. `configs/site.yaml` is a sample with comments. The site's own cap and policy win over
the plan.
"""
SERVER = """
Where the coordinator listens and keeps its files. `configs/server.yaml` is a sample with comments. Its folder and the
folder of the file must not hold a CKKS secret key, a hospital's vault or the key of one: the coordinator refuses to
start there.
"""
FILES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("Plan", PLAN, Plan),
    ("Site file", SITE, SiteConfig),
    ("Server file", SERVER, ServerConfig),
)

Schema = dict[str, Any]


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for title, text, model in FILES:
        schema = model.model_json_schema()
        parts += [f"\n## {title}\n", text, *_section(schema, schema["$defs"], prefix="")]
    return "".join(parts)


def _section(schema: Schema, models: Schema, *, prefix: str) -> list[str]:
    """The table of one model, and then a section for each model below it."""
    rows, below = [], []
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        key = f"{prefix}{name}"
        inner = _inner_models(field, models)
        default = "required" if name in required else _default(field)
        allowed = _allowed(field).replace("|", "\\|")
        rows.append(f"| `{key}` | {allowed} | {default} | {_meaning(field, inner)} |\n")
        below += [part for model in inner for part in _subsection(key, field, model, models)]
    return ["\n| key | allowed | default | meaning |\n|---|---|---|---|\n", *rows, *below]


def _subsection(key: str, field: Schema, model: Schema, models: Schema) -> list[str]:
    name = f"{key}[]" if field.get("type") == "array" else key
    kind = model["properties"].get("kind", {}).get("const")
    with_kind = f" with `kind: {kind}`" if kind and "oneOf" in field else ""
    return [f"\n### `{name}`{with_kind}\n\n{_sentence(model)}\n", *_section(model, models, prefix=f"{name}.")]


def _inner_models(field: Schema, models: Schema) -> list[Schema]:
    """The models that a field holds: none for a plain value, several for a choice."""
    choices = [field, field.get("items", {}), *field.get("oneOf", ()), *field.get("anyOf", ())]
    return [models[choice["$ref"].rsplit("/", 1)[1]] for choice in choices if "$ref" in choice]


def _meaning(field: Schema, inner: list[Schema]) -> str:
    text = str(field.get("description") or "; or ".join(_as_phrase(_sentence(model)) for model in inner))
    return text.replace("|", "\\|")


def _sentence(model: Schema) -> str:
    return str(model.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _as_phrase(sentence: str) -> str:
    """Without the full stop, and without the first capital unless the first word is a name such as FedAvg."""
    first = sentence.split(" ", 1)[0]
    phrase = sentence.rstrip(".")
    return phrase[:1].lower() + phrase[1:] if first[1:].islower() or len(first) == 1 else phrase


def _default(field: Schema) -> str:
    value = field.get("default")
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(field: Schema) -> str:
    """What a field takes, in words."""
    if "$ref" in field or "oneOf" in field:
        return "see below"
    if "anyOf" in field:
        return " or ".join(_allowed(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        item = field["items"] if "items" in field else field["prefixItems"][0]
        return f"list of {_length(field, 'minItems', 'maxItems')}{_allowed(item)}"
    if field["type"] == "string":
        return _text(field)
    word = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}[field["type"]]
    return ", ".join([word, *_bounds(field)])


def _text(field: Schema) -> str:
    if field.get("format") == "path":
        return "path"
    if "pattern" in field:
        return f"text like `{field['pattern']}`"
    length = _length(field, "minLength", "maxLength")
    return f"text of {length}characters" if length else "text"


def _length(field: Schema, least: str, most: str) -> str:
    low, high = field.get(least), field.get(most)
    if high is not None and high == low:
        return f"{low}: " if least == "minItems" else f"{low} "
    if high is not None:
        return f"{low or 0} to {high}: " if least == "minItems" else f"{low or 0} to {high} "
    return f"at least {low}: " if low is not None else ""


def _bounds(field: Schema) -> list[str]:
    signs = (("exclusiveMinimum", "above"), ("minimum", "from"), ("exclusiveMaximum", "below"), ("maximum", "to"))
    return [f"{word} {field[name]:,}".replace(",", " ") for name, word in signs if name in field]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
