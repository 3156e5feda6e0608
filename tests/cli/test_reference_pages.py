"""The pages about commands and recipes say what the code says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from sentio.cli.app import app
from sentio.cli.options import PolicyText
from sentio.core.policy import POLICIES
from sentio.core.registry import names
from sentio.training.recipe import read_recipe

DOCS = Path(__file__).parents[2] / "docs"
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")


def script(name):
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["make_cli_reference", "make_recipe_reference", "make_shelf_reference"])
def test_written_pages_are_fresh(name):
    made = script(name)
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), f"run: python docs/{name}.py"


def test_the_help_of_policy_names_them_all():
    (option,) = PolicyText.__metadata__
    assert re.findall(r"(\w+):[\w.]", option.help) == list(POLICIES)
    assert option.help in (DOCS / "cli.md").read_text(encoding="utf-8")


def test_recipes_on_the_page_are_valid():
    blocks = re.findall(r"```yaml\n(.*?)```", TRAINING, re.DOTALL)
    assert blocks
    for block in blocks:
        assert read_recipe(yaml.safe_load(block)).name == "tones"


def test_every_technique_is_on_the_page():
    assert [name for name in names("technique") if f"| `{name}` |" not in TRAINING] == []


@pytest.mark.parametrize("page", ["training.md", "cli.md", "shelf.md", "simulate.md"])
def test_commands_on_the_pages_can_be_parsed(page):
    """Their options exist; values are not looked at."""
    lines = re.findall(r"^sentio (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    commands = typer.main.get_command(app).commands
    found = [shlex.split(line, comments=True) for line in lines if "[OPTIONS]" not in line]
    assert found
    for name, *arguments in found:
        command = commands[name]
        # A group's first word names one of its own commands.
        command = command.commands[arguments.pop(0)] if hasattr(command, "commands") else command
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in arguments if word.startswith("-")} <= known, (name, arguments)


def test_python_on_the_page_can_be_compiled():
    for block in re.findall(r"```python\n(.*?)```", TRAINING, re.DOTALL):
        compile(block, "docs/training.md", "exec")
