"""The folder beside the result in which a training keeps what it needs to go on after an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as as_bytes

from sentio.core.artifact import ArtifactFiles
from sentio.core.errors import ArtifactError, ConfigError
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.data.dataset import Dataset
from sentio.data.feature_cache import file_state
from sentio.techniques.objective import Objective, SampleOrder
from sentio.training.progress import main_process
from sentio.training.sections import Recipe

#: there while a training is not finished: which one it is
STATE = "unfinished"
RECIPE = "recipe.yaml"


def check_out(out: str | Path) -> None:
    """See before a long training that its result may be written.

    Raises:
        ArtifactError: something else is at that place.
    """
    target = Path(out)
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        try:
            ArtifactFiles(target)
        except ArtifactError as error:
            raise ArtifactError(
                f"{target} exists and is not a Sentio artifact, so it is not replaced; choose another place"
            ) from error


@contextmanager
def run_folder(out: str | Path | None, recipe: Recipe, identity: str) -> Iterator[Path]:
    """Where checkpoints and logs go; what an interrupted training of the same identity left there is kept.

    Args:
        out: the result; ``OUT.run`` beside it is the folder. None for a folder that is removed at the end.
        recipe: written there, for the user to see.
        identity: equal for trainings that may continue each other, see `training_identity`.

    Raises:
        ConfigError: another unfinished training, or something else, is there.
        ArtifactError: the folder cannot be written.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="sentio-") as scratch:
            yield Path(scratch)
        return
    target = Path(out).absolute()
    run = target.with_name(f"{target.name}.run")
    if main_process():
        try:
            _prepare(run, recipe, identity)
        except OSError as error:
            raise ArtifactError(
                f"Folder {run} for checkpoints could not be written: {error.strerror or error}"
            ) from error
    yield run
    if main_process():
        give_up(run)


def give_up(run: Path) -> None:
    """Nothing is to go on from here; another training may take the folder."""
    (run / STATE).unlink(missing_ok=True)


def _prepare(run: Path, recipe: Recipe, identity: str) -> None:
    state = run / STATE
    if state.exists():
        if state.read_text() != identity:
            raise ConfigError(
                f"{run} holds an unfinished training of another recipe, other data or another start; "
                "remove that folder, or choose another place for the result"
            )
    elif run.exists():
        if not (run / RECIPE).exists():
            raise ConfigError(f"{run} exists and is not of a training; choose another place for the result")
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    state.write_text(identity)
    (run / RECIPE).write_text(recipe.dump(), encoding="utf-8")


def training_identity(
    recipe: Recipe, dataset: Dataset, start: Any, objectives: Sequence[Objective | SampleOrder] = ()
) -> str:
    """A fingerprint of all that decides the trained weights; calibration comes after them."""
    digest = hashlib.sha256()
    settings = recipe.model_dump(mode="json", exclude={"name": True, "calibration": True, "data": {"path"}})
    items = [(item.name, item.label) for item in dataset.items]
    digest.update(json.dumps([settings, dataset.protocol, items], sort_keys=True).encode())
    annotations = [getattr(item.truth, "annotation", None) for item in dataset.items]
    if any(annotations):
        digest.update(json.dumps([file_state(path) for path in annotations if path is not None]).encode())
    if isinstance(start, Model):
        for name, tensor in sorted(start.network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    elif start is not None:
        # Trained in place: after an interruption its weights are others, its structure is the same.
        digest.update(json.dumps(start.stage_names).encode())
    for objective in objectives:
        digest.update(objective.identity().encode())
    return digest.hexdigest()


def save_phase(net: MultiExit, file: Path) -> None:
    """Keep the weights that a finished phase left, whole or not at all."""
    if not main_process():
        return
    fresh = file.with_suffix(".new")
    try:
        fresh.write_bytes(as_bytes({key: value.clone() for key, value in net.state_dict().items()}))
        fresh.replace(file)
    except OSError as error:
        raise ArtifactError(f"{file} could not be written: {error.strerror or error}") from error


def load_phase(net: MultiExit, file: Path) -> None:
    """The weights of a finished phase."""
    net.load_state_dict(load_file(file))
