"""The confusion matrix and each class's recall, as tables."""

from __future__ import annotations

from typing import NamedTuple

from sentio.reporting.markup import bar, columns, own, percent, scrolling, table, text
from sentio.training.evaluation import Evaluation

#: cells also show shares up to so many columns; beyond, the shade and the tooltip do
WITH_SHARES = 12
NONE = "none of these"


class Row(NamedTuple):
    """One class of the data.

    Args:
        label: its name.
        counts: recordings by answer, the last one "none of these".
        own: the place of the right answer.
    """

    label: str
    counts: list[int]
    own: int

    @property
    def total(self) -> int:
        """Recordings of this class."""
        return sum(self.counts)

    @property
    def recall(self) -> float:
        """Share of them answered rightly."""
        return self.counts[self.own] / self.total


def present(evaluation: Evaluation) -> list[Row]:
    """The classes that the data holds."""
    return [
        Row(label, counts, place)
        for place, (label, counts) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True))
        if sum(counts)
    ]


def confusion(evaluation: Evaluation) -> str:
    """Recordings by truth (rows) and answer (columns).

    Classes that neither occur nor were answered have no column, "none of these" only where it was used.
    """
    rows = present(evaluation)
    names = [*evaluation.labels, NONE]
    used = {row.own for row in rows} | {place for row in rows for place, n in enumerate(row.counts) if n}
    shown = sorted(used)
    small = len(shown) <= WITH_SHARES
    heads = []
    for place in shown:
        kind = ' class="none"' if place == len(evaluation.labels) else ""
        heads.append(f'<th scope="col"{kind}><span>{own(names[place])}</span></th>')
    body = "\n".join(
        f'<tr><th scope="row">{own(row.label)}</th>'
        + "".join(_cell(row, place, names[place], small) for place in shown)
        + "</tr>"
        for row in rows
    )
    left_out = len(evaluation.labels) - len([place for place in shown if place < len(evaluation.labels)])
    absent = ""
    if left_out == 1:
        absent = " 1 class that neither occurs nor was answered is left out."
    elif left_out:
        absent = f" {left_out} classes that neither occur nor were answered are left out."
    widest = max(columns(row.label) for row in rows)
    corner = f'<th scope="col" class="corner" style="--ch:{min(widest, 26)}">truth&nbsp;\\&nbsp;answer</th>'
    return scrolling(
        "Recordings by what they are (rows) and what they were answered (columns)"
        f"{', with the share of their row' if small else ''}; right answers are framed.{absent}",
        f'<table class="matrix{"" if small else " large"}">'
        f"<thead><tr>{corner}{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody></table>",
    )


def recalls(evaluation: Evaluation) -> str:
    """The classes with the share of their recordings that were answered rightly, the lowest first."""
    found = present(evaluation)
    answered = [sum(row.counts[place] for row in found) for place in range(len(evaluation.labels))]
    names = [*evaluation.labels, NONE]
    rows = []
    for row in sorted(found, key=lambda row: (row.recall, row.label)):
        wrong = [(n, -place) for place, n in enumerate(row.counts) if n and place != row.own]
        most = max(wrong, default=None)
        precision = row.counts[row.own] / answered[row.own] if answered[row.own] else None
        rows.append(
            (
                own(row.label),
                bar(row.recall, 1.0 if row.recall < 1.0 else row.recall, f"{100 * row.recall:.0f} %"),
                percent(row.recall, 0),
                f"{row.counts[row.own]} of {row.total}",
                percent(precision, 0),
                "&ndash;" if most is None else f"{own(names[-most[1]])} ({most[0]})",
            )
        )
    return table(
        ("class", "", "recall", "right", "precision", "most often taken for"),
        rows,
        caption="Of each class's recordings the share answered rightly (recall), and of the answers that "
        "name it the share that are right (precision); the lowest recall first.",
        name="bars",
        left=(0, 1, 5),
    )


def _cell(row: Row, place: int, name: str, small: bool) -> str:
    number = row.counts[place]
    kind = "right" if place == row.own else "wrong"
    if not number:
        return f'<td class="{kind} zero">{"0" if place == row.own else "·"}</td>'
    share = number / row.total
    told = f"{row.label} answered {name}: {number} of {row.total} ({100 * share:.1f} %)"
    below = f"<small>{100 * share:.0f}&nbsp;%</small>" if small else ""
    shade = f"--s:{0.1 + 0.62 * share:.2f}"
    return f'<td class="{kind}" style="{shade}" title="{text(told)}">{number}{below}</td>'
