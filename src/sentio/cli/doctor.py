"""What is installed, what is missing, and which extra brings it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TypedDict

#: package -> (extra that brings it, what it is for)
PACKAGES = {
    "numpy": ("edge", "arrays, front end"),
    "onnxruntime": ("edge", "running exported models"),
    "soundfile": ("edge", "reading sound"),
    "soxr": ("edge", "changing the sample rate"),
    "torch": ("torch", "networks"),
    "safetensors": ("torch", "weights"),
    "lightning": ("train", "training"),
    "tensorboard": ("train", "logs"),
    "matplotlib": ("report", "figures of reports"),
    "onnx": ("export", "exporting"),
    "onnxscript": ("export", "exporting"),
    "av": ("video", "sound and pictures of video files"),
    "transformers": ("hub", "networks of others"),
}


class Row(TypedDict):
    package: str
    version: str | None
    extra: str
    purpose: str


def report() -> list[Row]:
    """One row per optional package."""
    rows: list[Row] = []
    for package, (extra, purpose) in PACKAGES.items():
        try:
            found: str | None = version(package)
        except PackageNotFoundError:
            found = None
        rows.append({"package": package, "version": found, "extra": extra, "purpose": purpose})
    return rows
