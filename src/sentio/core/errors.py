"""What can go wrong, as types with an exit code each.

Every message is one sentence that names what is wrong, where, and what to do; the command line prints
it and leaves with the type's exit code.
"""

from __future__ import annotations


class SentioError(Exception):
    """Any error of this library that a user can act on."""

    exit_code = 1


class ConfigError(SentioError):
    """A recipe, an option or an argument is not valid."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that is not in a registry or in a network."""

    def __init__(self, kind: str, name: str, known: list[str] | tuple[str, ...]) -> None:
        from difflib import get_close_matches

        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of: " + ", ".join(known)
        super().__init__(f"Unknown {kind} {name!r}; {hint}")
        self.kind, self.name, self.known = kind, name, tuple(known)


class InputError(SentioError):
    """A file or an array of the user's cannot be used as it is."""

    exit_code = 3


class ArtifactError(SentioError):
    """An artifact is damaged, foreign, too new or does not fit."""

    exit_code = 4


class MissingExtraError(SentioError):
    """Something that is not installed is needed; names the extra that brings it."""

    exit_code = 5

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed here; run: pip install 'sentio[{extra}]'")
        self.what, self.extra = what, extra


class MissingProgramError(SentioError):
    """A program outside Python that is not installed is needed; says what brings it."""

    exit_code = 5


class StageError(SentioError):
    """A network cannot be cut into stages where it was asked to be."""

    exit_code = 6


class CancelledError(SentioError):
    """The caller asked a running job to stop."""

    exit_code = 130
