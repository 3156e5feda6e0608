"""The command run in this process, and a small trained model to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 8000
HERTZ = {"low": 220.0, "middle": 660.0, "high": 1980.0}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    torch.set_num_threads(1)


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def sentio(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``sentio("train", ...)`` as on the command line; the exit code and what was printed."""
    from sentio.cli import main

    def run(*arguments: Any) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        found = capfd.readouterr()
        return Outcome(int(left.value.code or 0), found.out, found.err)

    return run


def write_tones(folder: Path, clips: int = 12) -> Path:
    """A folder per class of tones in noise, 0.3 s each at 8 kHz."""
    generator = np.random.default_rng(0)
    time = np.arange(2400) / RATE
    for label, hertz in HERTZ.items():
        (folder / label).mkdir(parents=True)
        for number in range(clips):
            clip = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * time)
            soundfile.write(folder / label / f"{number}.wav", clip + generator.normal(0, 0.05, 2400), RATE)
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled data, twelve clips per class; not to be written to."""
    return write_tones(tmp_path_factory.mktemp("cli") / "tones")


@pytest.fixture
def own_tones(tmp_path: Path) -> Path:
    """Labelled data to spoil, four clips per class."""
    return write_tones(tmp_path / "own", clips=4)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in a second."""
    file = tmp_path_factory.mktemp("cli") / "small.yaml"
    file.write_text(
        "name: small\n"
        "frontend:\n"
        "  name: log-mel\n"
        "  options: {window: 0.3, rate: 8000, n_fft: 256, hop_length: 128, n_mels: 24}\n"
        "network: {name: tiny-cnn, options: {width: 4}}\n"
        "exits: [{kind: pooled-linear, at: [block1, block2]}]\n"
        "optimiser: {lr: 0.01}\n"
        "epochs: 5\n"
        "batch: 8\n"
    )
    return file


@pytest.fixture(scope="session")
def artifact(recipe: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model; not to be written to."""
    from sentio.training.training import train

    out = tmp_path_factory.mktemp("cli") / "model"
    train(None, recipe, tones, out=out)
    return out


@pytest.fixture(scope="session")
def box(artifact: Path) -> Path:
    """The same, exported."""
    pytest.importorskip("onnxscript")
    from sentio.core.loading import load
    from sentio.exporting.onnx import export

    return Path(export(load(artifact, runtime="torch"), artifact.with_name("box")).path)


@pytest.fixture(scope="session")
def stream_box(artifact: Path) -> Path:
    """The same with steps for streams."""
    pytest.importorskip("onnxscript")
    import sentio

    model = sentio.load(artifact, runtime="torch")
    made = sentio.export(model, artifact.with_name("stream-box"), stream=sentio.stream(model.network))
    return Path(made.path)


def write_crowds(folder: Path) -> Path:
    """Small pictures of crowds with their sounds: sixteen to train on, four and six beside."""
    from sentio.data.simulate.crowd_files import render_crowds

    parts = {"train": 16, "validation": 4, "test": 6}
    return render_crowds(
        folder, **parts, size=(32, 48), people=(1, 12), rate=8000, condition="mixed", workers=1
    )


@pytest.fixture(scope="session")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with heads; not to be written to."""
    return write_crowds(tmp_path_factory.mktemp("cli") / "crowds")


@pytest.fixture
def own_crowds(tmp_path: Path) -> Path:
    """Pictures with heads to spoil."""
    return write_crowds(tmp_path / "crowds")


@pytest.fixture(scope="session")
def crowd_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains a counter in a second."""
    file = tmp_path_factory.mktemp("cli") / "crowd.yaml"
    file.write_text(
        "name: square\n"
        "task: {name: counting, options: {sigma: 2.0, side: 7, density_scale: 20.0, count_weight: 0.05}}\n"
        "frontend: {name: image, options: {height: 32, width: 48}}\n"
        "network: {name: csrnet, options: {width: 4, answer: density, norm: true}}\n"
        "exits: [{kind: density-ee, at: [visual4], names: [V1], options: {answer: density}}]\n"
        "optimiser: {lr: 0.003}\n"
        "epochs: 2\n"
        "batch: 8\n"
    )
    return file


@pytest.fixture(scope="session")
def trained_counter(crowd_recipe: Path, crowds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained counter; not to be written to."""
    from sentio.training.training import train

    pytest.importorskip("PIL")
    out = tmp_path_factory.mktemp("cli") / "square"
    train(None, crowd_recipe, crowds, out=out)
    return out
