"""Write docs/cli.md from the commands themselves: ``python docs/make_cli_reference.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from sentio.cli.app import EXIT_CODES, app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Commands

<!-- Written by docs/make_cli_reference.py; change the commands, not this page. -->

`sentio COMMAND --help` says the same on the terminal. What is asked for is printed on standard output, with
`--json` as one JSON document and nothing else; errors are one sentence each on standard error, and progress
is drawn there if it is a terminal. The same in Python: [training](training.md), [artifacts](artifact.md), and
the [reference](reference.md).
"""


def page() -> str:
    """The whole page."""
    commands = typer.main.get_command(app).commands
    parts = [HEAD, *(_command(name, command) for name, command in _flat(commands)), _exit_codes()]
    return "\n".join(parts)


def _flat(commands: dict[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name; those of a group bear the group's before their own."""
    for name, command in commands.items():
        if hasattr(command, "commands"):
            yield from _flat(command.commands, f"{group}{name} ")
        else:
            yield f"{group}{name}", command


def _command(name: str, command: Any) -> str:
    given = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    needed = [f"{p.opts[-1]} {p.metavar}" for p in options if p.required]
    usage = " ".join(["sentio", name, *(_place(p) for p in given), *needed, "[OPTIONS]"])
    lines = [f"## sentio {name}", "", _text(command.help), "", "```", usage, "```", ""]
    lines += ["| | default | |", "|---|---|---|"]
    lines += [f"| `{_place(p)}` | | {p.help} |" for p in given]
    lines += [f"| {_names(p)} | {_default(p)} | {p.help} |" for p in options]
    examples = [line.strip() for line in command.epilog.splitlines()[2:]]
    return "\n".join([*lines, "", "```bash", *examples, "```", ""])


def _place(argument: Any) -> str:
    return f"{argument.metavar}{'...' if argument.nargs == -1 else ''}"


def _names(option: Any) -> str:
    if option.is_flag:
        return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return ", ".join(f"`{name} {option.metavar}`" for name in option.opts)


def _default(option: Any) -> str:
    if option.required:
        return "needed"
    if option.default is None or option.default is False or option.default == []:
        return ""
    if option.is_flag:
        return f"`{option.opts[0]}`"
    return f"`{option.default}`"


def _text(help_text: str) -> str:
    """Paragraphs without the line breaks of the source."""
    return "\n\n".join(" ".join(part.split()) for part in help_text.split("\n\n"))


def _exit_codes() -> str:
    rows = re.findall(r"^ +(\d+) +(.+)$", EXIT_CODES, re.MULTILINE)
    table = "\n".join(f"| {code} | {meaning} |" for code, meaning in rows)
    return (
        f"## Exit codes\n\n| code | |\n|---|---|\n{table}\n\n"
        "What is said about each kind of bad input: [bad input](bad_input.md).\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
