"""A phase of training as Lightning runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sentio.audio import augmentation
from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError
from sentio.core.features import each
from sentio.core.multi_exit import MultiExit
from sentio.core.task import Batch, TargetMaker, Task
from sentio.techniques.objective import TrainingBatch
from sentio.techniques.phases import Phase, set_mode, trained_modules
from sentio.training.batches import Arrays, Loader
from sentio.training.criterion import with_loss
from sentio.training.muon import Muon
from sentio.training.schedules import share
from sentio.training.sections import Recipe
from sentio.vision import augmentation as images

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
        self.net, self.phase, self.recipe = net, phase, recipe
        self.task = with_loss(task, recipe.loss, train.targets)
        # Named here so that parameters of its own move to the device and into the checkpoints.
        self.objective = phase.objective
        self.data = {"train": train, "validation": validation}
        self.plateau: ReduceLROnPlateau | None = None
        self.validated = -1  # the last epoch that was
        self._loaded: dict[str, Any] | None = None
        self._seen: list[tuple[dict[str, NDArray[Any]], Any]] = []
        set_mode(net, phase)
        if recipe.devices.channels_last:
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):  # a network may have kernels of other ranks too
                    layer.to(memory_format=torch.channels_last)

    @property
    def monitor(self) -> str:
        """The loss that tells a plateau."""
        return TRAIN_LOSS if self.data["validation"] is None else VAL_LOSS

    def train_dataloader(self) -> Loader:
        train = self.data["train"]
        assert train is not None
        trainer = self.trainer
        return train.shuffled(
            self.recipe.batch,
            seed=self.recipe.seed,
            rank=trainer.global_rank,
            devices=trainer.world_size,
            plan=self.phase.order,
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        """All of it on every device: a share each, filled up to equal length, would count samples twice."""
        validation = self.data["validation"]
        return [] if validation is None else validation.in_order(self.recipe.batch)

    def on_train_epoch_start(self) -> None:
        self._set_learning_rate(self.current_epoch)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)
        # Lightning asks whether the epoch's number divides by this.
        epoch = self.current_epoch + 1
        due = epoch % self.recipe.validate_every == 0 or epoch == self.recipe.epochs
        self.trainer.check_val_every_n_epoch = 1 if due else epoch + 1

    def on_train_batch_start(self, _: Any, index: int) -> None:
        if self.recipe.schedule.every == "step":
            self._set_learning_rate(self.current_epoch + index / self.trainer.num_training_batches)

    def _set_learning_rate(self, epoch: float) -> None:
        schedule = self.recipe.schedule
        if schedule.name != "plateau":
            rate = self.recipe.optimiser.lr * share(schedule, epoch, self.recipe.epochs)
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = rate

    def training_step(self, batch: tuple[Any, Any, Tensor], index: int) -> Tensor:
        x, targets, items = batch
        count = len(items)
        generator = torch.Generator().manual_seed(self._seed(self.current_epoch, index, 0))
        x, targets, shares = self._augmented(x, targets, generator)
        x = self._laid_out(x)
        # Dropout draws from PyTorch's own generator.
        torch.manual_seed(self._seed(self.current_epoch, index, 1))
        if self.objective is None:
            loss = self._loss(self.net(x, self.phase.losses), targets)
        else:
            given = TrainingBatch(x, targets, items, self.phase.losses, self.current_epoch, generator, shares)
            parts = self.objective.losses(self.net, given, self._label_loss)
            loss = torch.stack(list(parts.values())).sum()
            figures = {f"{TRAIN_LOSS}/{name}": part for name, part in parts.items()}
            self.log_dict(figures, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        self._check(loss, "training")
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Any, Any, Tensor], index: int) -> None:
        x, targets = self._laid_out(batch[0]), batch[1]
        found = self.net(x, self.phase.losses)
        loss = self._loss(found, targets)
        self._check(loss, "validation")
        self.log(VAL_LOSS, loss, batch_size=len(batch[2]), sync_dist=True)
        values = {name: output.detach().float().cpu().numpy() for name, output in found.items()}
        if isinstance(self.task, TargetMaker):
            values = {name: self.task.reduced(output) for name, output in values.items()}
        self._seen.append((values, each(targets, lambda tensor: tensor.cpu().numpy())))

    def on_validation_epoch_end(self) -> None:
        targets = _joined([part for _, part in self._seen])
        for name in self.phase.losses:
            scores = self.task.score(np.concatenate([values[name] for values, _ in self._seen]), targets)
            figure = next(iter(self.task.figures if isinstance(self.task, TargetMaker) else scores))
            self.log(f"val_{figure}/{name}", scores[figure], sync_dist=True)
        self._seen.clear()
        self.validated = self.current_epoch

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
        elif options.name == "muon":
            optimiser = Muon(
                modules, options.lr, momentum=options.momentum, weight_decay=options.weight_decay
            )
        else:
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
            optimiser = kind(chosen, options.lr, weight_decay=options.weight_decay)
        if schedule.name == "plateau":
            self.plateau = ReduceLROnPlateau(
                optimiser,
                factor=schedule.factor,
                patience=schedule.patience,
                min_lr=options.lr * schedule.floor,
            )
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

    def _loss(self, found: dict[str, Tensor], targets: Any) -> Tensor:
        losses = [
            weight * self._label_loss(found[name], targets) for name, weight in self.phase.losses.items()
        ]
        return torch.stack(losses).sum()

    def _laid_out(self, x: Any) -> Any:
        def laid(tensor: Tensor) -> Tensor:
            if tensor.ndim == 4 and self.recipe.devices.channels_last:
                return tensor.contiguous(memory_format=torch.channels_last)
            return tensor

        return each(x, laid)

    def _label_loss(self, output: Tensor, targets: Any) -> Tensor:
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

    def _augmented(self, x: Any, targets: Any, generator: torch.Generator) -> tuple[Any, Any, Tensor | None]:
        """Samples and targets as they are learned from, and what was mixed, see `TrainingBatch`."""
        if isinstance(self.task, TargetMaker):
            return *self._followed(x, targets, generator), None
        if isinstance(x, Mapping):  # a recipe changes nothing where there are several
            return x, targets, None
        change = self.recipe.augment
        mask = {"fill": change.mask_fill, "exclusive": change.mask_width == "exclusive"}
        if change.roll:
            x = augmentation.time_roll(x, change.roll, generator)
        if change.shift:
            x = augmentation.frequency_shift(x, change.shift, generator)
        if change.warp_time or change.warp_frequency:
            x = augmentation.warp(x, change.warp_time, change.warp_frequency, generator)
        if change.gain:
            x = augmentation.gain(x, change.gain, generator)
        if change.time_mask:
            x = augmentation.time_mask(x, change.time_mask, generator, count=change.time_masks, **mask)
        if change.frequency_mask:
            share, count = change.frequency_mask, change.frequency_masks
            x = augmentation.frequency_mask(x, share, generator, count=count, **mask)
        if change.flip:
            x = images.horizontal_flip(x, change.flip, generator)
        if change.crop:
            x = images.padded_crop(x, change.crop, generator, edge=change.crop_edge)
        if change.colour:
            x = images.colour_jitter(x, change.colour, generator)
        if change.cutout:
            x = images.cutout(x, change.cutout, generator)
        if change.erase:
            x = augmentation.random_erasing(
                x, change.erase, generator, max_fraction=change.erase_side, fill=change.mask_fill
            )
        if change.freq_mixstyle:
            alpha, share = change.freq_mixstyle_alpha, change.freq_mixstyle
            x = augmentation.freq_mixstyle(x, alpha, generator, probability=share)
        if change.mixstyle:
            x = augmentation.mixstyle(x, change.mixstyle_alpha, generator, probability=change.mixstyle)
        shares = None
        if change.mixup:
            # Beside the targets each sample itself, as one of the batch: mixed, it says what was mixed.
            themselves = torch.eye(len(x), device=targets.device)
            x, mixed = augmentation.mixup(
                x,
                torch.cat([one_hot(targets, self.task.outputs).float(), themselves], 1),
                change.mixup,
                generator,
                per_sample=change.mixup_per_sample,
                larger=change.mixup_larger,
                probability=change.mixup_probability,
            )
            targets, shares = mixed[:, : self.task.outputs], mixed[:, self.task.outputs :]
        return x, targets, shares

    def _followed(self, x: Any, targets: dict[str, Tensor], generator: torch.Generator) -> tuple[Any, Any]:
        """Changes of the picture under which a task's own targets stay right, with those that lie over it."""
        change = self.recipe.augment
        picture = x[MAIN] if isinstance(x, Mapping) else x
        if change.flip:
            maps = [name for name in self.task.maps if name in targets]
            over = [targets[name][:, None] for name in maps]
            widths = [picture.shape[1], *(len(maps) * [1])]
            both = images.horizontal_flip(torch.cat([picture, *over], 1), change.flip, generator)
            picture, *over = both.split(widths, 1)
            targets = {**targets, **{n: m[:, 0] for n, m in zip(maps, over, strict=True)}}
        if change.colour:
            picture = images.colour_jitter(picture, change.colour, generator)
        return ({**x, MAIN: picture} if isinstance(x, Mapping) else picture), targets


def _joined(parts: list[Any]) -> Any:
    """Arrays of several batches as one; by name where they come so."""
    if isinstance(parts[0], Mapping):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)
