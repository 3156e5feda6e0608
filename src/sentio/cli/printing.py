"""What the commands print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sentio.core.errors import ConfigError
from sentio.core.prediction import Count, Embedding
from sentio.core.tables import drawn, short

if TYPE_CHECKING:
    from sentio.core.policy import ExitCosts
    from sentio.exporting.onnx import Exported
    from sentio.serve.listening import Listening
    from sentio.training.evaluation import Evaluation

#: on fewer files the 95 % interval of an accuracy of one half spans more than a third of the scale
FEW = 30


def as_json(value: dict[str, Any] | Sequence[Any]) -> None:
    """One JSON document on standard output, in plain ASCII."""
    print(json.dumps(value, indent=1, allow_nan=False))


def training(card: dict[str, Any]) -> str:
    """What a training came to: notes, calibration, test."""
    lines = [f"note: {note}" for note in card["data"]["notes"]]
    if "validation" in card:
        scored = "figures" in card["validation"]
        lines += _measured(card["validation"]) if scored else _calibration(card["validation"])
    if "test" in card:
        test, files = card["test"], card["data"]["files"]["test"]
        found = f"accuracy {test['accuracy']:.1%}" if "accuracy" in test else scores(test)
        lines.append(f"test ({card['data']['split']}, {files} files): {found}")
    else:
        lines.append("there is no test part, so the model is not tested")
    few = [f"{part} {n}" for part, n in card["data"]["files"].items() if part != "train" and 0 < n < FEW]
    if few:
        what = "Figures" if "figures" in card.get("test", {}) else "Accuracies"
        lines.append(f"note: {what} on so few files say little: {', '.join(few)}.")
    return "\n".join(lines)


def scores(found: dict[str, Any]) -> str:
    """The figures of a model that does not classify, under its policy, and the exit that it is fixed at."""
    named = found["figures"]
    parts = [f"{heading} {named[name]:.2f}" for name, heading in found["headings"].items()]
    unit = "" if found["unit"] is None else f" {found['unit']}s"
    exit = found["policy"].get("exit")
    return f"{', '.join(parts)}{unit}" + ("" if exit is None else f" at exit {exit}")


def prediction(where: str, found: Any) -> str:
    """One answer on one line: a label with its score, a count with its unit, or that it is an embedding."""
    if isinstance(found, Count):
        answer = f"{found.count:.1f} ({found.unit})"
    elif isinstance(found, Embedding) and found.distance is None:
        answer = f"an embedding of {len(found.vector)} numbers, --gallery FILE gives it a name"
    else:
        answer = f"{found.label if found.label is not None else 'none of these'}  {found.score:.2f}"
    return f"{where}: {answer}  exit {found.exit}  {found.milliseconds:.1f} ms"


def policies(evaluations: Sequence[Evaluation]) -> str:
    """Exits, and policies on the same data, with the share of windows that each sends out where."""
    from rich.table import Table

    first = evaluations[0]
    names = [row.name for row in first.exits]
    table = Table()
    for column in ("", "accuracy", "MACs", "ms", *(f"at {name}" for name in names)):
        table.add_column(column, justify="right" if column else "left")
    for row in first.exits:
        table.add_row(f"all at {row.name}", f"{row.accuracy:.1%}", short(row.macs), f"{row.ms:.2f}")
    table.add_section()
    for found in evaluations:
        shares = (f"{row.share:.0%}" for row in found.exits)
        table.add_row(
            str(found.policy["name"]),
            f"{found.accuracy:.1%}",
            short(found.mean_macs),
            f"{found.mean_ms:.2f}",
            *shares,
        )
    return drawn(table)


def exit_times(costs: ExitCosts) -> str:
    """What it costs to reach each exit here."""
    from rich.table import Table

    table = Table()
    for column in ("exit", "MACs", "ms"):
        table.add_column(column, justify="left" if column == "exit" else "right")
    for name, macs, ms in zip(costs.names, costs.macs, costs.ms or (), strict=True):
        table.add_row(name, short(macs) if macs else "not known", f"{ms:.2f}")
    return drawn(table)


def listening(found: Listening) -> str:
    """What was heard, segment by segment beside the truth, and how quickly."""
    rows = [("seconds", "heard", "score", "exit", "ms", "truth")]
    for part in found.segments:
        there = [e for e in found.truth or () if e.offset > part.start and e.onset < part.end]
        rows.append(
            (
                f"{part.start:6.1f} {part.end:6.1f}",
                part.label or "none of these",
                f"{part.score:.2f}",
                ", ".join(f"{name} x{count}" if count > 1 else name for name, count in part.exits.items()),
                f"{part.milliseconds:.1f}",
                ", ".join(f"{e.label} {e.onset:.1f}-{e.offset:.1f}" for e in there) or "-",
            )
        )
    columns = 5 if found.truth is None else 6
    widths = [max(len(row[column]) for row in rows) for column in range(columns)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in (0, 2, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    slowest = max(window.milliseconds for window in found.windows)
    by = "" if found.deadline_ms is None else f", {found.late} later than {found.deadline_ms:g} ms"
    lines.append(
        f"{found.seconds:.1f} s of sound in {found.elapsed:.2f} s: real-time factor "
        f"{found.real_time_factor:.4f}; {len(found.windows)} windows, the slowest {slowest:.1f} ms{by}"
    )
    if found.truth is not None:
        lines.append(
            f"right: {found.right:.1%} of windows, {found.found} of {len(found.truth)} events; "
            f"{found.false_alarms} false alarms"
        )
    return "\n".join(lines)


def shipped(facts: dict[str, Any]) -> str:
    """One shipped model on one line: what it is called, what it is worth, what it is for."""
    accuracy = "not tested"
    if facts["accuracy"] is not None:
        accuracy = f"accuracy {facts['accuracy']:.1%}"
        accuracy += f" on {facts['tested_on']}" if facts["tested_on"] else ""
    int8 = facts["int8"]
    if int8 is not None and int8["after"] is not None:
        accuracy += (
            f" in float; in int8 {int8['after']:.1%} of {int8['recordings']} recordings, where float has "
        )
        accuracy += f"{int8['before']:.1%}"
    parts = [f"{facts['name']:16} {facts['bytes'] / 1e6:.2f} MB", accuracy, facts["purpose"]]
    return "  ".join(part for part in parts if part)


def exported(result: Exported, out: str, *, classifies: bool = True) -> str:
    """What an export wrote: bytes of each graph, how far it is from PyTorch, and what int8 costs."""
    found = result.int8
    if found is None:
        lines = [f"{key:32} {size:>10,} bytes" for key, size in result.bytes.items()]
    else:
        lines = [f"{'':32} {'bytes':>20} {'of weights':>20}"]
        for key, size in result.bytes.items():
            pairs = [found[what].get(key) for what in ("bytes", "weight_bytes")]
            cells = [f"{size:,}" if pair is None else f"{pair[0]:,} -> {pair[1]:,}" for pair in pairs]
            lines.append(f"{key:32} {cells[0]:>20} {cells[1] if pairs[1] else '':>20}".rstrip())
    what = "probabilities differ" if classifies else "answers, as shares of the largest, differ"
    lines.append(f"{what} from PyTorch by at most {result.difference:.1e}")
    if result.rounding is not None:
        lines.append(f"and by at most {result.rounding:.1e} from those before rounding to float16")
    if found is not None:
        lines += int8(found)
    lines.append(f"written to {out}; on the box: pip install sentio && sentio predict {out} FILE")
    return "\n".join(lines)


def step_input(front_end: Any, frames: int) -> dict[str, Any]:
    """What a step of a box's streams takes: frames of features, and samples where the front end can."""
    found: dict[str, Any] = {"frames": frames, "samples": None, "rate": None, "reason": None}
    if not hasattr(front_end, "frames_of_streams"):
        return {**found, "reason": "there is no front end of sound"}
    try:
        stream = front_end.frames_of_streams(frames)
    except ConfigError as error:
        return {**found, "reason": str(error)}
    return {**found, "samples": stream.hop, "rate": stream.rate}


def int8(found: dict[str, Any]) -> list[str]:
    """What int8 came to, from the card."""
    lines = [f"note: {note}" for note in found["notes"]]
    gap = found["difference"]
    lines.append(
        f"int8 ({found['method']}, {found['windows']} windows): weights take {found['ratio']:.3f} of their "
        f"bytes; probabilities move by {gap['mean']:.1e} in the mean, {gap['largest']:.1e} at most"
    )
    if "after" in found:
        part = "other recordings than the calibration's" if found["apart"] else "the calibration's recordings"
        lines.append(f"accuracy on {found['measured']['recordings']} recordings ({part}), float and int8:")
        rows = {
            name: (row["accuracy"], found["after"]["exits"][name]["accuracy"])
            for name, row in found["before"]["exits"].items()
        }
        rows["policy"] = (found["before"]["accuracy"], found["after"]["accuracy"])
        lines += [f"  {name:16} {before:6.1%}  {after:6.1%}" for name, (before, after) in rows.items()]
    goal = found.get("goal")
    if goal and goal["before"] and not goal["after"]:
        wanted = ", ".join(f"{name} {value:g}" for name, value in goal["wanted"].items())
        lines.append(f"the thresholds no longer meet their goal ({wanted}); fit them anew with --refit")
    if found["refit"]:
        lines.append("temperatures and thresholds were fitted anew on the calibration part")
    costs = found.get("sensitivity")
    if costs:
        lines.append("alone in int8, accuracy lost and mean change of a probability:")
        for row in costs:
            drop = "" if row["drop"] is None else f"{100 * row['drop']:5.1f} points  "
            lines.append(f"  {row['graph']:24} {drop}{row['difference']:.1e}")
        worst = max(found.get("drops", {}).values(), default=0.0)
        if worst > 0.01:
            lines.append(f"{costs[0]['graph']} costs most; keep it in float with: --keep {costs[0]['graph']}")
    return lines


def _measured(report: dict[str, Any]) -> list[str]:
    """Figures of the exits of a model that has no thresholds, and how to be answered by another exit."""
    unit = "" if report["unit"] is None else f", in {report['unit']}s"
    lines = [f"measured on {report['samples']} validation samples{unit}:"]
    for row in report["exits"]:
        figures = "  ".join(f"{heading} {row[name]:7.2f}" for name, heading in report["figures"].items())
        lines.append(f"  {row['name']:12} {figures}  {row['macs']:,.0f} MACs")
    if report["impractical"]:
        lines.append(f"  not worth having (a cheaper exit is as good): {', '.join(report['impractical'])}")
    first, last = report["exits"][0]["name"], report["exits"][-1]["name"]
    if first != last:
        lines.append(
            f"  answers come from {last}; --policy fixed:{first} or deadline:MS chooses another exit"
        )
    return lines


def _calibration(report: dict[str, Any]) -> list[str]:
    lines = [f"calibrated on {report['samples']} validation samples:"]
    for row in report["exits"]:
        lines.append(
            f"  {row['name']:12} accuracy {row['accuracy']:6.1%}  temperature {row['temperature']:.2f}  "
            f"ECE {row['ece_before']:.3f} before, {row['ece_after']:.3f} after"
        )
    if report["impractical"]:
        lines.append(f"  not worth having (a cheaper exit is as good): {', '.join(report['impractical'])}")
    point = report.get("operating_point")
    if point:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in point["share"].items())
        lines.append(
            f"  thresholds: accuracy {point['accuracy']:.1%}, mean {point['mean_macs']:,.0f} MACs; {shares}"
        )
    return lines
