"""Sentio: audio-visual perception that fits the budget.

Public names are imported on first use, so that ``import sentio`` is quick and needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: public name -> module that defines it
_PUBLIC = {
    # networks as stages
    "Staged": "sentio.core.staged",
    "MultiExit": "sentio.core.multi_exit",
    "stage": "sentio.core.cutting",
    "add_exits": "sentio.core.multi_exit",
    "create_network": "sentio.core.staged",
    "reset_classifier": "sentio.core.staged",
    "fit_budget": "sentio.networks.budget",
    # policies
    "Confidence": "sentio.core.policy",
    "Entropy": "sentio.core.policy",
    "Ensemble": "sentio.core.policy",
    "Patience": "sentio.core.policy",
    "Fixed": "sentio.core.policy",
    "Deadline": "sentio.core.policy",
    "Budget": "sentio.core.policy",
    "ExitCosts": "sentio.core.policy",
    # streams
    "stream": "sentio.streaming.conversion",
    # models
    "Model": "sentio.core.model",
    "Label": "sentio.core.prediction",
    "Count": "sentio.core.prediction",
    "load": "sentio.core.loading",
    "save": "sentio.core.torch_artifact",
    "export": "sentio.exporting.onnx",
    "Int8": "sentio.exporting.quantisation",
    "profile": "sentio.core.profiling",
    # data and training
    "open_data": "sentio.data.readers",
    "Recipe": "sentio.training.recipe",
    "train": "sentio.training.training",
    "evaluate": "sentio.training.evaluation",
    # errors
    "SentioError": "sentio.core.errors",
    "ConfigError": "sentio.core.errors",
    "UnknownNameError": "sentio.core.errors",
    "InputError": "sentio.core.errors",
    "ArtifactError": "sentio.core.errors",
    "MissingExtraError": "sentio.core.errors",
    "StageError": "sentio.core.errors",
    "CancelledError": "sentio.core.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sentio' has no attribute {name!r}")
    try:
        value = getattr(import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        from sentio.core.errors import MissingExtraError

        missing = (error.name or "").split(".")[0]
        if missing not in ("torch", "safetensors", "lightning"):
            raise
        extra = "train" if _PUBLIC[name].startswith("sentio.training") else "torch"
        raise MissingExtraError(f"{missing}, which sentio.{name} needs,", extra) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
