"""Writing a report: one HTML file, whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentio.core.errors import ArtifactError, ConfigError
from sentio.reporting.page import page
from sentio.reporting.svg import check_drawing
from sentio.training.evaluation import Evaluation
from sentio.training.scoring import Scores

if TYPE_CHECKING:
    from sentio.serve.listening import Listening

#: how a report begins
_BEGINNING = b"<!doctype html>"


def write_report(
    path: str | Path,
    evaluations: Evaluation | Scores | Sequence[Evaluation] | Sequence[Scores],
    *,
    title: str,
    listening: Listening | None = None,
    made_by: Mapping[str, str] | None = None,
) -> Path:
    """Write what was measured as one HTML file that needs nothing else: no network, no script, no other file.

    The same evaluations give the same bytes.

    Args:
        path: of the file; a report that is there already is replaced.
        evaluations: the first is the main one, the others are of other policies on the same recordings.
        title: above all, usually the model and the data.
        listening: one recording as it was heard, drawn as a timeline above its spectrogram.
        made_by: how it was made: command, versions, seed, machine, data; see `circumstances`.

    Returns:
        the path.

    Raises:
        InputError: the recording that was heard is no longer there to draw its spectrogram.
        ConfigError: no evaluation, or evaluations of different labels, exits or recordings.
        ArtifactError: the file cannot be written, or something else is at its place; what was there stays.
        MissingExtraError: matplotlib is not installed.
    """
    given: list[Any] = [evaluations] if isinstance(evaluations, Evaluation | Scores) else list(evaluations)
    if not given:
        raise ConfigError("A report needs at least one evaluation, got none")
    facts = {(_told(each), tuple(row.name for row in each.exits), each.recordings) for each in given}
    if len(facts) > 1:
        raise ConfigError(
            "A report compares policies of one model on the same recordings, got evaluations of different "
            "labels, exits or recordings; write a report for each"
        )
    target = check_report(path)
    content = page(given, title, listening, made_by).encode()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".report-") as scratch:
            fresh = Path(scratch) / "new"
            fresh.write_bytes(content)
            fresh.replace(target)
    except OSError as error:
        raise ArtifactError(f"Report {path} could not be written: {error.strerror or error}") from error
    return Path(path)


def _told(found: Evaluation | Scores) -> tuple[str, ...]:
    """What it is measured by: classes, or figures."""
    return found.labels if isinstance(found, Evaluation) else tuple(found.headings)


def check_report(path: str | Path) -> Path:
    """A report may be written here; for callers with long work ahead of it.

    Returns:
        where it goes, links followed.

    Raises:
        ArtifactError: the place is a folder, its folder is missing or cannot be written to, or it holds
            something else that would be lost.
        MissingExtraError: matplotlib is not installed.
    """
    check_drawing()
    target = Path(path).expanduser()
    try:
        target = target.resolve()
        if target.is_dir():
            raise ArtifactError(f"Report {path} could not be written: it is a folder; name a file in it")
        if not target.parent.is_dir():
            raise ArtifactError(
                f"Report {path} could not be written: there is no folder {target.parent}; make it, or choose "
                "another place"
            )
        if target.exists():
            _check_replaceable(target)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"Report {path} could not be written: {reason}") from error
    return target


def _check_replaceable(target: Path) -> None:
    """Only a page is replaced: a slip of the fingers should not cost a recording or a table."""
    begins = b""
    if target.is_file():
        with target.open("rb") as file:
            begins = file.read(len(_BEGINNING))
    empty = target.is_file() and not begins
    if begins.lower() != _BEGINNING and not empty:
        raise ArtifactError(
            f"{target} exists and is not a report, so it is not replaced; choose another place"
        )
