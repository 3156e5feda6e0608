"""Tones to train on, and a recipe that trains on them in a second."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 8000
LABELS = ("high", "low", "middle")
HERTZ = {"low": 220.0, "middle": 660.0, "high": 1980.0}
CLIPS = 12


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tone() -> Callable[..., Any]:
    """``tone(hertz, seconds=0.3, seed=0)``: a tone in noise at 8 kHz."""

    def make(hertz: float, seconds: float = 0.3, seed: int = 0) -> Any:
        generator = np.random.default_rng(seed)
        time = np.arange(round(seconds * RATE)) / RATE
        pitch = hertz * generator.uniform(0.8, 1.25)
        return 0.3 * np.sin(2 * np.pi * pitch * time) + generator.normal(0, 0.05, len(time))

    return make


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory, tone: Callable[..., Any]) -> Path:
    """A folder per class, twelve clips of 0.3 s each; not to be written to."""
    folder = tmp_path_factory.mktemp("data") / "tones"
    for label, hertz in HERTZ.items():
        (folder / label).mkdir(parents=True)
        for number in range(CLIPS):
            soundfile.write(folder / label / f"{number}.wav", tone(hertz, seed=number), RATE)
    return folder


@pytest.fixture(scope="session")
def recipe() -> Callable[..., dict[str, Any]]:
    """``recipe(epochs=2, ...)``: plain values of a small recipe, with changes to its first level."""

    def make(**changes: Any) -> dict[str, Any]:
        options = {"window": 0.3, "rate": RATE, "n_fft": 256, "hop_length": 128, "n_mels": 24, "top_db": 80.0}
        values = {
            "name": "tones",
            "frontend": {"name": "log-mel", "options": options},
            "network": {"name": "tiny-cnn", "options": {"width": 4}},
            "exits": [{"kind": "pooled-linear", "at": ["block1", "block2"], "options": {"dropout": 0.2}}],
            "optimiser": {"lr": 0.01},
            "epochs": 3,
            "batch": 8,
        }
        return {key: value for key, value in {**values, **changes}.items() if value is not None}

    return make


@pytest.fixture(scope="session")
def trained(
    tones: Path, recipe: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A trained ``model``, where it lies (``path``), its ``run`` folder and the ``steps`` that were told."""
    from types import SimpleNamespace

    from sentio.training.training import train

    path = tmp_path_factory.mktemp("trained") / "model"
    steps: list[Any] = []
    model = train(None, recipe(epochs=6), tones, out=path, progress=steps.append)
    yield SimpleNamespace(model=model, path=path, run=path.with_name("model.run"), steps=steps)


@pytest.fixture
def few(tones: Path, tmp_path: Path) -> Callable[..., Path]:
    """``few(per_class)``: a copy of so many clips of each class."""

    def make(per_class: int, labels: tuple[str, ...] = LABELS) -> Path:
        folder = tmp_path / "few"
        for label in labels:
            (folder / label).mkdir(parents=True)
            for number in range(per_class):
                shutil.copy(tones / label / f"{number}.wav", folder / label)
        return folder

    return make
