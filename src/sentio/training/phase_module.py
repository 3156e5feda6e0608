"""A phase of training as Lightning runs it."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sentio.audio import augmentation
from sentio.core.errors import ConfigError
from sentio.core.multi_exit import MultiExit
from sentio.core.task import Batch, Task
from sentio.techniques.objective import TrainingBatch
from sentio.techniques.phases import Phase, set_mode, trained_modules
from sentio.training.batches import Arrays, Loader
from sentio.training.sections import Recipe

TRAIN_LOSS = "train_loss"
VAL_LOSS = "val_loss"


class PhaseModule(L.LightningModule):
    """One phase: its data, loss, optimiser and figures.

    Whatever is random depends on the recipe's seed, the epoch, the step and the device only, so that a
    resumed training goes on as it would have.

    Args:
        net: the network; only what the phase names is trained.
        phase: what, and on which losses.
        recipe: optimiser, schedule, batch and augmentation.
        task: gives the loss and the figures.
        train: what is trained on.
        validation: what figures are measured on after each epoch; None for none.
    """

    def __init__(
        self,
        net: MultiExit,
        phase: Phase,
        recipe: Recipe,
        task: Task,
        train: Arrays,
        validation: Arrays | None,
    ) -> None:
        super().__init__()
        self.net, self.phase, self.recipe, self.task = net, phase, recipe, task
        # Named here so that parameters of its own move to the device and into the checkpoints.
        self.objective = phase.objective
        self.data = {"train": train, "validation": validation}
        self.plateau: ReduceLROnPlateau | None = None
        self._loaded: dict[str, Any] | None = None
        self._seen: list[tuple[dict[str, NDArray[Any]], NDArray[Any]]] = []
        set_mode(net, phase)

    @property
    def monitor(self) -> str:
        """The loss that tells a plateau."""
        return TRAIN_LOSS if self.data["validation"] is None else VAL_LOSS

    def train_dataloader(self) -> Loader:
        train = self.data["train"]
        assert train is not None
        trainer = self.trainer
        return train.shuffled(
            self.recipe.batch, seed=self.recipe.seed, rank=trainer.global_rank, devices=trainer.world_size
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """All of it on every device: a share each, filled up to equal length, would count samples twice."""
        validation = self.data["validation"]
        return [] if validation is None else validation.in_order(self.recipe.batch)

    def on_train_epoch_start(self) -> None:
        options, schedule = self.recipe.optimiser, self.recipe.schedule
        groups = self.trainer.optimizers[0].param_groups
        if schedule.name == "cosine":
            factor = cosine(self.current_epoch, self.recipe.epochs, schedule.warmup_epochs)
            for group in groups:
                group["lr"] = options.lr * factor
        self.log("learning_rate", groups[0]["lr"], sync_dist=True)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        x, targets, items = batch
        generator = torch.Generator().manual_seed(self._seed(self.current_epoch, index, 0))
        x, targets = self._augmented(x, targets, generator)
        # Dropout draws from PyTorch's own generator.
        torch.manual_seed(self._seed(self.current_epoch, index, 1))
        if self.objective is None:
            loss = self._loss(self.net(x, self.phase.losses), targets)
        else:
            given = TrainingBatch(x, targets, items, self.phase.losses, self.current_epoch, generator)
            parts = self.objective.losses(self.net, given, self._label_loss)
            loss = torch.stack(list(parts.values())).sum()
            figures = {f"{TRAIN_LOSS}/{name}": part for name, part in parts.items()}
            self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(x), sync_dist=True)
        self._check(loss, "training")
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, batch_size=len(x), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        x, targets, _ = batch
        found = self.net(x, self.phase.losses)
        loss = self._loss(found, targets)
        self._check(loss, "validation")
        self.log(VAL_LOSS, loss, batch_size=len(targets), sync_dist=True)
        values = {name: output.detach().float().cpu().numpy() for name, output in found.items()}
        self._seen.append((values, targets.cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        targets = np.concatenate([part for _, part in self._seen])
        for name in self.phase.losses:
            scores = self.task.score(np.concatenate([values[name] for values, _ in self._seen]), targets)
            figure, value = next(iter(scores.items()))
            self.log(f"val_{figure}/{name}", value, sync_dist=True)
        self._seen.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options, schedule = self.recipe.optimiser, self.recipe.schedule
        modules = trained_modules(self.net, self.phase)
        if isinstance(self.objective, nn.Module):
            modules.append(self.objective)
        chosen = [p for module in modules for p in module.parameters()]
        if not chosen:
            raise ConfigError(f"Nothing would be trained in phase {self.phase.name!r}: it has no parameters")
        if options.name == "sgd":
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                chosen, options.lr, momentum=options.momentum, weight_decay=options.weight_decay
            )
        else:
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
            optimiser = kind(chosen, options.lr, weight_decay=options.weight_decay)
        if schedule.name == "plateau":
            self.plateau = ReduceLROnPlateau(optimiser, factor=schedule.factor, patience=schedule.patience)
        return optimiser

    # Lightning would step schedulers behind the checkpoint, and a resumed training would miss that step.

    def on_train_epoch_end(self) -> None:
        if self.plateau is not None:
            self.plateau.step(float(self.trainer.callback_metrics[self.monitor]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get("plateau")

    def on_train_start(self) -> None:
        if self.plateau is not None and self._loaded is not None:
            self.plateau.load_state_dict(self._loaded)

    def _loss(self, found: dict[str, Tensor], targets: Tensor) -> Tensor:
        losses = [
            weight * self._label_loss(found[name], targets) for name, weight in self.phase.losses.items()
        ]
        return torch.stack(losses).sum()

    def _label_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.task.loss(output, Batch(None, targets))
        return loss

    def _check(self, loss: Tensor, part: str) -> None:
        if not torch.isfinite(loss):
            raise ConfigError(
                f"The {part} loss is no longer a finite number in epoch {self.current_epoch + 1} of phase "
                f"{self.phase.name!r}; lower the learning rate (optimiser.lr is {self.recipe.optimiser.lr:g})"
            )

    def _seed(self, *place: int) -> int:
        sequence = np.random.SeedSequence([self.recipe.seed, *place, self.global_rank])
        return int(sequence.generate_state(1)[0])

    def _augmented(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        change = self.recipe.augment
        if change.roll:
            x = augmentation.time_roll(x, change.roll, generator)
        if change.shift:
            x = augmentation.frequency_shift(x, change.shift, generator)
        if change.gain:
            x = augmentation.gain(x, change.gain, generator)
        if change.time_mask:
            x = augmentation.time_mask(x, change.time_mask, generator)
        if change.frequency_mask:
            x = augmentation.frequency_mask(x, change.frequency_mask, generator)
        if change.mixup:
            soft = one_hot(targets, self.task.outputs).float()
            x, targets = augmentation.mixup(x, soft, change.mixup, generator)
        return x, targets


def cosine(epoch: int, epochs: int, warmup: int) -> float:
    """The share of the learning rate in an epoch, from 0: a linear rise, then half a cosine down.

    Args:
        epoch: from 0.
        epochs: in all.
        warmup: epochs of the rise, from a hundredth; taken as at most half of all.
    """
    warmup = min(warmup, epochs // 2)
    if epoch < warmup:
        return 0.01 + 0.99 * epoch / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
