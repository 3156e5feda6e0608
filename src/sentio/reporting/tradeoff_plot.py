"""Accuracy over cost: every exit, every policy, and what moving one threshold would give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sentio.reporting.markup import count
from sentio.reporting.svg import COLOURS, drawing, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sentio.training.evaluation import Evaluation

#: width and height in inches
SIZE = (4.7, 3.4)
#: costs that differ by more than this are drawn on a logarithmic axis
WIDE = 30.0
#: where a name may stand beside its mark, in points, the best place first
BELOW = ((0, -11), (11, 0), (-11, 0), (0, 13), (10, -10), (-10, -10))
ABOVE = ((0, 13), (-13, 0), (13, 0), (0, -14), (-12, 12), (12, 12))


class _Point(NamedTuple):
    """A mark with its name: a number for an exit, a letter for a policy."""

    cost: float
    accuracy: float
    name: str


def tradeoff_plot(evaluations: Sequence[Evaluation]) -> str:
    """The plot as an ``svg`` element; over milliseconds where costs are unknown.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    main = evaluations[0]
    counted = all(each.mean_macs is not None for each in evaluations)
    exits = [
        _Point(float((row.macs if counted else row.ms) or 0.0), row.accuracy, str(number))
        for number, row in enumerate(main.exits, 1)
    ]
    policies = [
        _Point(float((each.mean_macs if counted else each.mean_ms) or 0.0), each.accuracy, letter(place))
        for place, each in enumerate(evaluations)
    ]
    curve = [(point.mean_macs or 0.0, point.accuracy) for point in main.tradeoff] if counted else []
    costs = [point.cost for point in (*exits, *policies)]
    logarithmic = min(costs) > 0 and max(costs) / min(costs) > WIDE
    with drawing(size=9.5):
        from matplotlib.figure import Figure

        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.125, 0.145, 0.855, 0.765))
        if curve:
            axes.plot(*zip(*curve, strict=True), color=COLOURS["blue"], linewidth=2.0, zorder=2)
        _limits(axes, costs, [point.accuracy for point in (*exits, *policies)] + [y for _, y in curve])
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
        axes.plot(*_places(exits), "o", color=COLOURS["ink"], markersize=6, zorder=3)
        axes.plot(
            *_places(policies),
            "D",
            color=COLOURS["red"],
            markersize=11,
            markerfacecolor="none",
            markeredgewidth=2.2,
            zorder=4,
        )
        _name(axes, exits, policies)
        axes.grid(True)
        axes.set_axisbelow(True)
        figure.text(0.015, 0.985, "accuracy of recordings", va="top")  # however wide the figures below it
        axes.set_xlabel(
            "multiply-accumulates per window, mean" if counted else "milliseconds per window, mean"
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        if counted:
            axes.xaxis.set_major_formatter(lambda value, _: count(value).replace("&nbsp;", " "))
        return inline(figure, "tradeoff", _spoken(main, evaluations))


def letter(place: int) -> str:
    """The name of a policy: A, B, and so on, then A2."""
    return chr(ord("A") + place % 26) + (str(place // 26 + 1) if place > 25 else "")


def _places(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [point.cost for point in points], [point.accuracy for point in points]


def _limits(axes: Axes, costs: Sequence[float], accuracies: Sequence[float]) -> None:
    """From no cost at all; accuracies with room for names above and below, and never beyond sense."""
    low, high = min(accuracies), max(accuracies)
    room = max(0.18 * (high - low), 0.02)
    axes.set_ylim(low - 1.3 * room, high + 1.3 * room)
    axes.set_xlim(0.0, 1.08 * max(costs) or 1.0)
    axes.locator_params(axis="x", nbins=6)
    ticks = [value for value in axes.get_yticks() if 0.0 <= value <= 1.0]
    bottom, top = axes.get_ylim()
    axes.set_yticks([value for value in ticks if bottom <= value <= top])


def _name(axes: Axes, exits: Sequence[_Point], policies: Sequence[_Point]) -> None:
    """Names beside the marks, each where it hides neither a mark nor another name, if there is room."""
    marks = [_at(axes, point) for point in (*exits, *policies)]
    taken: list[tuple[float, float]] = []
    for points, colour, sides in ((exits, "ink", BELOW), (policies, "red", ABOVE)):
        for group in _together(axes, points):
            x, y = _at(axes, group[0])
            others = [mark for mark in marks if max(abs(mark[0] - x), abs(mark[1] - y)) > 4]
            free = [
                (dx, dy)
                for dx, dy in sides
                if not any(abs(x + dx - a) < 11 and abs(y + dy - b) < 11 for a, b in (*others, *taken))
            ]
            dx, dy = (free or sides)[0]
            taken.append((x + dx, y + dy))
            axes.annotate(
                ", ".join(point.name for point in group),
                (group[0].cost, group[0].accuracy),
                xytext=(dx, dy),
                textcoords="offset points",
                color=COLOURS[colour],
                ha="center",
                va="center",
                fontweight="bold",
                zorder=5,
            )


def _at(axes: Axes, point: _Point) -> tuple[float, float]:
    """Where a mark is, in points of the figure."""
    x, y = axes.transData.transform((point.cost, point.accuracy)) * 72.0 / axes.figure.dpi
    return float(x), float(y)


def _together(axes: Axes, points: Sequence[_Point]) -> list[list[_Point]]:
    """Marks that lie on each other share a name."""
    groups: list[list[_Point]] = []
    for point in points:
        x, y = _at(axes, point)
        for group in groups:
            a, b = _at(axes, group[0])
            if max(abs(x - a), abs(y - b)) < 6:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def _spoken(main: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    exits = "; ".join(
        f"{number} {row.name}: {100 * row.accuracy:.1f} % at {_cost(row.macs, row.ms)}"
        for number, row in enumerate(main.exits, 1)
    )
    policies = "; ".join(
        f"{letter(place)}: {100 * each.accuracy:.1f} % at {_cost(each.mean_macs, each.mean_ms)}"
        for place, each in enumerate(evaluations)
    )
    return f"Accuracy over cost. Exits: {exits}. Policies: {policies}."


def _cost(macs: float | None, ms: float) -> str:
    return f"{ms:.2f} ms" if macs is None else f"{count(macs).replace('&nbsp;', ' ')} MACs"
