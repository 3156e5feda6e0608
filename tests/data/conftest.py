"""Tiny recordings for the tests of `sentio.data`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


def write_clip(path: Path, level: float = 0.1, samples: int = 80) -> Path:
    """A constant of the given level, 8 kHz mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, level, dtype=np.float32), 8000)
    return path


@pytest.fixture
def clip() -> Callable[..., Path]:
    return write_clip


def write_zip(folder: Path, target: Path, prefix: str = "") -> Path:
    """A zip of what a folder holds, each path behind the prefix."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target


@pytest.fixture
def zipped() -> Callable[..., Path]:
    return write_zip


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder per class: 4 cats, 3 dogs."""
    folder = tmp_path / "pets"
    for label, count in (("cat", 4), ("dog", 3)):
        for number in range(count):
            write_clip(folder / label / f"{number}.wav", level=0.1 * (number + 1))
    return folder


@pytest.fixture
def public_data() -> Path:
    """The folder with real public data."""
    folder = os.environ.get("SENTIO_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SENTIO_DATA does not name a folder with esc10/ and fsdd/")
    return Path(folder)
