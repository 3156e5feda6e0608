"""zoo/build.py as a module, and a model made by it from small data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: tones
frontend: {name: log-mel, options: {window: 0.3, rate: 8000, n_fft: 256, hop_length: 128, n_mels: 24}}
network: {name: tiny-cnn, options: {width: 4}}
exits: [{kind: pooled-linear, at: [block1, block2]}]
optimiser: {lr: 0.01}
epochs: 3
batch: 8
"""


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The script that makes shipped models."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    pytest.importorskip("onnxscript")
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("zoo_build", ROOT / "zoo" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo_build"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of tones in noise, 0.3 s each at 8 kHz; not to be written to."""
    folder = tmp_path_factory.mktemp("zoo") / "tones"
    generator, time = np.random.default_rng(0), np.arange(2400) / 8000
    for label, hertz in (("low", 220.0), ("high", 1980.0)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            clip = 0.3 * np.sin(2 * np.pi * hertz * generator.uniform(0.8, 1.25) * time)
            soundfile.write(folder / label / f"{number}.wav", clip + generator.normal(0, 0.05, 2400), 8000)
    return folder


@pytest.fixture(scope="session")
def entry(build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a model whose data have to be given."""
    recipe = tmp_path_factory.mktemp("zoo") / "tones.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return build.Entry(
        "stand-in",
        recipe,
        build.Given("SENTIO_ZOO_TONES", "tones from nowhere"),
        purpose="two tones",
        data="10 tones of each kind",
        tested_on="a fifth of them",
        licence="Apache-2.0",
        credits="the tests",
    )


@pytest.fixture(scope="session")
def stand_in(build: ModuleType, entry: Any, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact made as shipped ones are; not to be written to."""
    folder = tmp_path_factory.mktemp("zoo")
    return Path(build.make(entry, folder / "work", shelf=folder / "shelf", given={"stand-in": tones}))
