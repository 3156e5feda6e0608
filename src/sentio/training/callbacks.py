"""What happens around the epochs: progress, cancellation and the log of figures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping

from sentio.core.errors import CancelledError
from sentio.techniques.phases import Phase
from sentio.training.averaging import WeightAverage
from sentio.training.phase_module import VAL_LOSS
from sentio.training.progress import Cancel, Progress, Report

#: the checkpoints of a phase
LAST = "last.ckpt"
BEST = "best.ckpt"
INTERRUPTED = "Training was interrupted; the same command goes on from the last finished epoch"


class Keeper(Checkpoint):
    """Keeps every epoch's end as ``last.ckpt``, and as ``best.ckpt`` if it is the best so far.

    Args:
        folder: for the checkpoints.
        monitor: the figure that tells the best, lower is better; None where only the last counts.
        average: of the weights, which the best epoch is kept with.
    """

    def __init__(self, folder: Path, monitor: str | None, average: WeightAverage) -> None:
        self.folder, self.monitor, self.average = folder, monitor, average
        self.lowest = float("inf")

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.monitor is not None and validated(trainer):
            value = float(trainer.callback_metrics[self.monitor])
            if value < self.lowest:
                self.lowest = value
                with self.average.applied():
                    trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]


class Reporter(Callback):
    """Tells the caller after every batch, and stops when asked."""

    def __init__(self, job: str, report: Report | None, cancel: Cancel | None) -> None:
        self.job, self.report, self.cancel = job, report, cancel
        self.figures: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        # A training that was interrupted just after it had stopped early must not go on.
        early = trainer.early_stopping_callback
        if early is not None and early.wait_count >= early.patience:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.cancel is not None and self.cancel():
            raise CancelledError(INTERRUPTED)
        self._tell(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.figures = epoch_figures(trainer)
        self._tell(trainer)

    def _tell(self, trainer: L.Trainer) -> None:
        if self.report is not None and trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self.report(Progress(self.job, min(trainer.global_step, total), total, dict(self.figures)))


class FigureLog(Callback):
    """One row of figures per epoch in a CSV file; a resumed training continues it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as file:
                # An epoch that was logged but not kept is run, and logged, again.
                self.rows = [
                    row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch
                ]

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.rows.append({name: f"{value:g}" for name, value in epoch_figures(trainer).items()})
        fresh = self.file.with_suffix(".new")
        with fresh.open("w", newline="", encoding="utf-8") as file:
            # What was not measured in an epoch stays empty.
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in self.rows for name in row)))
            writer.writeheader()
            writer.writerows(self.rows)
        fresh.replace(self.file)


def epoch_figures(trainer: L.Trainer) -> dict[str, float]:
    """The number of the epoch that ends, from 1, its learning rate, losses and accuracies.

    Lightning remembers validation figures until the next ones; they are given only in the epoch that they
    are of.
    """
    figures = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if not name.startswith("val_") or validated(trainer)
    }
    return {"epoch": trainer.current_epoch + 1, **figures}


def validated(trainer: L.Trainer) -> bool:
    """Whether the validation part was looked at in the epoch that ends."""
    return getattr(trainer.lightning_module, "validated", -1) == trainer.current_epoch


class Stopping(EarlyStopping):
    """Ends a phase when the validation loss has not fallen for some epochs.

    Epochs in which not all samples are available yet do not count.

    Args:
        phase: which.
        patience: epochs without a better loss.
    """

    def __init__(self, phase: Phase, patience: int) -> None:
        super().__init__(VAL_LOSS, patience=patience)
        self.order = phase.order

    # Lightning asks at one of the two, by when it validates.

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._counts(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._counts(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def _counts(self, trainer: L.Trainer) -> bool:
        count = int(trainer.num_training_batches)
        return self.order is None or trainer.current_epoch >= self.order.full_from(count)
