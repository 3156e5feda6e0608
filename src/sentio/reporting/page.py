"""The page: its head, and its parts in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sentio.reporting import scores, sections
from sentio.reporting.markup import text
from sentio.reporting.matrix import confusion, recalls
from sentio.training.evaluation import Evaluation
from sentio.training.scoring import Scores

if TYPE_CHECKING:
    from sentio.serve.listening import Listening

#: Nothing is fetched and nothing runs, whatever a label or a file name tries.
SAFE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(
    evaluations: Sequence[Evaluation] | Sequence[Scores],
    title: str,
    listening: Listening | None = None,
    made_by: Mapping[str, str] | None = None,
) -> str:
    """The whole report as HTML.

    Args:
        evaluations: the first is the main one, the others are of other policies on the same recordings.
        title: above all.
        listening: one recording as it was heard.
        made_by: command, versions, seed, machine, data.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    main = evaluations[0]
    notes = list(dict.fromkeys(note for each in evaluations for note in each.notes))
    made = {**(made_by or {}), "runtime": main.runtime}
    if isinstance(main, Scores):
        lead, tiles, parts = scores.headline(main), scores.key_figures(main), _scored(evaluations)
    else:
        lead, tiles = sections.headline(main), sections.key_figures(main)
        parts = _classified(evaluations, listening)
    parts += [
        _section("Notes", sections.notes(notes)) if notes else "",
        _section("How it was made", sections.made(made)),
    ]
    style = files("sentio.reporting").joinpath("style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{SAFE}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Sentio">
<title>{text(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{text(title)}</h1>
<p class="lead">{lead}</p>
{sections.tiled(tiles)}</header>
{"".join(parts)}</main>
</body>
</html>
"""


def _classified(evaluations: Sequence[Any], listening: Listening | None) -> list[str]:
    """The parts on a classifier."""
    main = evaluations[0]
    exit_names = [row.name for row in main.exits]
    return [
        _section("Exits", sections.exits(main)),
        _section("Policies", sections.policies(evaluations)) if len(evaluations) > 1 else "",
        _section("Accuracy over cost", sections.tradeoff(evaluations)),
        _section("Exits used", sections.exits_used(evaluations)),
        _section("Confusion matrix", confusion(main)),
        _section("Recall of each class", recalls(main)),
        _section("The surest mistakes", sections.surest_mistakes(main)),
        _section("A recording, heard", sections.listened(listening, exit_names)) if listening else "",
    ]


def _scored(evaluations: Sequence[Any]) -> list[str]:
    """The parts on a model whose task has other figures."""
    main = evaluations[0]
    heading = text(next(iter(main.headings.values())))
    return [
        _section("Exits", scores.exits(main)),
        _section("Policies", scores.policies(evaluations)) if len(evaluations) > 1 else "",
        _section(f"{heading} over cost", scores.over_cost(main)),
        _section(f"By {text(main.by)}", scores.groups(main)) if main.by is not None else "",
    ]


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}</section>\n"
