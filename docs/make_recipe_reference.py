"""Write the tables of docs/training.md from a recipe's sections: ``python docs/make_recipe_reference.py``."""

from __future__ import annotations

import typing
from inspect import getdoc
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sentio.training.sections import ExitSection, NamedSection, Recipe

PAGE = Path(__file__).with_name("training.md")
START = "<!-- Written by docs/make_recipe_reference.py from here; change the sections, not this page. -->"
#: bound of a field -> how it is read
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
END = "<!-- Up to here. -->"


def reference() -> str:
    """All tables: the top level, then each section."""
    parts = [_table(Recipe)]
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and section is not NamedSection:
            parts.append(f"### `{name}`\n\n{getdoc(section)}\n\n{_table(section)}")
    named = "### `frontend`, `network`, `task`, `technique`"
    parts.insert(1, f"{named}\n\n{getdoc(NamedSection)}\n\n{_table(NamedSection)}")
    parts.insert(2, f"### `exits`\n\n{getdoc(ExitSection)}\n\n{_table(ExitSection)}")
    return "\n\n".join(parts)


def _table(section: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_kind(field.annotation, field)} | {_default(field)} | {_meaning(name, field)} |"
        for name, field in section.model_fields.items()
    ]
    return "\n".join(["| key | values | default | |", "|---|---|---|---|", *rows])


def _kind(annotation: Any, field: FieldInfo | None = None) -> str:
    """A type as a reader of YAML speaks of it, with its bounds."""
    limits = "" if field is None else _limits(field.metadata)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0]) + _limits(list(arguments[1:]))
    if origin in (list, dict):
        return "names and values" if origin is dict else f"list of {_plural(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: each a {_kind(arguments[0])}"
    if arguments:  # a union
        return ", ".join(_kind(kind) for kind in arguments if kind is not type(None)) + limits
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return plain.get(annotation, "section") + limits


def _plural(annotation: Any) -> str:
    return {str: "texts", int: "whole numbers"}.get(annotation, "sections")


def _limits(metadata: list[Any]) -> str:
    words = []
    for limit in metadata:
        words += [
            f"{text} {'2^32' if bound == 2**32 else bound}"
            for name, text in BOUNDS.items()
            if (bound := getattr(limit, name, None)) is not None
        ]
        words += ["not empty"] if getattr(limit, "min_length", None) else []
        # What stands in Annotated[..., Field(...)] holds its bounds one level deeper.
        words += [_limits([inner]).strip() for inner in getattr(limit, "metadata", [])]
    return f" {' and '.join(words)}" if words else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, NamedSection):
        return f"`{value.name}`"
    if isinstance(value, tuple):
        value = list(value)
    return (
        ""
        if isinstance(value, BaseModel)
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


def _meaning(name: str, field: FieldInfo) -> str:
    if field.description:
        return field.description
    return (
        f"See below; `accuracy_drop` is {field.default.accuracy_drop}."
        if name == "calibration"
        else "See below."
    )


def page() -> str:
    """The page with its tables written anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n\n{reference()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
