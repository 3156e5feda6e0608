"""The parts of a report in words, figures and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sentio.reporting.markup import bar, count, milliseconds, own, percent, policy, seconds, table, text
from sentio.reporting.tradeoff_plot import letter, tradeoff_plot
from sentio.training.evaluation import Evaluation

if TYPE_CHECKING:
    from sentio.serve.listening import Listening

#: a longer table of segments is folded away, and ends here
FOLDED, MOST_SEGMENTS = 24, 400


def headline(main: Evaluation) -> str:
    """What a reader wants to know, in one sentence."""
    last = main.exits[-1]
    cost = ""
    if main.mean_macs is not None and last.macs:
        cost = f" with {percent(main.mean_macs / last.macs, 0)} of the multiply-accumulates of its last exit"
    return (
        f"It answers <strong>{percent(main.accuracy)}</strong> of {_things(main.recordings, 'recording')} "
        f"rightly{cost}, in {milliseconds(main.mean_ms)} per window on average; its last exit alone answers "
        f"{percent(last.accuracy)}."
    )


def key_figures(main: Evaluation) -> list[tuple[str, str, str]]:
    """Tiles: a figure, its name, and what to know about it."""
    last = main.exits[-1]
    low, high = _interval(main.accuracy, main.recordings)
    before = 1.0 - last.share
    return [
        (
            percent(main.accuracy),
            "accuracy",
            f"95&nbsp;% interval {100 * low:.0f} to {100 * high:.0f}&nbsp;%",
        ),
        (percent(main.macro_accuracy), "mean over the classes", "every class counts the same"),
        (
            count(main.mean_macs),
            "MACs per window, mean",
            f"last exit {count(last.macs)}" if main.mean_macs is not None else "costs are not known",
        ),
        (
            milliseconds(main.mean_ms),
            "per window, mean",
            f"last exit {milliseconds(last.ms)}; features not included",
        ),
        (percent(before, 0), "leave before the last exit", f"policy: {text(main.policy.get('name', ''))}"),
        *(
            []
            if main.log_loss is None or main.ece is None
            else [
                (
                    f"{main.log_loss:.2f}",
                    "log loss",
                    f"nats; calibration error (ECE) {percent(main.ece)}",
                )
            ]
        ),
        (
            str(main.recordings),
            "recordings",
            f"{_things(main.windows, 'window')}" + (f", {main.silent} silent" if main.silent else ""),
        ),
    ]


def exits(main: Evaluation) -> str:
    """The table of the exits."""
    last = main.exits[-1].macs
    rows = [
        (
            f'<span class="mark">{number}</span> {own(row.name)}',
            percent(row.accuracy),
            count(row.macs),
            percent(row.macs / last if row.macs is not None and last else None, 0),
            milliseconds(row.ms),
            percent(row.share),
            percent(row.accuracy_leaving),
        )
        for number, row in enumerate(main.exits, 1)
    ]
    return table(
        ("exit", "accuracy", "MACs", "of the last", "time", "leave here", "right of those"),
        rows,
        caption="Accuracy if every recording were answered at this exit; cost and median time to get there "
        "from the features, one window at a time; then the windows that leave here under the policy.",
    )


def policies(evaluations: Sequence[Evaluation]) -> str:
    """The table of the policies."""
    rows = []
    for place, each in enumerate(evaluations):
        last = each.exits[-1].macs
        share = each.mean_macs / last if each.mean_macs is not None and last else None
        rows.append(
            (
                f'<span class="mark policy">{letter(place)}</span> {text(policy(each.policy))}',
                percent(each.accuracy),
                count(each.mean_macs),
                percent(share, 0),
                milliseconds(each.mean_ms),
                percent(1.0 - each.exits[-1].share, 0),
            )
        )
    return table(
        ("policy", "accuracy", "MACs, mean", "of the last exit", "time, mean", "leave early"),
        rows,
        caption="The same recordings under each policy.",
    )


def tradeoff(evaluations: Sequence[Evaluation]) -> str:
    """The plot of accuracy over cost, and what its marks stand for."""
    main = evaluations[0]
    marks = "".join(
        f'<li><span class="mark">{number}</span> {own(row.name)}</li>'
        for number, row in enumerate(main.exits, 1)
    )
    marks += "".join(
        f'<li><span class="mark policy">{letter(place)}</span> {text(policy(each.policy))}</li>'
        for place, each in enumerate(evaluations)
    )
    drawn = bool(main.tradeoff) and all(each.mean_macs is not None for each in evaluations)
    curve = (
        '<li><span class="line"></span> one confidence threshold for all exits, moved</li>' if drawn else ""
    )
    return (
        f'<figure class="plot">{tradeoff_plot(evaluations)}<figcaption>'
        "<p>Points are exits, where everything is answered there; diamonds are policies."
        f'{" Up and to the left is better." if drawn else ""}</p><ul class="key">{marks}{curve}</ul>'
        "</figcaption></figure>\n"
    )


def exits_used(evaluations: Sequence[Evaluation]) -> str:
    """For each policy a bar for each exit."""
    parts = []
    for place, each in enumerate(evaluations):
        rows = []
        for row in each.exits:
            right = row.share * (row.accuracy_leaving or 0.0)
            rows.append(
                (
                    own(row.name),
                    bar(right, row.share, f"{100 * row.share:.1f} % leave here, {100 * right:.1f} % rightly"),
                    percent(row.share),
                )
            )
        mark = f'<span class="mark policy">{letter(place)}</span> {text(policy(each.policy))}'
        found = table(("exit", "", "windows"), rows, caption=mark, name="bars", left=(0, 1))
        parts.append(f"<div>{found}</div>")
    return (
        '<p class="key"><span><span class="swatch"></span> answered rightly</span>'
        '<span><span class="swatch wrong"></span> answered wrongly</span>'
        "<span>as shares of all windows that are not silent</span></p>"
        f'<div class="side">{"".join(parts)}</div>'
    )


def surest_mistakes(main: Evaluation) -> str:
    """The recordings answered wrongly with the highest score."""
    wrong = sum(sum(counts) - counts[place] for place, counts in enumerate(main.confusion))
    if not wrong:
        return "<p>There is none: every recording was answered rightly.</p>"
    named = any(each.name is not None for each in main.mistakes)
    rows = [
        (
            *([own(each.name or "")] if named else [str(number)]),
            own(each.truth),
            own("none of these" if each.answer is None else each.answer),
            percent(each.score),
            own(each.exit),
        )
        for number, each in enumerate(main.mistakes, 1)
    ]
    if not rows:
        return f"<p>{_things(wrong, 'recording')} answered wrongly, of which nothing more is known here.</p>"
    return table(
        ("recording" if named else "", "truth", "answer", "score", "exit"),
        rows,
        caption=f"{len(rows)} of {_things(wrong, 'wrong answer')}, the surest first; the exit is the deepest "
        "that a recording's windows needed.",
        left=(0, 1, 2, 4),
    )


def listened(listening: Listening, exit_names: Sequence[str]) -> str:
    """One recording as it was heard: figures, timeline, segments."""
    from sentio.reporting.timeline import DRAWN, timeline

    factor = listening.real_time_factor
    late = sum(not window.in_time for window in listening.windows)
    tiles = [
        (
            f"{factor:.2g}",
            "real-time factor",
            f"{1 / factor:.{0 if factor < 0.105 else 1}f} times as fast as the sound",
        ),
        (seconds(listening.seconds), "of sound", f"{_things(len(listening.windows), 'window')}"),
    ]
    if listening.deadline_ms is not None:
        share = 1.0 - late / len(listening.windows) if listening.windows else None
        tiles.append(
            (percent(share), "in time", f"{late} later than {listening.deadline_ms:g}&nbsp;ms after its end")
        )
    if listening.right is not None:
        tiles.append((percent(listening.right), "windows right", "against the truth below"))
    if listening.found is not None and listening.truth is not None:
        tiles.append(
            (
                f"{listening.found} of {len(listening.truth)}",
                "events found",
                "a segment of their label lies over them",
            )
        )
    if listening.false_alarms is not None:
        tiles.append((str(listening.false_alarms), "false alarms", "segments over no such event"))
    truth = listening.truth is not None
    key = [
        f'<span class="swatch"></span> heard{", rightly" if truth else ""}',
        *(['<span class="swatch wrong"></span> heard, wrongly'] if truth else []),
        *(['<span class="swatch truth"></span> truth'] if truth else []),
        '<span class="swatch exit"></span> exit that answered',
        *(['<span class="cross">&times;</span> too late'] if late else []),
    ]
    thinned = -(-len(listening.windows) // DRAWN)
    thin = f" Drawn is one window in {thinned}." if thinned > 1 else ""
    figure = timeline(listening, exit_names)
    return (
        f"<p>{own(listening.source)}</p>{tiled(tiles)}"
        f'<figure class="wide"><p class="key">{" ".join(f"<span>{part}</span>" for part in key)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Timeline">{figure}'
        f"</div><figcaption>In each lane what was heard is above and the truth below; then the exit of each "
        f"window, and the spectrogram of the same seconds, in mel bands.{thin}</figcaption></figure>"
        f"{_segments(listening)}"
    )


def notes(lines: Sequence[str]) -> str:
    """What was odd."""
    return f"<ul>{''.join(f'<li>{own(line)}</li>' for line in lines)}</ul>"


def made(by: Mapping[str, str]) -> str:
    """How it was made."""
    return (
        "<dl>" + "".join(f"<dt>{text(key)}</dt><dd>{own(value)}</dd>" for key, value in by.items()) + "</dl>"
    )


def _segments(listening: Listening) -> str:
    rows = [
        (
            f"{seconds(each.start)} to {seconds(each.end)}",
            own("none of these" if each.label is None else each.label),
            percent(each.score, 0),
            ", ".join(f"{own(name)}&nbsp;{number}" for name, number in each.exits.items()),
            milliseconds(each.milliseconds),
        )
        for each in listening.segments[:MOST_SEGMENTS]
    ]
    cut = len(listening.segments) - len(rows)
    found = table(
        ("from, to", "heard", "score", "windows by exit", "longest"),
        rows,
        caption="Runs of one answer, with the highest score and the longest time to an answer, features "
        "included." + (f" {cut} more are left out." if cut else ""),
        left=(0, 1, 3),
    )
    if len(rows) <= FOLDED:
        return found
    return f"<details><summary>{_things(len(listening.segments), 'segment')}</summary>{found}</details>"


def tiled(tiles: Sequence[tuple[str, str, str]]) -> str:
    """Figures side by side."""
    return (
        '<ul class="tiles">'
        + "".join(
            f"<li><b>{value}</b><span>{name}</span><small>{more}</small></li>" for value, name, more in tiles
        )
        + "</ul>\n"
    )


def _things(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _interval(share: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return max(0.0, middle - half), min(1.0, middle + half)
