"""A recipe: one YAML file that says what is trained on what and how, validated whole before anything runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sentio.core.errors import ConfigError
from sentio.training.checking import check
from sentio.training.sections import Recipe
from sentio.training.task_of_recipe import settled

__all__ = ["Recipe", "read_recipe"]


def read_recipe(source: str | Path | Mapping[str, Any] | Recipe, **changes: Any) -> Recipe:
    """Read and check a recipe; all its errors are reported at once.

    Args:
        source: a YAML file, plain values, or a recipe.
        changes: values that replace the file's, by dotted path with ``__`` for the dot,
            e.g. ``data__split=2``; those that are None are ignored.

    Raises:
        ConfigError: the file cannot be read, or the recipe is not valid; lists every problem.
    """
    values, where = _values(source)
    for path, value in changes.items():
        if value is not None:
            _set(values, path.split("__"), value)
    stated = any(path.startswith("calibration") for path in changes)
    if isinstance(source, Recipe) and not stated and "calibration" not in source.model_fields_set:
        del values["calibration"]  # a goal that nobody stated is none of a task that cannot have one
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        # Names and options are looked at as well, in what can be read.
        readable = {key: values[key] for key in values if key not in {e["loc"][0] for e in error.errors()}}
        problems = [*_problems(error.errors()), *_checked_part(readable)]
        raise ConfigError(_sentence(where, problems)) from error
    found = check(recipe)
    if found:
        raise ConfigError(_sentence(where, found))
    return settled(recipe)


def _checked_part(values: dict[str, Any]) -> list[str]:
    try:
        return check(Recipe.model_validate({"name": "part", **values}))
    except ValidationError:
        return []


def _problems(errors: list[ErrorDetails]) -> list[str]:
    """One sentence for each field that is wrong: a union of types gives an error for each of them."""
    found: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for error in errors:
        place, known = _field(error["loc"])
        if error["type"] == "extra_forbidden":
            name = str(error["loc"][-1])
            near = get_close_matches(name, known, n=1)
            text = (
                f"unknown key; did you mean {near[0]!r}?"
                if near
                else f"unknown key; known: {', '.join(known)}"
            )
        elif error["type"] == "missing":
            text = "missing"
        else:
            text = error["msg"].removeprefix("Input ")
            if error["type"] in ("model_type", "dict_type"):
                text = "should hold names and values"
            got[place] = f", got {error['input']!r}"
        texts = found.setdefault(place, [])
        if text not in texts:
            texts.append(text)
    return [f"{place}: {' or '.join(texts)}{got.get(place, '')}" for place, texts in found.items()]


def _field(location: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted name of a field, without what pydantic adds for unions, and the names known beside it."""
    model: type[BaseModel] | None = Recipe
    names: list[str] = []
    known: list[str] = []
    for part in location:
        if isinstance(part, int):
            names.append(str(part))
            continue
        if model is None:
            break
        known = list(model.model_fields)
        names.append(part)
        field = model.model_fields.get(part)
        model = None if field is None else next(_models(field.annotation), None)
    return ".".join(names) or "recipe", known


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation speaks of: ``ExitSection`` in ``list[ExitSection]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _values(source: str | Path | Mapping[str, Any] | Recipe) -> tuple[dict[str, Any], str]:
    if isinstance(source, Recipe):
        return source.model_dump(), f"Recipe {source.name!r}"
    if isinstance(source, Mapping):
        return {**source}, f"Recipe {source.get('name', 'without a name')!r}"
    path = Path(source)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except OSError as error:
        raise ConfigError(f"Recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = "" if line is None else f", line {line + 1}"
        raise ConfigError(
            f"Recipe {path} is not valid YAML{place}: {getattr(error, 'problem', error)}"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"Recipe {path} is not a recipe: it must hold names and values, at least name:")
    return {str(key): value for key, value in values.items()}, f"Recipe {path}"


class _OnceLoader(yaml.SafeLoader):
    """Plain values only, and no key twice in one place: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = values.get(name)
        # A bare name stands for a section, see `NamedSection`.
        bare = {"name": inner} if isinstance(inner, str) else {}
        values[name] = dict(inner) if isinstance(inner, Mapping) else bare
        values = values[name]
    values[path[-1]] = value


def _sentence(where: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{where} is not valid: {problems[0]}"
    numbered = "; ".join(f"({number}) {text}" for number, text in enumerate(problems, 1))
    return f"{where} has {len(problems)} problems: {numbered}"
