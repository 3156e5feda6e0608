"""How speakers of other languages say words, in the spelling of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from sentio.core.errors import ConfigError

#: language -> label -> what is read with the rules and sounds of that language
Accents = Mapping[str, Mapping[str, str]]


def read_accents(path: str | Path) -> dict[str, dict[str, str]]:
    """Accents from YAML: a line ``LANGUAGE: {LABEL: spelling, ...}`` for each.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    file = Path(path)
    try:
        # The base loader leaves everything text, so that "no" is a word.
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"Accents {file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"Accents {file} are no YAML: {' '.join(str(error).split())}") from error
    tables = list(values.values()) if isinstance(values, dict) else [None]
    if not all(isinstance(one, dict) and all(isinstance(t, str) for t in one.values()) for one in tables):
        raise ConfigError(f"Accents {file} are no table; write LANGUAGE: {{LABEL: spelling, ...}} for each")
    found: dict[str, dict[str, str]] = values
    return found


def check_accents(accents: Accents, labels: Iterable[str]) -> None:
    """Each accent spells exactly the words that are said.

    Raises:
        ConfigError: one does not; says which word.
    """
    wanted = list(labels)
    for language, spelled in accents.items():
        for label in wanted:
            if not spelled.get(label, "").strip():
                raise ConfigError(f"Accent {language!r} does not spell {label!r}; write it, or leave it out")
        for label in spelled:
            if label not in wanted:
                raise ConfigError(f"Accent {language!r} spells {label!r}, which is not said; take it out")
