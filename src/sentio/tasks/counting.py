"""Counting: how many people, from a count or from a density whose sum is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sentio.core.anytime import MAIN
from sentio.core.errors import ConfigError, InputError
from sentio.core.prediction import Count
from sentio.core.registry import register
from sentio.core.task import Batch
from sentio.tasks.metrics.counting import mean_absolute_error, root_mean_square_error
from sentio.vision.density import density_map
from sentio.vision.pictures import picture_size


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
        sigma: standard deviation of the Gaussian that a head becomes, in pixels of the front end's picture.
        side: of its square kernel, an odd number of pixels.
        adaptive: whether each head's Gaussian follows its distance to the others instead, see
            `sentio.vision.density.adaptive_sigmas`.

    Raises:
        ConfigError: an option out of range.
    """

    name = "counting"
    #: see `sentio.core.task.TargetMaker`
    truth = "heads"
    figures: Mapping[str, str] = MappingProxyType({"mae": "MAE", "rmse": "RMSE"})
    follows = frozenset({"flip", "colour"})
    maps = ("density",)

    def __init__(
        self,
        *,
        unit: str = "person",
        density_scale: float = 100.0,
        count_loss: Literal["l1", "smooth"] = "l1",
        count_weight: float = 0.0,
        sigma: float = 4.0,
        side: int = 15,
        adaptive: bool = False,
    ) -> None:
        if not isinstance(density_scale, int | float) or not density_scale > 0:
            raise ConfigError(f"Option 'density_scale' of counting must be above 0, got {density_scale!r}")
        if count_loss not in ("l1", "smooth"):
            raise ConfigError(f"Option 'count_loss' of counting is l1 or smooth, got {count_loss!r}")
        if not isinstance(count_weight, int | float) or not count_weight >= 0:
            raise ConfigError(f"Option 'count_weight' of counting must be at least 0, got {count_weight!r}")
        if not isinstance(sigma, int | float) or not 0 < sigma < float("inf"):
            raise ConfigError(f"Option 'sigma' of counting must be above 0, got {sigma!r}")
        if not isinstance(side, int) or side < 1 or side % 2 == 0:
            raise ConfigError(f"Option 'side' of counting is an odd number of pixels, got {side!r}")
        self.unit = unit
        self.density_scale = float(density_scale)
        self.count_loss = count_loss
        self.count_weight = float(count_weight)
        self.sigma, self.side, self.adaptive = float(sigma), side, bool(adaptive)

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
            "sigma": self.sigma,
            "side": self.side,
            "adaptive": self.adaptive,
        }

    def target(
        self, item: Any, frontend: Any, span: tuple[float, float] = (0.0, 0.0)
    ) -> dict[str, NDArray[Any]]:
        """``count``, float32, and ``density``, float32 ``(height, width)`` over the front end's picture.

        Heads that the front end cuts off do not count. A published density is scaled with its sum kept.

        Args:
            item: its ``source`` is a picture and its ``truth`` a `sentio.data.crowds.CrowdScene`.
            frontend: has ``placement``, as `sentio.vision.images.ImageFrontEnd` does.
            span: a picture has none.

        Raises:
            InputError: the picture or the annotation cannot be read, heads lie outside the picture, or a
                number is not finite.
            ConfigError: the front end is not one of pictures.
        """
        problem = self.takes(frontend)
        if problem is not None:
            raise ConfigError(f"Task {self.name!r} cannot make targets: {problem}")
        size = picture_size(item.source)
        place, scene = frontend.placement(size), item.truth
        if scene.points is not None:
            heads = place.points(_inside(scene.points(), size))
            density = density_map(heads, place.goal, sigma=self.sigma, side=self.side, adaptive=self.adaptive)
            return {"count": np.float32(len(heads)), "density": density}
        published = scene.density()
        if not (np.isfinite(published) & (published >= 0)).all():
            raise InputError("its density holds values that are NaN, infinite or below 0")
        density = place.density(published, size)
        return {"count": np.float32(density.sum(dtype=np.float64)), "density": density}

    def takes(self, frontend: Any) -> str | None:
        """Front ends of pictures, in which heads have a place."""
        if hasattr(frontend, "placement"):
            return None
        return f"{frontend.name!r} makes no pictures with heads in them; name image or image-and-sound"

    def fits(self, shape: tuple[int, ...], inputs: Mapping[str, tuple[int, ...]]) -> str | None:
        """A count ``(1,)``, or a density ``(1, height, width)`` as large as the picture."""
        if shape == (1,):
            return None
        picture = inputs[MAIN][1:]
        if len(shape) != 3 or shape[0] != 1:
            return "a counter takes a count (1,) or a density (1, height, width); build it with classes=1"
        if shape[1:] != tuple(picture):
            return (
                f"a density is as large as the picture, {picture[0]}x{picture[1]}; give the exit another "
                "factor or answer: count, and the front end sides that are multiples of 8"
            )
        return None

    def reduced(self, output: NDArray[Any]) -> NDArray[Any]:
        """Counts ``(batch, 1)``."""
        return np.asarray(counts_of(output))[:, None]

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
    sigma: float = 4.0,
    side: int = 15,
    adaptive: bool = False,
) -> Counting:
    """How many there are, from counts or densities."""
    return Counting(
        unit=unit,
        density_scale=density_scale,
        count_loss=count_loss,
        count_weight=count_weight,
        sigma=sigma,
        side=side,
        adaptive=adaptive,
    )


def _inside(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Heads that were marked a little outside the picture, moved to its edge: they are in it in part.

    Raises:
        InputError: some lie farther out than a twentieth of the side, or are not finite numbers.
    """
    odd = ~np.isfinite(points).all(axis=1)  # which no comparison below would find
    if odd.any():
        raise InputError(
            f"{int(odd.sum())} of its {len(points)} heads are NaN or infinite, the first is number "
            f"{int(odd.argmax()) + 1}"
        )
    most = np.array(size[::-1], np.float64)
    far = ((points < -0.05 * most) | (points > 1.05 * most)).any(axis=1)
    if far.any():
        x, y = points[far][0]
        raise InputError(
            f"{int(far.sum())} of its {len(points)} heads lie outside the {size[0]}x{size[1]} picture, the "
            f"first at x={x:g}, y={y:g}"
        )
    return np.clip(points, 0, np.nextafter(most, 0))
