"""Counting: how many people, from a count or from a density whose sum is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError
from sentio.core.prediction import Count
from sentio.core.registry import register
from sentio.core.task import Batch
from sentio.tasks.metrics.counting import mean_absolute_error, root_mean_square_error


def counts_of(output: Any) -> Any:
    """``(batch,)`` counts of outputs ``(batch, 1)`` or densities ``(batch, 1, height, width)``.

    Takes arrays and tensors. A count alone, without the batch axis, is not taken.
    """
    if output.ndim == 4:
        return output.sum((1, 2, 3))
    return output[:, 0] if output.ndim == 2 else output


class Counting:
    """A number of persons for each sample; outputs are counts ``(batch, 1)`` or densities.

    Each exit gives one or the other. Targets are counts ``(batch,)``, or a mapping with ``count``
    ``(batch,)`` and ``density`` ``(batch, height, width)``: an exit that gives a density learns from the
    density where there is one, else from its sum.

    Args:
        unit: what is counted, in the singular.
        density_scale: factor on densities in the loss, which are small numbers.
        count_loss: of exits that give counts: ``l1``, which papers report, or ``smooth``, Huber's.
        count_weight: of that loss on the sums of densities, beside the distance of the densities.

    Raises:
        ConfigError: an option out of range.
    """

    name = "counting"

    def __init__(
        self,
        *,
        unit: str = "person",
        density_scale: float = 100.0,
        count_loss: Literal["l1", "smooth"] = "l1",
        count_weight: float = 0.0,
    ) -> None:
        if not isinstance(density_scale, int | float) or not density_scale > 0:
            raise ConfigError(f"Option 'density_scale' of counting must be above 0, got {density_scale!r}")
        if count_loss not in ("l1", "smooth"):
            raise ConfigError(f"Option 'count_loss' of counting is l1 or smooth, got {count_loss!r}")
        if not isinstance(count_weight, int | float) or not count_weight >= 0:
            raise ConfigError(f"Option 'count_weight' of counting must be at least 0, got {count_weight!r}")
        self.unit = unit
        self.density_scale = float(density_scale)
        self.count_loss = count_loss
        self.count_weight = float(count_weight)

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def confidence(self, output: NDArray[Any], measure: str) -> None:
        """A count has none: deadlines, budgets, patience and fixed exits work, thresholds do not."""

    def choice(self, output: NDArray[Any]) -> NDArray[Any]:
        """The nearest whole numbers."""
        return np.rint(counts_of(output)).astype(np.int64)

    def decode(
        self, output: NDArray[Any], *, exit: str, milliseconds: float, only: Sequence[str] | None = None
    ) -> Count:
        density = output[0] if output.ndim == 3 else None
        count = float(output.sum()) if density is not None else float(output.reshape(-1)[0])
        return Count(max(count, 0.0), exit, milliseconds, unit=self.unit, density=density)

    def merge(self, parts: Sequence[Count], *, exit: str, only: Sequence[str] | None = None) -> Count:
        """The mean over a recording's windows: how many were there at a time."""
        mean = float(np.mean([part.count for part in parts]))
        windows = tuple(parts) if len(parts) > 1 else ()
        return replace(
            parts[0],
            count=mean,
            exit=exit,
            milliseconds=sum(part.milliseconds for part in parts),
            end=parts[-1].end,
            windows=windows,
            density=parts[0].density if len(parts) == 1 else None,
        )

    def silence(self) -> None:
        """A quiet place may be full: the network is asked all the same."""

    def settings(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "density_scale": self.density_scale,
            "count_loss": self.count_loss,
            "count_weight": self.count_weight,
        }

    def score(self, output: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """The negative mean absolute error, to select by, then MAE and RMSE in persons."""
        truth = targets["count"] if isinstance(targets, Mapping) else targets
        counts = counts_of(output)
        error = mean_absolute_error(counts, truth)
        return {"negative_mae": -error, "mae": error, "rmse": root_mean_square_error(counts, truth)}

    def loss(self, output: Any, batch: Batch) -> Any:
        """L1 between counts; of a density the mean over samples of its squared distance, over two."""
        from torch.nn.functional import l1_loss, smooth_l1_loss

        targets = batch.targets if isinstance(batch.targets, Mapping) else {"count": batch.targets}
        truth = targets["count"].to(output.dtype)
        distance = l1_loss if self.count_loss == "l1" else smooth_l1_loss
        if output.ndim != 4 or "density" not in targets:
            return distance(counts_of(output), truth)
        apart = self.density_scale * (output[:, 0] - targets["density"])
        loss = apart.square().sum() / (2 * len(output))
        return loss + self.count_weight * distance(counts_of(output), truth) if self.count_weight else loss


@register("task", "counting")
def build(
    *,
    unit: str = "person",
    density_scale: float = 100.0,
    count_loss: Literal["l1", "smooth"] = "l1",
    count_weight: float = 0.0,
) -> Counting:
    """How many there are, from counts or densities."""
    return Counting(unit=unit, density_scale=density_scale, count_loss=count_loss, count_weight=count_weight)
