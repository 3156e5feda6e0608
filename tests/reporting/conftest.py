"""Evaluations and a recording as it was heard, made by hand: a report needs no network and no sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from sentio.data.simulate.labels import Event
from sentio.serve.listening import Heard, Listening, Segment
from sentio.training.by_recording import Mistake, TradeoffPoint
from sentio.training.evaluation import Evaluation, ExitFigures

#: elements of HTML that have no end
VOID = {"meta", "br", "hr", "img", "input", "link"}


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    """``evaluation(labels=..., accuracy=...)``: three classes, two exits, six of nine recordings right."""

    def make(labels: tuple[str, ...] = ("cat", "dog", "owl"), **changes: Any) -> Evaluation:
        confusion = [[0] * (len(labels) + 1) for _ in labels]
        for place in range(len(labels)):
            confusion[place][place], confusion[place][(place + 1) % len(labels)] = 2, 1
        values = {
            "accuracy": 2 / 3,
            "macro_accuracy": 0.6,
            "mean_macs": 40_000.0,
            "mean_ms": 1.25,
            "exits": (
                ExitFigures("early", 0.5, 20_000.0, 0.5, 0.75, 0.6),
                ExitFigures("final", 0.75, 100_000.0, 2.0, 0.25, 0.9),
            ),
            "confusion": confusion,
            "labels": labels,
            "recordings": 3 * len(labels),
            "windows": 12,
            "silent": 1,
            "policy": {"name": "confidence", "threshold": 0.7},
            "runtime": "edge",
            "notes": ("a note",),
            "mistakes": (
                Mistake("a/1.wav", labels[0], labels[1], 0.97, "early"),
                Mistake("b/2.wav", labels[1], None, 0.41, "final"),
            ),
            "tradeoff": (
                TradeoffPoint(0.0, 20_000.0, 0.5),
                TradeoffPoint(0.8, 60_000.0, 0.7),
                TradeoffPoint(None, 100_000.0, 0.75),
            ),
        }
        return Evaluation(**{**values, **changes})

    return make


@pytest.fixture
def listening() -> Callable[..., Listening]:
    """``listening(labels=..., windows=4)``: one second each, the second one wrong, the third too late."""

    def make(
        labels: tuple[str, ...] = ("cat", "dog", "background"), windows: int = 4, **changes: Any
    ) -> Listening:
        first, second, *_ = labels
        heard = [first, second, first, None]
        parts = tuple(
            Heard(
                float(place),
                place + 1.0,
                heard[place % 4],
                0.9,
                ("early", "final")[place % 2],
                5.0 + place % 4,
                place % 4 != 2,
            )
            for place in range(windows)
        )
        values = {
            "source": "street_000.wav",
            "seconds": float(windows),
            "elapsed": windows / 10,
            "deadline_ms": 6.5,
            "windows": parts,
            "segments": tuple(
                Segment(each.start, each.end, each.label, each.score, {each.exit: 1}, each.milliseconds, 1)
                for each in parts
            ),
            "truth": (Event("street_000.wav", 0.0, 3.0, first),),
            "labels": labels,
            "right": 0.75,
            "found": 1,
            "false_alarms": 1,
        }
        found = Listening(**{**values, **changes})
        # What it would read from the file.
        vars(found)["spectrogram"] = np.linspace(-80, 0, 50 * 16, dtype=np.float32).reshape(50, 16)
        return found

    return make


@dataclass
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    content: list[Element | str] = field(default_factory=list)

    @property
    def inside(self) -> list[Element]:
        """The elements directly within."""
        return [each for each in self.content if isinstance(each, Element)]

    @property
    def text(self) -> str:
        """The text directly within."""
        return "".join(each for each in self.content if isinstance(each, str))

    def all(self, tag: str) -> list[Element]:
        """Everything of this kind within, in order."""
        found = []
        for each in self.inside:
            found += ([each] if each.tag == tag else []) + each.all(tag)
        return found

    def texts(self) -> str:
        """All text within."""
        return "".join(each if isinstance(each, str) else each.texts() for each in self.content)

    def table(self, class_name: str) -> list[list[str]]:
        """The rows of a table as texts."""
        found = next(each for each in self.all("table") if class_name in each.attributes.get("class", ""))
        return [[cell.texts() for cell in row.inside] for row in found.all("tr")]

    def section(self, heading: str) -> Element | None:
        """The section under a heading."""
        found = [each for each in self.all("section") if each.inside[0].text == heading]
        return found[0] if found else None


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attributes})
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open[-1].content.append(Element(tag, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"<{self.open[-1].tag}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


@pytest.fixture
def read() -> Callable[[str], Element]:
    """``read(html)``: the page as elements; fails where one is not closed."""

    def parse(html: str) -> Element:
        reader = _Reader()
        reader.feed(html)
        reader.close()
        assert len(reader.open) == 1, [each.tag for each in reader.open]
        return reader.open[0]

    return parse
