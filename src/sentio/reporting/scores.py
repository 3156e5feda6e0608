"""The parts of a report on a model that does not classify: its task's figures in place of accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentio.reporting.markup import count, milliseconds, own, percent, plain, policy, table, text
from sentio.reporting.svg import COLOURS, drawing, inline
from sentio.training.scoring import Scores

#: width and height of the plot in inches
SIZE = (4.7, 3.0)


def headline(main: Scores) -> str:
    """What a reader wants to know, in one sentence."""
    heading = next(iter(main.headings.values()))
    last = main.exits[-1]
    return (
        f"Its {text(heading)} is <strong>{_main(main, main.figures)}</strong>{_unit(main)} over "
        f"{_things(main.recordings, 'recording')}, in {milliseconds(main.mean_ms)} per window on average; "
        f"its last exit alone has {_main(main, last.figures)}."
    )


def key_figures(main: Scores) -> list[tuple[str, str, str]]:
    """Tiles: a figure, its name, and what to know about it."""
    last = main.exits[-1]
    tiles = [
        (f"{main.figures[name]:.2f}", text(heading), f"last exit {last.figures[name]:.2f}")
        for name, heading in main.headings.items()
    ]
    known = main.mean_macs is not None
    tiles += [
        (
            count(main.mean_macs),
            "MACs per window, mean",
            f"last exit {count(last.macs)}" if known else "costs are not known",
        ),
        (
            milliseconds(main.mean_ms),
            "per window, mean",
            f"last exit {milliseconds(last.ms)}; features not included",
        ),
        (str(main.recordings), "recordings", _things(main.windows, "window")),
    ]
    return tiles


def exits(main: Scores) -> str:
    """The table of the exits."""
    last = main.exits[-1].macs
    rows = [
        (
            own(row.name),
            *main.cells(row.figures),
            count(row.macs),
            percent(row.macs / last if row.macs is not None and last else None, 0),
            milliseconds(row.ms),
            percent(row.share),
        )
        for row in main.exits
    ]
    return table(
        ("exit", *map(text, main.headings.values()), "MACs", "of the last", "time", "leave here"),
        rows,
        caption="Figures if every recording were answered at this exit; cost and median time to get there "
        "from the features, one window at a time; then the windows that leave here under the policy.",
    )


def policies(evaluations: Sequence[Scores]) -> str:
    """The table of the policies."""
    rows = [
        (
            text(policy(each.policy)),
            *each.cells(each.figures),
            count(each.mean_macs),
            milliseconds(each.mean_ms),
        )
        for each in evaluations
    ]
    headings = (*map(text, evaluations[0].headings.values()), "MACs, mean", "time, mean")
    return table(("policy", *headings), rows, caption="The same recordings under each policy.")


def over_cost(main: Scores) -> str:
    """The plot of the main figure of each exit over its cost.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    heading = next(iter(main.headings.values()))
    counted = all(row.macs is not None for row in main.exits)
    name = next(iter(main.headings))
    costs = [float((row.macs if counted else row.ms) or 0.0) for row in main.exits]
    values = [row.figures[name] for row in main.exits]
    with drawing(size=9.5):
        from matplotlib.figure import Figure

        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.125, 0.165, 0.855, 0.735))
        axes.plot(costs, values, "o-", color=COLOURS["blue"], markersize=6, linewidth=1.2)
        for row, cost, value in zip(main.exits, costs, values, strict=True):
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            axes.annotate(plain(row.name), (cost, value), color=COLOURS["ink"], **place)
        axes.set_xlim(0.0, 1.12 * max(costs) or 1.0)
        axes.set_ylim(0.0, 1.25 * max(values) or 1.0)
        axes.grid(True)
        axes.set_axisbelow(True)
        figure.text(0.015, 0.985, f"{heading} of recordings", va="top")
        axes.set_xlabel("multiply-accumulates per window" if counted else "milliseconds per window")
        if counted:
            axes.xaxis.set_major_formatter(lambda value, _: count(value).replace("&nbsp;", " "))
        told = "; ".join(f"{row.name} {row.figures[name]:.2f}" for row in main.exits)
        drawn = inline(figure, "cost", f"{heading} of each exit over its cost: {told}.")
    return f'<figure class="plot">{drawn}<figcaption><p>Points are exits.</p></figcaption></figure>\n'


def groups(main: Scores) -> str:
    """The table of the values of a column."""
    name, heading = next(iter(main.headings.items()))
    names = [row.name for row in main.exits]
    rows = [
        (
            own(group.name),
            str(group.recordings),
            *main.cells(group.figures),
            *(f"{group.exits[exit][name]:.2f}" for exit in names),
        )
        for group in main.groups
    ]
    at_exits = (f"{text(heading)} at {own(exit)}" for exit in names)
    head = (own(main.by or ""), "recordings", *map(text, main.headings.values()), *at_exits)
    return table(head, rows, caption="Under the policy, and if every recording were answered at one exit.")


def _main(main: Scores, figures: Mapping[str, float]) -> str:
    return f"{figures[next(iter(main.headings))]:.2f}"


def _unit(main: Scores) -> str:
    return "" if main.unit is None else f" {text(main.unit)}s"


def _things(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
