"""The cookbook: its Python runs, its commands and settings are real, each entry answers a question."""

from __future__ import annotations

import csv
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

torch = pytest.importorskip("torch")
for needed in ("lightning", "transformers", "onnxscript"):
    pytest.importorskip(needed)

import sentio  # noqa: E402
from sentio.cli import options  # noqa: E402
from sentio.cli.app import app  # noqa: E402
from sentio.training.defaults import default_recipe  # noqa: E402
from sentio.training.recipe import read_recipe  # noqa: E402

PAGE = (Path(__file__).parents[1] / "docs" / "cookbook.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ENTRIES = {
    (section, title): body
    for section, text in SECTIONS.items()
    for title, body in re.findall(r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
}
#: entries about data that hold Python
DATA = [title for (section, title), body in ENTRIES.items() if "data" in section and "```python" in body]
COMMANDS = [line for line in PAGE.replace("\\\n", "").splitlines() if line.startswith("sentio ")]
RATE = 8000


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page takes for granted: labelled sounds, a table with folds, a model, clips."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cookbook")
    generator = np.random.default_rng(0)

    def tone(hertz: float, seconds: float) -> np.ndarray:
        time = np.arange(round(seconds * RATE)) / RATE
        wave = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * time)
        return wave + generator.normal(0, 0.05, len(time))

    rows = [["filename", "label", "fold"]]
    (folder / "my_folds").mkdir()
    for label, hertz in {"dog": 220.0, "rain": 660.0, "siren": 1980.0}.items():
        (folder / "my_sounds" / label).mkdir(parents=True)
        for number in range(12 if label == "dog" else 10):
            soundfile.write(folder / "my_sounds" / label / f"{number}.wav", tone(hertz, 1.0), RATE)
        for fold in range(3):
            name = f"{label}{fold}.wav"
            soundfile.write(folder / "my_folds" / name, tone(hertz, 0.3), RATE)
            rows.append([name, label, str(fold)])
    with (folder / "my_folds" / "meta.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    soundfile.write(folder / "clip.wav", tone(660.0, 1.0), RATE)
    soundfile.write(folder / "street.wav", tone(220.0, 2.5), RATE)
    recipe = {
        "name": "my-model",
        "frontend": {
            "name": "log-mel",
            "options": {"window": 1.0, "rate": RATE, "n_fft": 256, "hop_length": 128, "n_mels": 24},
        },
        "network": {"name": "tiny-cnn", "options": {"width": 4}},
        "exits": [{"kind": "pooled-linear", "at": ["block1", "block2"]}],
        "optimiser": {"lr": 0.01},
        "epochs": 3,
    }
    sentio.train(None, recipe, folder / "my_sounds", out=folder / "my-model")
    return folder


def test_each_entry_is_a_question_with_an_answer_in_code():
    assert list(SECTIONS) == ["Your own data", "Your own network"]
    assert len(ENTRIES) > 25
    for (_, title), body in ENTRIES.items():
        assert title.count("?") == 1 and title.endswith("?"), title
        assert re.search(r"```(sh|python|csv)\n", body), title
        prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL).split()
        assert len(prose) < 90, f"{title}: {len(prose)} words of prose"


@pytest.mark.parametrize("title", DATA)
def test_python_about_data_runs_by_itself(place, monkeypatch, capsys, title):
    monkeypatch.chdir(place)
    for block in blocks(ENTRIES["Your own data", title], "python"):
        exec(compile(block, f"docs/cookbook.md: {title}", "exec"), {})
    assert capsys.readouterr().out or "sentio.save" in block


def test_python_about_networks_runs_in_order(place, monkeypatch, capsys):
    """And what it prints is what the sentences beside it say."""
    monkeypatch.chdir(place)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    printed = {}
    for (section, title), body in ENTRIES.items():
        if section == "Your own network":
            for block in blocks(body, "python"):
                exec(compile(block, f"docs/cookbook.md: {title}", "exec"), names)
            printed[title] = capsys.readouterr().out
    assert "{'first': {'main': (16, 25, 31)}" in printed["How do I cut a module into stages?"]
    assert "'b': (20,)" in printed["My network takes several inputs. Can it be cut?"]
    assert printed["How do I attach exits?"] == "('first', 'conv', 'final') ('conv',)\n"
    assert printed["How do I train only the exits, on a frozen network?"].endswith("True\n")
    assert "label=" in printed["How do I get the weights back into PyTorch?"]
    loaded = names["again"].backbone.parameters()
    assert all(torch.equal(one, other) for one, other in zip(names["before"], loaded, strict=True))


def test_the_table_on_the_page_is_one_that_is_read(tmp_path):
    (text,) = blocks(PAGE, "csv")
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta.csv").write_text(text)
    for row in csv.DictReader(io.StringIO(text)):
        soundfile.write(tmp_path / "audio" / row["filename"], np.zeros(100), RATE)
    data = sentio.open_data(tmp_path)
    assert (data.labels, data.protocol) == (("dog", "rain"), "folds")
    assert {item.group for item in data.items} == {"1", "2"}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_taken_as_they_stand(line):
    """Options exist and take such values; settings make a valid recipe, policies are known."""
    name, *words = shlex.split(line)[1:]
    command = typer.main.get_command(app).commands[name]
    found = command.make_context(name, words).params
    if name == "train":
        changes = options.settings(found["changes"] or [])
        recipe = read_recipe(default_recipe("page"), data__split=options.split(found["split"]), **changes)
        if "calibration" in line:
            assert len(recipe.calibration.goals()) == 1
    elif found.get("policy"):
        assert options.policy(found["policy"]) is not None


def test_there_are_commands():
    assert len(COMMANDS) > 20
    assert sum(len(blocks(body, "sh")) for body in ENTRIES.values()) > 12
