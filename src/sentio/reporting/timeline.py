"""What was heard in a recording against what there was to hear, above its spectrogram."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from sentio.reporting.markup import columns, plain
from sentio.reporting.svg import COLOURS, drawing, inline
from sentio.serve.listening import BACKGROUND, is_right

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sentio.serve.listening import Listening

#: inches: width, of a lane, of an exit, of the spectrogram, around
WIDTH, LANE, LEVEL, PICTURE, EDGE = 10.0, 0.42, 0.2, 1.5, 0.12
#: more windows than this are thinned out before they are drawn
DRAWN = 1200
#: the most columns in a name at the side before it goes on in the next line, and how wide one is in inches
SIDE, COLUMN = 22, 0.075
NONE = "none of these"


class Tile(NamedTuple):
    """A stretch of time with one answer."""

    start: float
    end: float
    label: str | None
    exit: str
    right: bool | None
    in_time: bool


def tiles(listening: Listening) -> list[Tile]:
    """The windows side by side: where they overlap, each ends half-way; at most `DRAWN`."""
    windows = listening.windows[:: -(-len(listening.windows) // DRAWN) or 1]
    if not windows:
        return []
    inner = [(before.end + after.start) / 2 for before, after in pairwise(windows)]
    edges = [windows[0].start, *inner, max(windows[-1].end, listening.windows[-1].end)]
    truth = listening.truth
    return [
        Tile(
            start,
            end,
            window.label,
            window.exit,
            None if truth is None else is_right(window, truth),
            window.in_time,
        )
        for (start, end), window in zip(pairwise(edges), windows, strict=True)
    ]


def timeline(listening: Listening, exits: Sequence[str]) -> str:
    """The figure as an ``svg`` element.

    A lane for each label that was heard or is there: heard above, truth below. Then the exit of each window,
    and the spectrogram.

    Args:
        listening: what was heard.
        exits: the names of the exits in order; others that answered come after.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    found = tiles(listening)
    lanes = _lanes(listening)
    used = {tile.exit for tile in found}
    levels = [name for name in exits if name in used] + sorted(used - set(exits))
    names = [_wrapped(NONE if label is None else label) for label in lanes]
    longest = max(columns(line) for name in [*names, *map(_wrapped, levels)] for line in name.split("\n"))
    left = max(0.9, COLUMN * longest + 0.25)
    heights = [LANE * max(len(lanes), 1), LEVEL * max(len(levels), 1) + 0.1, PICTURE]
    gap, bottom = 0.2, 0.55
    total = sum(heights) + 2 * gap + bottom + EDGE
    with drawing(size=9.5):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, total))
        panels = []
        top = total - EDGE
        for height in heights:
            place = (left / WIDTH, (top - height) / total, 1 - (left + EDGE) / WIDTH, height / total)
            panels.append(figure.add_axes(place))
            top -= height + gap
        _draw_lanes(panels[0], found, lanes, names, listening)
        _draw_exits(panels[1], found, levels)
        panels[2].imshow(
            listening.spectrogram.T,
            aspect="auto",
            origin="lower",
            cmap="cividis",
            interpolation="none",
            extent=(0.0, listening.seconds, 0.0, 1.0),
        )
        panels[2].set_yticks([0.02, 0.98], ["low", "high"], va="center")
        panels[2].set_xlabel("seconds")
        for panel in panels:
            panel.set_xlim(0.0, listening.seconds)
            panel.tick_params(axis="y", length=0)
        for panel in panels[:2]:
            panel.grid(True, axis="x")
            panel.tick_params(axis="x", length=0, labelbottom=False)
            panel.set_axisbelow(True)
        return inline(figure, "timeline", _spoken(listening))


def _lanes(listening: Listening) -> list[str | None]:
    """Labels that occur, in the model's order; background and "none of these" at the bottom."""
    there = {window.label for window in listening.windows} | {event.label for event in listening.truth or ()}
    known = [label for label in listening.labels if label in there and label != BACKGROUND]
    strange = sorted(label for label in there if label not in listening.labels and label is not None)
    last: list[str | None] = [label for label in (BACKGROUND, None) if label in there]
    return [*known, *(label for label in strange if label != BACKGROUND), *last]


def _draw_lanes(
    axes: Axes, found: Sequence[Tile], lanes: Sequence[str | None], names: Sequence[str], listening: Listening
) -> None:
    from matplotlib.patches import PathPatch

    rows = {label: place for place, label in enumerate(lanes)}
    heard: dict[bool | None, list[_Box]] = {True: [], False: [], None: []}
    for _, run in groupby(found, key=lambda tile: (tile.label, tile.right)):
        part = list(run)
        first = part[0]
        heard[first.right].append(
            (first.start, part[-1].end, rows[first.label] + 0.08, rows[first.label] + 0.48)
        )
    truth = [
        (event.onset, event.offset, rows[event.label] + 0.54, rows[event.label] + 0.86)
        for event in listening.truth or ()
    ]
    for boxes, colour, hatch in (
        (heard[True], "blue", None),
        (heard[None], "blue", None),
        (heard[False], "red", "////"),
    ):
        if boxes:
            axes.add_patch(
                PathPatch(
                    _path(boxes),
                    facecolor="none" if hatch else COLOURS[colour],
                    edgecolor=COLOURS[colour],
                    hatch=hatch,
                    linewidth=0.8,
                )
            )
    if truth:
        axes.add_patch(
            PathPatch(_path(truth), facecolor=COLOURS["orange"], edgecolor=COLOURS["orange"], linewidth=0.8)
        )
    for place in range(1, len(lanes)):
        axes.axhline(place, color=COLOURS["rule"], linewidth=0.7)
    axes.set_ylim(max(len(lanes), 1), 0)
    axes.set_yticks([place + 0.5 for place in range(len(lanes))], names)


def _draw_exits(axes: Axes, found: Sequence[Tile], levels: Sequence[str]) -> None:
    from matplotlib.patches import PathPatch

    rows = {name: place for place, name in enumerate(levels)}
    answered: dict[bool, list[_Box]] = {True: [], False: []}
    for (name, in_time), run in groupby(found, key=lambda tile: (tile.exit, tile.in_time)):
        part = list(run)
        top = rows[name] + (0.2 if in_time else 0.1)
        answered[in_time].append((part[0].start, part[-1].end, top, 2 * rows[name] + 1 - top))
    for in_time, boxes in answered.items():
        if boxes:
            colour = COLOURS["soft" if in_time else "red"]
            axes.add_patch(PathPatch(_path(boxes), facecolor=colour, edgecolor="none"))
    late = [tile for tile in found if not tile.in_time]
    axes.plot(
        [(tile.start + tile.end) / 2 for tile in late],
        [rows[tile.exit] + 0.5 for tile in late],
        "x",
        color=COLOURS["ground"],
        markersize=5,
        markeredgewidth=1.6,
    )
    axes.set_ylim(max(len(levels), 1), 0)
    axes.set_yticks([place + 0.5 for place in range(len(levels))], [_wrapped(name) for name in levels])


#: left, right, top and bottom
_Box = tuple[float, float, float, float]


def _path(boxes: Iterable[_Box]) -> Any:
    """One path of many boxes, which takes far less room in the page than many paths."""
    from matplotlib.path import Path

    vertices, codes = [], []
    for left, right, top, bottom in boxes:
        vertices += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices, codes)


def _wrapped(label: str) -> str:
    """A name in at most two lines; what is longer ends in dots, as the tables have it whole."""
    lines = textwrap.wrap(plain(label), SIDE, max_lines=2, placeholder=" …") or [""]
    return "\n".join(lines)


def _spoken(listening: Listening) -> str:
    told = "" if listening.truth is None else f", {len(listening.truth)} events in truth"
    right = [tile.right for tile in tiles(listening) if tile.right is not None]
    share = f", {100 * sum(right) / len(right):.0f} % of windows right" if right else ""
    return (
        f"Timeline of {listening.seconds:.0f} s: {len(listening.windows)} windows heard{told}{share}, "
        "with the exit of each window and the spectrogram below. The table of segments says it in words."
    )
