"""The page on extending: its two commits apply to this tree, and what they add passes its tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
DIFFS = dict(
    re.findall(r"^## Add a (network|technique)\n.*?```diff\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
)
#: what the contract, the rules of the house and the pages ask of something new, each by its name
QUESTIONS = {
    "network": (
        ["tests/networks", "tests/test_house.py"],
        "ds-cnn or ds_cnn or row_of_its_room",
    ),
    "technique": (
        ["tests/techniques", "tests/test_house.py", "tests/cli/test_reference_pages.py"],
        "depth_weighted or row_of_its_room or every_technique",
    ),
}
#: some of the tests that must be among those
NEW = {
    "network": ("test_ds_cnn.py", "test_contract.py", "test_exports_and_agrees[ds-cnn]"),
    "technique": ("test_depth_weighted.py", "test_every_technique_is_on_the_page"),
}
SHOWN = """
import sentio
from sentio.core.counting import count
from sentio.core.registry import names

net = sentio.create_network("ds-cnn")
print(sentio.__file__, *names("network"), *names("technique"))
print(f"{sum(p.numel() for p in net.parameters()):,} {count(net, net.example()).total:,}")
"""

needs_git = pytest.mark.skipif(
    shutil.which("git") is None, reason="git, which applies the diffs, is not here"
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, tests and pages with both commits applied."""
    folder = tmp_path_factory.mktemp("extended")
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("src", "tests", "docs", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    for name in ("pyproject.toml", "constraints.txt", "mkdocs.yml"):
        shutil.copy(ROOT / name, folder / name)
    for what, diff in DIFFS.items():
        apply(folder, what, diff)
    return folder


def apply(folder: Path, what: str, diff: str) -> None:
    # A repository around the temporary folder would be taken for the one to change.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        ["git", "apply", "--whitespace=error", "-"],
        input=diff,
        cwd=folder,
        env=alone,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(
            f"The {what} of docs/extending.md no longer applies, since a file that it changes was changed: "
            f"{done.stderr.strip()}; make that change by hand on this tree, put what 'git diff -U1' prints "
            "for the file in place of the old one, and take the change back"
        )


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
    )


def test_there_is_a_diff_for_each_and_it_holds_code_test_row_and_page():
    assert DIFFS.keys() == QUESTIONS.keys()
    for what, diff in DIFFS.items():
        files = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)
        assert f"src/sentio/{what}s/__init__.py" in files
        assert len(files) == 4 and {file.split("/")[0] for file in files} == {"src", "tests", "docs"}


@needs_git
@pytest.mark.parametrize("what", QUESTIONS)
def test_what_the_commits_add_passes(copy, what):
    files, chosen = QUESTIONS[what]
    done = run(copy, "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-rp", "-k", chosen, *files)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    for wanted in (*NEW[what], f"row_of_its_room[{what}-sentio.{what}s]"):
        assert [line for line in passed if wanted in line], f"{wanted}: {done.stdout[-4000:]}"


@needs_git
def test_it_is_the_copy_that_was_tested_and_its_page_says_what_was_added(copy):
    """Not the library that is installed beside it, which has neither."""
    (copy / "shown.py").write_text(SHOWN)
    file, *names, parameters, macs = run(copy, "shown").stdout.split()
    assert Path(file).is_relative_to(copy)
    assert {"ds-cnn", "depth-weighted"} <= set(names)
    row = f"ds-cnn 1x49x10 {parameters} {macs}".split()
    assert row in [line.split() for line in (copy / "docs" / "networks.md").read_text("utf-8").splitlines()]


@needs_git
def test_the_code_of_the_commits_is_clean(copy):
    pytest.importorskip("ruff")
    new = re.findall(r"^\+\+\+ b/(\S+\.py)$", "".join(DIFFS.values()), re.MULTILINE)
    for command in (["check"], ["format", "--check"]):
        done = run(copy, "ruff", *command, "--no-cache", *new)
        assert done.returncode == 0, done.stdout + done.stderr
