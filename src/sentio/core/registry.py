"""Names to constructors: a closed registry, filled lazily and without importing PyTorch to list names.

Each room that offers things by name (``sentio.networks``, ``sentio.exits``, ``sentio.tasks``) keeps a table
``MEMBERS`` of name -> module in its ``__init__``. A look-up imports that one module, whose
``@register(kind, name, ...)`` decorators add the entries. So listing is cheap, a recipe can only name what
the library holds, and nothing happens at import of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, TypeVar

from sentio.core.errors import ConfigError, MissingExtraError, UnknownNameError

#: kind of thing -> the rooms whose ``MEMBERS`` tables list it
ROOMS = {
    "network": ("sentio.networks",),
    "exit": ("sentio.exits",),
    "task": ("sentio.tasks",),
    "frontend": ("sentio.audio", "sentio.vision"),
    "technique": ("sentio.techniques",),
}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One registered constructor.

    ``input_shapes`` maps each input's name to its shape without the batch axis; ``small`` holds the options
    and ``small_shapes`` the input shapes at which the contract tests build the network.
    """

    kind: str
    name: str
    build: Callable[..., Any]
    summary: str = ""
    paper: str = ""
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    small_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def options(self) -> dict[str, Parameter]:
        """The keyword options of the constructor, by name."""
        return {
            name: parameter
            for name, parameter in signature(self.build).parameters.items()
            if parameter.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        }

    def check_options(self, options: dict[str, Any]) -> list[str]:
        """Problems with ``options``, one sentence each; empty when they fit the constructor."""
        known = self.options()
        return [
            f"{self.kind} {self.name!r} has no option {name!r}; it takes: {', '.join(known)}"
            for name in options
            if name not in known
        ]


_ENTRIES: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str, **facts: Any) -> Callable[[F], F]:
    """Decorator: the function builds the ``kind`` called ``name``; ``facts`` are fields of `Entry`."""

    def add(build: F) -> F:
        summary = (build.__doc__ or "").strip().split("\n")[0]
        _ENTRIES[kind, name] = Entry(kind, name, build, **{"summary": summary, **facts})
        return build

    return add


def names(kind: str) -> list[str]:
    """All names of one kind, without importing what they name."""
    return sorted(_members(kind))


def find(kind: str, name: str) -> Entry:
    """The entry called ``name``; imports its module on first use.

    Raises:
        UnknownNameError: no such name; the message offers the nearest one.
        MissingExtraError: its module needs PyTorch, which is not installed.
    """
    members = _members(kind)
    if name not in members:
        raise UnknownNameError(kind, name, sorted(members))
    if (kind, name) not in _ENTRIES:
        try:
            import_module(members[name])
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] in ("torch", "safetensors"):
                raise MissingExtraError(f"PyTorch, which {kind} {name!r} needs,", "torch") from error
            raise
    return _ENTRIES[kind, name]


def build(kind: str, name: str, *args: Any, **options: Any) -> Any:
    """Build the ``kind`` called ``name`` after checking its options.

    Raises:
        ConfigError: an option that the constructor does not take.
    """
    entry = find(kind, name)
    problems = entry.check_options(options)
    if problems:
        raise ConfigError("; ".join(problems))
    return entry.build(*args, **options)


def _members(kind: str) -> dict[str, str]:
    """Name -> module."""
    return {
        name: f"{room}.{module}"
        for room in ROOMS[kind]
        for name, module in import_module(room).MEMBERS.items()
    }
