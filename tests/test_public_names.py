"""The public names: pinned, documented, there, and cheap to have.

A name that goes is deprecated for a release first, with its replacement in the message.
"""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sentio

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sentio.__file__).parent

PUBLIC = [
    "ArtifactError",
    "Budget",
    "CancelledError",
    "Confidence",
    "ConfigError",
    "Count",
    "Deadline",
    "Ensemble",
    "Entropy",
    "ExitCosts",
    "Fixed",
    "InputError",
    "Int8",
    "Label",
    "MissingExtraError",
    "Model",
    "MultiExit",
    "Patience",
    "Recipe",
    "SentioError",
    "StageError",
    "Staged",
    "UnknownNameError",
    "__version__",
    "add_exits",
    "create_network",
    "evaluate",
    "export",
    "fit_budget",
    "load",
    "open_data",
    "profile",
    "reset_classifier",
    "save",
    "stage",
    "stream",
    "train",
]


def test_the_public_names_are_these():
    assert sorted(sentio.__all__) == PUBLIC
    assert dir(sentio) == PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_each_name_is_there_and_documented(name):
    value = getattr(sentio, name)
    assert value.__name__ == name
    doc = inspect.getdoc(value)
    # A dataclass without a docstring shows its signature in place of one.
    assert doc and not doc.startswith(f"{name}(")
    assert value.__module__.startswith("sentio."), "a public name is the library's own"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sentio.nonsense


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in PUBLIC if inspect.isfunction(getattr(sentio, name))}
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | {
        path.parent.name for path in PACKAGE.rglob("__init__.py")
    }
    assert "load" in functions
    assert functions & modules == set()


def test_every_name_is_in_the_reference():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    entries = [line.removeprefix("::: ") for line in page.splitlines() if line.startswith("::: ")]
    wanted = [f"{getattr(sentio, name).__module__}.{name}" for name in PUBLIC if name != "__version__"]
    assert sorted(entries) == sorted(wanted)


def test_import_brings_no_heavy_package():
    heavy = ("torch", "lightning", "onnxruntime", "numpy", "pydantic", "scipy")
    code = f"import sys, sentio; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_missing_package_is_named_with_its_extra():
    code = """
import sys
sys.modules["torch"] = None
import sentio
try:
    sentio.Staged
except sentio.MissingExtraError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'sentio[torch]'" in run.stdout


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    assert ROOT / project["tool"]["hatch"]["version"]["path"] == ROOT / "src" / "sentio" / "__init__.py"
    assert f"## [{sentio.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "extra"), [("train", "train"), ("MultiExit", "torch")])
def test_without_pytorch_the_extra_that_brings_it_is_named(name: str, extra: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import sentio\n"
        f"try: sentio.{name}\n"
        "except sentio.MissingExtraError as error: print(error.extra)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == extra, done.stderr
