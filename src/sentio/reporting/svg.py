"""Figures as SVG that stands in a page: text stays text, and its colours are the page's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from sentio.core.errors import MissingExtraError
from sentio.reporting.markup import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What matplotlib is told -> the variable of the style sheet that takes its place. The page decides what
#: they are, so that one figure serves on light and on dark ground.
COLOURS = {
    "ink": "#010101",
    "soft": "#020202",
    "rule": "#030303",
    "ground": "#040404",
    "blue": "#050505",
    "orange": "#060606",
    "red": "#070707",
}
_LINK = re.compile(r"url\(#([^)]+)\)")


def check_drawing() -> None:
    """Say so now if figures cannot be drawn here.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib, which draws the figures of a report,", "report")


@contextmanager
def drawing(size: float = 10.0) -> Iterator[None]:
    """Everything drawn inside has the page's style, and is the same each time.

    Args:
        size: of text, in points.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_drawing()
    from matplotlib import rc_context, rcdefaults, rcParams

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "sentio",
        "text.parse_math": False,
        "font.size": size,
        "axes.edgecolor": COLOURS["soft"],
        "axes.labelcolor": COLOURS["ink"],
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "grid.color": COLOURS["rule"],
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.9,
        "text.color": COLOURS["ink"],
        "xtick.color": COLOURS["soft"],
        "xtick.labelcolor": COLOURS["ink"],
        "ytick.color": COLOURS["soft"],
        "ytick.labelcolor": COLOURS["ink"],
    }
    with rc_context(), warnings.catch_warnings():
        rcdefaults()  # a user's own style would make the same report another one
        rcParams.update(settings)
        # The reader's browser has the letters that matplotlib's font does not have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def inline(figure: Figure, name: str, spoken: str) -> str:
    """A figure as an ``svg`` element.

    Args:
        figure: drawn within `drawing`.
        name: unlike that of every other figure of the page; ids begin with it.
        spoken: what it shows, for who does not see it.
    """
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    _without_names_of_spaces(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    _own_ids(root, name)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _styled(element.attrib["style"]))
    box = root.attrib["viewBox"]
    inside = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    return f'<svg viewBox="{box}" role="img" aria-label="{text(spoken)}">{inside}</svg>'


def _without_names_of_spaces(root: Any) -> None:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None if element.tag not in ("tspan",) else element.tail
        for key in [key for key in element.attrib if "}" in key]:
            element.set(key.rpartition("}")[2], element.attrib.pop(key))
        if element.tag not in ("text", "tspan"):
            element.text = None


def _own_ids(root: Any, name: str) -> None:
    """Only ids that something points to stay, with a name in front that no other figure has."""
    links = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            links |= {value[1:]} if key == "href" and value.startswith("#") else set(_LINK.findall(value))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in links:
                    element.set("id", f"{name}-{value}")
                else:
                    del element.attrib["id"]
            elif key == "href" and value.startswith("#"):
                element.set("href", f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, _LINK.sub(rf"url(#{name}-\1)", value))


def _styled(style: str) -> str:
    for variable, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{variable})")
    # The page chooses the letters; some versions of matplotlib say weight, size and family in one.
    style = re.sub(r"font: (\d+ |bold )?([\d.]+px)[^;]*", _size_and_weight, style)
    return re.sub(r"font-family: [^;]*(; )?", "", style)


def _size_and_weight(font: re.Match[str]) -> str:
    weight = f"font-weight: {font[1].strip()}; " if font[1] else ""
    return f"{weight}font-size: {font[2]}"
