"""Test-time augmentation: an answer is the mean of several draws of SpecAugment. No PyTorch needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.audio.checking import cells_of
from sentio.core.anytime import FINAL, MAIN, Boundary, ExitPoint
from sentio.core.confidence import softmax
from sentio.core.errors import ConfigError
from sentio.core.model import Model, RuntimeRow
from sentio.core.numeric import whole, within
from sentio.core.policy import ExitCosts


@dataclass(frozen=True)
class Draws:
    """What is drawn. The draws are the same for every sample and every call: they depend on ``seed`` only.

    Args:
        count: draws for each sample, at least 1.
        time_mask: widest masked span of time, as a share in 0..1.
        frequency_mask: widest masked span of frequency, as a share in 0..1.
        masks: spans in each direction; they may overlap.
        roll: largest roll along time in either direction, as a share in 0..1.
        seed: of all that is drawn.

    Raises:
        ConfigError: a number is out of its range.
    """

    count: int = 30
    time_mask: float = 0.0
    frequency_mask: float = 0.0
    masks: int = 1
    roll: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(map(whole, (self.count, self.masks, self.seed))):
            raise ConfigError(
                f"Test-time augmentation takes whole numbers of draws, masks and seed, got {self}"
            )
        if self.count < 1 or self.masks < 0 or self.seed < 0:
            raise ConfigError(f"Test-time augmentation takes at least one draw, got {self}")
        if not all(within(share, 0, 1) for share in (self.time_mask, self.frequency_mask, self.roll)):
            raise ConfigError(f"Test-time augmentation takes shares of an axis in 0..1, got {self}")

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """All draws of each sample.

        A masked entry gets its sample's mean, the default in training too (`sentio.audio.augmentation`).

        Args:
            x: ``(batch, channel, time, frequency)``; it is not changed.

        Returns:
            ``(batch, draw, channel, time, frequency)``.
        """
        generator = np.random.default_rng(self.seed)
        frames, bands = x.shape[2:]
        most = cells_of(self.roll, frames)
        shifts = generator.integers(-most, most, self.count, endpoint=True)
        order = (np.arange(frames) - shifts[:, None]) % frames
        rolled = np.moveaxis(x[:, :, order], 2, 1)
        hidden = self._spans(frames, self.time_mask, generator)[:, :, None]
        hidden = hidden | self._spans(bands, self.frequency_mask, generator)[:, None, :]
        mean = x.mean(axis=(1, 2, 3), keepdims=True)[:, None]
        return np.where(hidden[None, :, None], mean, rolled)

    def _spans(self, size: int, share: float, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Where each draw is masked along an axis, ``(draw, size)``."""
        widths = generator.integers(0, cells_of(share, size), (self.masks, self.count, 1), endpoint=True)
        starts = generator.integers(0, size - widths, endpoint=True)
        places = np.arange(size)
        return ((places >= starts) & (places < starts + widths)).any(axis=0)


def with_draws(model: Model, draws: Draws) -> Model:
    """The model whose every exit answers with the mean probability over draws of its input.

    It predicts, evaluates and leaves early as any other: a policy sees the mean. Each exit costs as many
    times the operations as there are draws, and its costs say so. Temperatures are applied to each draw.

    Args:
        model: a classifier of features ``(channel, time, frequency)``; it is not changed.
        draws: what is drawn.

    Raises:
        ConfigError: the model takes other inputs.
    """
    shapes = model.row.input_shapes
    if [len(shape) for shape in shapes.values()] not in ([], [3]):
        raise ConfigError(
            f"Test-time augmentation takes one input (channel, time, frequency); model {model.name!r} takes "
            f"{', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())}"
        )
    costs = model.costs
    if costs is not None:
        macs, ms = (
            None if values is None else tuple(value * draws.count for value in values)
            for values in (costs.macs, costs.ms)
        )
        assert macs is not None
        costs = ExitCosts(costs.names, macs, ms)
    return Model(
        _DrawnRow(model.row, draws, model.temperatures),
        model.task,
        frontend=model.frontend,
        policy=model.policy,
        costs=costs,
        card=model.card,
        name=model.name,
    )


def draws_of_training(model: Model, count: int, *, seed: int = 0) -> Draws:
    """Draws as wide and as many masks as those that a model was trained with, by its card.

    Of the numbers of masks in time and in frequency it is the larger for both.

    Raises:
        ConfigError: it was trained without masks and rolls, or its card does not say.
    """
    change = model.card.get("recipe", {}).get("augment", {})
    widths = {
        name: float(value)
        for name in ("time_mask", "frequency_mask", "roll")
        if isinstance(value := change.get(name), int | float) and value > 0
    }
    if not widths:
        raise ConfigError(
            f"Model {model.name!r} was not trained with masks or rolls, so its answers cannot be averaged "
            "over them; in Python sentio.audio.draws takes any widths"
        )
    many = [change.get(f"{name}s", 1) for name in ("time_mask", "frequency_mask") if name in widths]
    masks = max((number for number in many if isinstance(number, int) and number > 0), default=1)
    return Draws(count, masks=masks, seed=seed, **widths)


class _DrawnRow:
    """A row in which every array has an axis of draws behind the batch, and an exit gives log mean p."""

    def __init__(self, row: RuntimeRow, draws: Draws, temperatures: Mapping[str, float]) -> None:
        self.row, self.draws, self.temperatures = row, draws, dict(temperatures)
        self.runtime = row.runtime

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self.row.stage_names

    @property
    def exit_names(self) -> tuple[str, ...]:
        return self.row.exit_names

    @property
    def exit_points(self) -> tuple[ExitPoint, ...]:
        return self.row.exit_points

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.row.input_shapes

    def start(self, inputs: Any) -> Boundary:
        arrays = inputs if isinstance(inputs, Mapping) else {MAIN: inputs}
        drawn = {name: self.draws.apply(self.to_numpy(x)) for name, x in arrays.items()}
        return self.row.start(drawn)

    def run_stage(self, name: str, boundary: Boundary) -> Boundary:
        return self.run_stages((name,), boundary)

    def run_stages(self, names: Sequence[str], boundary: Boundary) -> Boundary:
        flat = {name: self._flat(array) for name, array in boundary.items()}
        together = getattr(self.row, "run_stages", None)
        if together is not None:
            flat = together(names, flat)
        else:
            for name in names:
                flat = self.row.run_stage(name, flat)
        return {name: array.reshape(-1, self.draws.count, *array.shape[1:]) for name, array in flat.items()}

    def run_exit(self, name: str, tensors: list[Any]) -> NDArray[np.float64]:
        # What the last stage gives is the output itself.
        flat = [self._flat(tensor) for tensor in tensors]
        output = flat[0] if name == FINAL else self.row.run_exit(name, flat)
        logits = self.row.to_numpy(output).astype(np.float64) / self.temperatures.get(name, 1.0)
        mean = softmax(logits).reshape(-1, self.draws.count, logits.shape[-1]).mean(axis=1)
        return np.log(np.maximum(mean, np.finfo(np.float64).tiny))

    def take(self, array: Any, rows: NDArray[np.intp]) -> Any:
        return self.row.take(array, rows)

    def to_numpy(self, array: Any) -> NDArray[Any]:
        return array if isinstance(array, np.ndarray) else self.row.to_numpy(array)

    def _flat(self, array: Any) -> Any:
        return array.reshape(-1, *array.shape[2:])
