"""Values as HTML. Every text that comes from outside passes through `text` or `plain`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from typing import Any
from unicodedata import category, east_asian_width

from sentio.core.tables import short

#: turn the direction of the text around them, also of text that is not theirs
_DIRECTIONS = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")

#: the most letters that a column of words is kept wide for; longer ones go on in the next line
WORDS = 22


def plain(value: object) -> str:
    """A text on one line, of characters that HTML and XML can hold."""
    line = " ".join(_DIRECTIONS.sub("", str(value)).split())
    return "".join("\ufffd" if _unfit(character) else character for character in line)


def text(value: object) -> str:
    """A text from outside as HTML, in quotes or between tags."""
    return escape(plain(value), quote=True)


def own(value: object) -> str:
    """A label or a file name as an element of its own, so that its writing direction stays its own."""
    return f"<bdi>{text(value)}</bdi>"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash for None."""
    return "&ndash;" if share is None else f"{100 * share:.{digits}f}&nbsp;%"


def count(value: float | None) -> str:
    """A number of operations with its unit; a question mark for None."""
    if value is None:
        return "?"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}&nbsp;{unit}"
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """To a hundredth, to less of it where there are many."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}&nbsp;ms"


def seconds(value: float) -> str:
    """A time in a recording, ``m:ss.s``."""
    minutes, rest = divmod(round(value * 10), 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def policy(values: Mapping[str, Any]) -> str:
    """A policy in a few plain words, not yet HTML: ``confidence 0.9``."""
    words = [str(values.get("name", "policy"))]
    for key, value in values.items():
        if key == "name":
            continue
        if isinstance(value, Mapping):
            words.append(", ".join(f"{name} {_number(part)}" for name, part in value.items()))
        else:
            words.append(_number(value))
    return " ".join(word for word in words if word)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    name: str = "",
    left: Sequence[int] = (0,),
) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        head: column headings, HTML.
        rows: cells, HTML; the first of each row heads it.
        caption: what is in it, HTML.
        name: its class in the style sheet.
        left: the columns of words; the others hold figures, and stand to the right.
    """
    lines = [list(row) for row in rows]
    top = ""
    for place, content in enumerate(head):
        words = ""
        if place in left:
            longest = max((columns(unescape(_untagged(row[place]))) for row in lines), default=0)
            words = f' class="words" style="min-width:{min(longest, WORDS) + 2}ch"'
        top += f'<th scope="col"{words}>{content}</th>'
    body = ""
    for row in lines:
        words = [' class="words"' if place in left else "" for place in range(len(row))]
        cells = "".join(f"<td{words[place]}>{row[place]}</td>" for place in range(1, len(row)))
        body += f'<tr><th scope="row"{words[0]}>{row[0]}</th>{cells}</tr>\n'
    return scrolling(
        caption, f'<table class="{name}"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table>'
    )


def scrolling(caption: str, content: str) -> str:
    """Something wide below its caption, HTML both; the caption stays where the other scrolls."""
    spoken = escape(unescape(_untagged(caption)), quote=True)
    return (
        f'<p class="caption">{caption}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{spoken}">{content}</div>\n'
    )


def bar(right: float, whole: float, spoken: str) -> str:
    """A bar of a share of its cell: ``right`` filled, the rest up to ``whole`` hatched.

    Args:
        right, whole: shares, ``right`` the smaller.
        spoken: what it shows, for who does not see it.
    """
    wrong = max(whole - right, 0.0)
    parts = f'<i style="width:{100 * right:.2f}%"></i>' if right > 0 else ""
    parts += f'<i class="wrong" style="width:{100 * wrong:.2f}%"></i>' if wrong > 0 else ""
    return f'<span class="bar" role="img" aria-label="{text(spoken)}">{parts}</span>'


def columns(value: str) -> int:
    """How wide a text is, in columns of a fixed-width font: East Asian characters take two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in value)


def _unfit(character: str) -> bool:
    return category(character) in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE


def _number(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, float):
        return short(value) if value >= 1000 else f"{value:.4g}"
    return str(value)


def _untagged(html: str) -> str:
    """Only its text, still escaped."""
    return re.sub("<[^>]*>", "", html)
