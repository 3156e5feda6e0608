"""Import every module of Sentio that must do without PyTorch; prints ``{module: error or null}`` as JSON.

    python torch_free.py --hide     with everything hidden that the extras bring
    python torch_free.py            in an environment that has none of it

A new module is among them by being there; one that defines networks or trains them is named below.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: modules that need PyTorch or the exporter to be imported; ``room.*`` is all in a room but the room itself
NEEDS_TORCH = (
    "sentio.core.calling",
    "sentio.core.counting",
    "sentio.core.cutting",
    "sentio.core.graph",
    "sentio.core.memory",
    "sentio.core.multi_exit",
    "sentio.core.pieces",
    "sentio.core.profiling",
    "sentio.core.row_timing",
    "sentio.core.staged",
    "sentio.core.torch_artifact",
    "sentio.core.torch_row",
    "sentio.core.verifying",
    "sentio.nn.*",
    "sentio.exits.*",
    "sentio.audio.augmentation",
    "sentio.audio.streaming_frontend",
    "sentio.audio.augmentation_mixing",
    "sentio.audio.augmentation_warp",
    "sentio.audio.torch_frontend",
    "sentio.networks.*",
    "sentio.techniques.*",
    "sentio.training.averaging",
    "sentio.training.batches",
    "sentio.training.cross_validation",
    "sentio.training.building",
    "sentio.training.callbacks",
    "sentio.training.loop",
    "sentio.training.muon",
    "sentio.training.phase_module",
    "sentio.training.run_folder",
    "sentio.training.training",
    "sentio.vision.augmentation",
    "sentio.exporting.*",
    "sentio.exporting.c.*",
    "sentio.streaming.*",
)

#: what the extras bring, and references that only tests know
HIDDEN = frozenset(
    {
        "torch",
        "torchvision",
        "safetensors",
        "lightning",
        "pytorch_lightning",
        "torchmetrics",
        "sklearn",
        "scipy",
        "matplotlib",
        "tensorboard",
        "av",
        "PIL",
        "onnx",
        "onnxscript",
        "transformers",
        "timm",
        "librosa",
        "continual",
        "pandas",
    }
)


class Hiding:
    """A finder that does not find what is hidden, as if it were not installed."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def modules() -> list[str]:
    """All modules of the package that ``import sentio`` would find, without importing one."""
    spec = find_spec("sentio")
    assert spec is not None and spec.origin is not None, "sentio is not installed in this environment"
    root = Path(spec.origin).parent
    names = []
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def needs_torch(module: str) -> bool:
    return module in NEEDS_TORCH or f"{module.rpartition('.')[0]}.*" in NEEDS_TORCH


def import_errors(names: list[str]) -> dict[str, str | None]:
    """What importing each module raised, or None."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            import_module(name)
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    if "--hide" in sys.argv:
        sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    print(json.dumps(import_errors(modules()), indent=1))
