"""Rules of the house that no linter knows; `make lint` checks the direction of imports."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sentio
from sentio.core import registry

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
PACKAGE = Path(sentio.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 450

sys.path.append(str(ROOT / "tests" / "edge_environment"))
from torch_free import NEEDS_TORCH, needs_torch  # noqa: E402  (a script, also run where there is no pytest)


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.fixture(scope="module")
def hidden_imports() -> dict[str, str | None]:
    """What importing each module raises where nothing is installed that the extras bring."""
    script = ROOT / "tests" / "edge_environment" / "torch_free.py"
    run = subprocess.run([sys.executable, script, "--hide"], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_modules_import_without_the_extras(hidden_imports):
    free = {name: error for name, error in hidden_imports.items() if not needs_torch(name)}
    assert {"sentio", "sentio.core.model", "sentio.edge.onnx_row"} <= free.keys()
    assert [f"{name}: {error}" for name, error in free.items() if error] == []


def test_the_list_of_modules_that_need_torch_is_true(hidden_imports):
    """A module that needs PyTorch no longer leaves the list, so that it stays without."""
    named = [name for name in NEEDS_TORCH if not name.endswith(".*")]
    assert [name for name in named if not hidden_imports.get(name)] == []
    rooms = {name.removesuffix(".*") for name in NEEDS_TORCH if name.endswith(".*")}
    assert rooms <= hidden_imports.keys()


def test_core_reaches_upwards_by_name_in_two_files_only():
    """Rooms above core are resolved by string in the registry and in loading, nowhere else."""
    found = {
        path.name
        for path in (PACKAGE / "core").rglob("*.py")
        for call in calls(path)
        if called_name(call) in ("import_module", "__import__")
    }
    assert found == {"registry.py", "loading.py"}


@pytest.mark.parametrize(
    ("kind", "room"), [(kind, room) for kind, rooms in registry.ROOMS.items() for room in rooms]
)
def test_every_registered_name_is_a_row_of_its_room(kind, room):
    """And every row leads to its file: a name missing in MEMBERS could not be asked for."""
    room = import_module(room)
    folder = Path(room.__file__).parent
    found = {}
    for path in folder.glob("*.py"):
        for call in calls(path):
            if called_name(call) == "register" and [a.value for a in call.args[:1]] == [kind]:
                found[call.args[1].value] = path.stem
    if kind != "technique" or found:
        assert found == room.MEMBERS
    assert {name for name in room.MEMBERS.values() if not (folder / f"{name}.py").exists()} == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_holds_one_idea(path):
    text = path.read_text("utf-8")
    assert path.stem != "utils"
    assert len(text.splitlines()) <= MOST_LINES
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "say what this module is for"


def test_test_files_have_names_of_their_own():
    """pytest imports them without packages around them."""
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "edge_environment" not in path.parts]
    assert not [path for path in tests if path.name == "__init__.py"]
    counts = Counter(path.name for path in tests if path.name != "conftest.py")
    assert {name for name, count in counts.items() if count > 1} == set()


def test_constraints_pin_what_the_project_asks_for():
    """Every package that pyproject.toml names, once, at a version that it allows."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in chain(project["dependencies"], *project["optional-dependencies"].values()):
        wanted = Requirement(text)
        if wanted.name != project["name"]:
            assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), text


def test_extras_named_in_messages_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = set()
    for path in SOURCES:
        for call in calls(path):
            if called_name(call) == "MissingExtraError" and len(call.args) == 2:
                extra = call.args[1]
                named |= set(extra.value.split(",")) if isinstance(extra, ast.Constant) else set()
    assert "torch" in named
    assert named <= project["optional-dependencies"].keys()


def test_the_first_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "index.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/index.md", "exec"), {})


def test_every_page_is_there_and_in_the_navigation():
    """``make docs`` refuses anything else; this says so sooner."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = re.findall(r"[\w-]+\.md", json.dumps(config["nav"]))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
