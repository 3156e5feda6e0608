"""Tables in plain text."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def drawn(table: Table, *, width: int = 100) -> str:
    """A table of `rich` as text without colours, the same on every terminal."""
    from rich.console import Console

    out = StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def short(value: float | None) -> str:
    """A large count in a few characters, ``12.06 M``; a question mark for one that is not known."""
    if value is None:
        return "?"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"
