"""What the commands print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def as_json(value: dict[str, Any] | Sequence[Any]) -> None:
    """One JSON document on standard output, in plain ASCII."""
    print(json.dumps(value, indent=1, allow_nan=False))


def training(card: dict[str, Any]) -> str:
    """What a training came to: notes, calibration, test."""
    lines = [f"note: {note}" for note in card["data"]["notes"]]
    if "validation" in card:
        lines += _calibration(card["validation"])
    if "test" in card:
        test, files = card["test"], card["data"]["files"]["test"]
        lines.append(f"test ({card['data']['split']}, {files} files): accuracy {test['accuracy']:.1%}")
    else:
        lines.append("there is no test part, so the model is not tested")
    return "\n".join(lines)


def prediction(where: str, found: Any) -> str:
    """One answer on one line."""
    answer = found.label if found.label is not None else "none of these"
    return f"{where}: {answer}  {found.score:.2f}  exit {found.exit}  {found.milliseconds:.1f} ms"


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
