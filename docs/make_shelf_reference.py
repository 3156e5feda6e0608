"""Write the table of docs/shelf.md from the models' cards: ``python docs/make_shelf_reference.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentio.core.shelf import facts, shipped
from sentio.core.tables import short

PAGE = Path(__file__).with_name("shelf.md")
START = "<!-- Written by docs/make_shelf_reference.py from here; make the models again, not this page. -->"
END = "<!-- Up to here. -->"
HEAD = (
    "| name | what for | accuracy | MACs, mean | MACs, all stages | size |",
    "|---|---|---|---|---|---|",
)


def reference() -> str:
    """A row for each shipped model, and below the table what each was made of."""
    models = [facts(file) for file in shipped().values()]
    if not models:
        return "No model ships with this version."
    rows = [_row(model) for model in models]
    return "\n".join([*HEAD, *rows, "", *(_origin(model) for model in models)])


def _row(model: dict[str, Any]) -> str:
    cells = (
        f"`{model['name']}`",
        model["purpose"],
        f"{model['accuracy']:.1%} on {model['tested_on']}",
        short(model["mean_macs"]),
        short(model["macs"]),
        f"{model['bytes'] / 1e6:.2f} MB",
    )
    return f"| {' | '.join(cells)} |"


def _origin(model: dict[str, Any]) -> str:
    return (
        f"- `{model['name']}` was trained on {model['data']}. Licence of the data: {model['licence']}. "
        f"Credits: {model['credits']}. Made with `{model['command']}`."
    )


def page() -> str:
    """The page with its table and list written anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n\n{reference()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
