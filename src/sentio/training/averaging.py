"""Weight averaging: the mean of the weights along a training, validated and kept in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sentio.core.features import each
from sentio.core.multi_exit import MultiExit
from sentio.techniques.phases import Phase, trained_modules
from sentio.training.batches import Arrays
from sentio.training.sections import Recipe


class WeightAverage(Callback):
    """Follows the weights and running statistics that a phase trains; the optimiser never sees the mean.

    ``ema`` moves the mean after every step towards the weights, by ``1 - min(decay, (1 + n) / (10 + n))`` in
    step n, so that early weights do not linger; running statistics of batch norm are averaged likewise.
    ``swa`` is the plain mean over the ends of the last epochs (Izmailov et al., UAI 2018). No network has
    its running statistics, so they are measured anew: over the training data once, without augmentation.

    Args:
        net, phase, recipe: as the loop has them.
        train: what the statistics are measured on.
    """

    def __init__(self, net: MultiExit, phase: Phase, recipe: Recipe, train: Arrays) -> None:
        self.net, self.phase, self.recipe, self.train = net, phase, recipe, train
        modules = trained_modules(net, phase)
        found = {id(t) for m in modules for t in (*m.parameters(), *m.buffers())}
        #: what is averaged, by its name in the network
        self.names = [name for name, t in _tensors(net).items() if id(t) in found]
        self.norms = [
            layer
            for module in modules
            for layer in module.modules()
            if isinstance(layer, _BatchNorm) and layer.track_running_stats
        ]
        self.mean: dict[str, Tensor] = {}
        self.count = 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        section = self.recipe.averaging
        first = int(round(section.start * self.recipe.epochs, 9))
        if section.name == "ema":
            self._move(1 - min(section.decay, (1 + self.count) / (10 + self.count)))
        # An epoch's validation comes before its end is announced, so its last batch is what counts.
        elif section.name == "swa" and trainer.is_last_batch and trainer.current_epoch >= first:
            self._move(1 / (1 + self.count))
            self._measure_norms()

    def on_validation_start(self, *_: Any) -> None:
        self.swap()

    def on_validation_end(self, *_: Any) -> None:
        self.swap()

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean, self.count = state_dict["mean"], state_dict["count"]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the mean of the weights, as far as there is one, inside the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and mean, bit for bit; does nothing before there is a mean."""
        tensors = _tensors(self.net)
        for name, mean in self.mean.items():
            tensor = tensors[name]
            held = tensor.clone()
            tensor.copy_(mean)
            self.mean[name] = held

    @torch.no_grad()
    def _move(self, share: float) -> None:
        tensors = _tensors(self.net)
        for name in self.names:
            tensor = tensors[name]
            if not self.count or not tensor.is_floating_point():
                self.mean[name] = tensor.clone()
            else:
                # A checkpoint's are on the CPU.
                self.mean[name] = self.mean[name].to(tensor.device).lerp_(tensor, share)
        self.count += 1

    @torch.no_grad()
    def _measure_norms(self) -> None:
        if not self.norms:
            return
        momenta = [norm.momentum for norm in self.norms]
        with self.applied():
            for norm in self.norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over all batches
            torch.manual_seed(self.recipe.seed)  # of dropout
            device = self.norms[0].running_mean.device  # type: ignore[union-attr]
            # Shuffled, for batches of one class each would vary too little.
            for x, *_ in self.train.shuffled(self.recipe.batch, seed=self.recipe.seed):
                self.net(each(x, lambda tensor: tensor.to(device)), self.phase.losses)
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.momentum = momentum


def _tensors(net: MultiExit) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}
