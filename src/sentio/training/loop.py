"""Runs one phase of training under Lightning."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from sentio.core.errors import ArtifactError, CancelledError, ConfigError, MissingExtraError
from sentio.core.multi_exit import MultiExit
from sentio.core.task import Task
from sentio.techniques.phases import Phase
from sentio.training.averaging import WeightAverage
from sentio.training.batches import Arrays
from sentio.training.callbacks import BEST, INTERRUPTED, LAST, FigureLog, Keeper, Reporter, Stopping
from sentio.training.phase_module import VAL_LOSS, PhaseModule
from sentio.training.progress import Cancel, Report
from sentio.training.sections import DevicesSection, Recipe

FIGURES = "metrics.csv"


def run_phase(
    net: MultiExit,
    phase: Phase,
    recipe: Recipe,
    task: Task,
    train: Arrays,
    validation: Arrays | None,
    folder: Path,
    *,
    report: Report | None = None,
    cancel: Cancel | None = None,
) -> None:
    """Train one phase; goes on from the last finished epoch if ``folder`` holds one.

    Afterwards the network has the weights of the best epoch by validation loss, or of the last one; their
    average where the recipe asks for one.

    Args:
        net: changed in place.
        phase, recipe, task: what to do.
        train, validation: the data.
        folder: for checkpoints and logs.
        report, cancel: for a caller that shows progress or wants to stop.

    Raises:
        CancelledError: the caller stopped it, or the user interrupted; at most one epoch is lost.
        ConfigError: the loss is no longer finite, a batch does not fit in memory, or the devices do not
            exist.
        ArtifactError: a checkpoint or a log cannot be written.
    """
    module = PhaseModule(net, phase, recipe, task, train, validation)
    best = recipe.keep == "best" and validation is not None
    average = WeightAverage(net, phase, recipe, train)
    callbacks: list[Callback] = [
        average,
        Keeper(folder, VAL_LOSS if best else None, average),
        Reporter(f"train {phase.name}", report, cancel),
        FigureLog(folder / FIGURES),
    ]
    if recipe.early_stopping is not None and validation is not None:
        callbacks.append(Stopping(phase, recipe.early_stopping))
    last = folder / LAST
    with _quiet(), _settings_restored():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trainer = make_trainer(recipe, folder, callbacks)
            trainer.fit(module, ckpt_path=last if last.exists() else None, weights_only=True)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning leaves with SystemExit after Ctrl-C
            raise CancelledError(INTERRUPTED) from error
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"A batch of {recipe.batch} does not fit in the device's memory; give a smaller batch"
            ) from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                "Batch norm cannot train on batches of one sample; give a batch of at least 2"
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"Checkpoints and logs in {folder} could not be written: {error.strerror or error}; "
                "once that is mended the same command goes on from the last finished epoch"
            ) from error
    if best:
        kept = torch.load(folder / BEST, map_location="cpu", weights_only=True)
        weights = kept["state_dict"].items()
        own = {key.removeprefix("net."): value for key, value in weights if key.startswith("net.")}
        net.load_state_dict(own)
        trainer.strategy.barrier()
    else:
        average.swap()
    net.to("cpu", memory_format=torch.contiguous_format).eval().requires_grad_(True)


def make_trainer(recipe: Recipe, folder: Path, callbacks: list[Callback]) -> L.Trainer:
    """Lightning's trainer for a recipe.

    Raises:
        ConfigError: the recipe asks for devices that this machine does not have.
        MissingExtraError: TensorBoard is not installed.
    """
    try:
        logger = TensorBoardLogger(folder, name=None, version="logs")
    except ModuleNotFoundError as error:
        raise MissingExtraError("TensorBoard, which a training's log needs,", "train") from error
    try:
        return L.Trainer(
            **recipe.devices.for_trainer(),
            max_epochs=recipe.epochs,
            callbacks=callbacks,
            logger=logger,
            deterministic=recipe.deterministic,
            gradient_clip_val=recipe.optimiser.clip,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ConfigError(f"The recipe's devices cannot be used: {reason}") from error


def check_devices(devices: DevicesSection) -> None:
    """Raise a `ConfigError` if this machine does not have the devices a recipe asks for."""
    with _quiet(), _settings_restored():
        make_trainer(Recipe(name="check", devices=devices), Path(), [])


@contextmanager
def _settings_restored() -> Iterator[None]:
    """Lightning sets PyTorch's determinism and, after Ctrl-C, ignores further ones; both for good."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning greets, advises and warns about choices that are made here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
