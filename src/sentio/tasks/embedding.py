"""Embeddings: outputs whose distances say who or what is the same, for verification and identification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.confidence import MAX_PROBABILITY
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.prediction import Embedding
from sentio.core.registry import register
from sentio.core.task import Batch
from sentio.tasks.gallery import Gallery
from sentio.tasks.metrics.identification import leave_one_out_accuracy
from sentio.tasks.metrics.verification import pair_distances, unit_length

ByExit = Mapping[str, float]


class EmbeddingTask:
    """A vector for each sample, the same space at every exit.

    With a `gallery` an embedding becomes a name. It then has a confidence: 1 minus the ratio of the distances
    to the nearest and to the second nearest name. So `Confidence`, fitted thresholds and `Patience` work in
    identification. Without one they do not, and deadlines, budgets and fixed exits do. A gallery is data and
    no setting: it does not travel in an artifact but in a file of its own, and is given again.

    Args:
        dimension: of the embeddings.
        normalise: whether distances are of embeddings scaled to length 1.
        thresholds: exit -> distance of two embeddings below which they are of one person.
        margins: exit -> how far from the threshold a distance must be to be decided there, see
            `sentio.tasks.pairs.verify_pairs`; at an exit that is not named nothing is.
        unknown_beyond: exit -> distance to the nearest name in the gallery beyond which the answer is none.
        gallery: of the last layer's embeddings.

    Raises:
        ConfigError: an option out of range, or a gallery of another dimension.
    """

    name = "embedding"

    def __init__(
        self,
        *,
        dimension: int,
        normalise: bool = True,
        thresholds: ByExit | None = None,
        margins: ByExit | None = None,
        unknown_beyond: ByExit | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 1:
            raise ConfigError(
                f"Option 'dimension' of task 'embedding' is a number from 1 up, got {dimension!r}"
            )
        self.dimension = dimension
        self.normalise = bool(normalise)
        self.thresholds = _distances("thresholds", thresholds)
        self.margins = _distances("margins", margins)
        self.unknown_beyond = _distances("unknown_beyond", unknown_beyond)
        self.gallery = gallery

    @property
    def outputs(self) -> int:
        return self.dimension

    @property
    def gallery(self) -> Gallery | None:
        """Whose embeddings are known; may be set."""
        return self._gallery

    @gallery.setter
    def gallery(self, gallery: Gallery | None) -> None:
        if gallery is not None and gallery.dimension != self.dimension:
            raise ConfigError(
                f"The gallery's embeddings have {gallery.dimension} values and the network's "
                f"{self.dimension}; enrol with the same network"
            )
        self._gallery = gallery

    def verify(
        self, first: NDArray[Any], second: NDArray[Any], *, exit: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether pairs of embeddings are of one person, by the exit's threshold.

        Args:
            first, second: ``(pair, dimension)``.
            exit: whose threshold.

        Returns:
            the answers and the distances, ``(pair,)`` each.

        Raises:
            UnknownNameError: there is no threshold for the exit.
            InputError: the embeddings do not pair up.
        """
        distances = pair_distances(first, second, normalise=self.normalise)
        return distances < self.threshold(exit), distances

    def threshold(self, exit: str) -> float:
        """The exit's distance below which two embeddings are of one person.

        Raises:
            ConfigError: none are known; `sentio.tasks.pairs.fit_verification` finds them.
            UnknownNameError: there is none for the exit.
        """
        if not self.thresholds:
            raise ConfigError(
                "Verification needs a threshold for each exit; fit_verification of sentio.tasks.pairs finds "
                "them"
            )
        if exit not in self.thresholds:
            raise UnknownNameError("exit with a threshold", exit, tuple(self.thresholds))
        return self.thresholds[exit]

    def confidence(self, output: NDArray[Any], measure: str) -> NDArray[np.float64] | None:
        if self.gallery is None or measure != MAX_PROBABILITY:
            return None
        found: NDArray[np.float64] = 1.0 - self.gallery.nearest(output).ratio
        return found

    def choice(self, output: NDArray[Any]) -> NDArray[np.intp] | None:
        """The place of the nearest name in the gallery."""
        return None if self.gallery is None else self.gallery.nearest(output).place

    def decode(
        self, output: NDArray[Any], *, exit: str, milliseconds: float, only: Sequence[str] | None = None
    ) -> Embedding:
        plain = Embedding(None, 0.0, exit, milliseconds, vector=np.asarray(output, np.float32))
        if self.gallery is None:
            return plain
        nearest = self.gallery.nearest(output[None])
        label: str | None = self.gallery.names[int(nearest.place[0])]
        distance = float(nearest.distance[0])
        if distance > self.unknown_beyond.get(exit, np.inf) or (only is not None and label not in only):
            label = None
        return replace(plain, label=label, score=float(1.0 - nearest.ratio[0]), distance=distance)

    def merge(self, parts: Sequence[Embedding], *, exit: str, only: Sequence[str] | None = None) -> Embedding:
        """The mean of a recording's windows, of equal weight where distances are of unit vectors."""
        if len(parts) == 1:
            return replace(parts[0], exit=exit)
        vectors = np.stack([part.vector for part in parts]).astype(np.float64)
        mean = (unit_length(vectors) if self.normalise else vectors).mean(0)
        spent = sum(part.milliseconds for part in parts)
        whole = self.decode(mean, exit=exit, milliseconds=spent, only=only)
        return replace(whole, start=parts[0].start, end=parts[-1].end, windows=tuple(parts))

    def silence(self) -> None:
        """A sample without signal has an embedding too: the network is asked all the same."""

    def settings(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension,
            "normalise": self.normalise,
            "thresholds": dict(self.thresholds),
            "margins": dict(self.margins),
            "unknown_beyond": dict(self.unknown_beyond),
        }

    def score(self, output: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """How often the nearest other sample is of the same person; targets are numbers of persons.

        Where targets are embeddings ``(sample, dimension)``, the negative squared distance to them.
        """
        if targets.ndim == 2:
            apart = np.square(np.asarray(output, np.float64) - targets).sum(1)
            return {"negative_distance": -float(apart.mean())}
        return {"nearest_same": leave_one_out_accuracy(output, targets, normalise=self.normalise)}

    def loss(self, output: Any, batch: Batch) -> Any:
        """Squared distance to target embeddings, summed over the embedding, mean over samples."""
        return (output - batch.targets).square().sum(1).mean()


def _distances(option: str, values: ByExit | None) -> dict[str, float]:
    found = dict(values or {})
    for exit, value in found.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not isinstance(exit, str) or not number or not isfinite(value) or value < 0:
            raise ConfigError(
                f"Option {option!r} of task 'embedding' maps exits to distances from 0 up, got "
                f"{exit!r}: {value!r}"
            )
    return {exit: float(value) for exit, value in found.items()}


@register("task", "embedding")
def build(
    *,
    dimension: int,
    normalise: bool = True,
    thresholds: ByExit | None = None,
    margins: ByExit | None = None,
    unknown_beyond: ByExit | None = None,
) -> EmbeddingTask:
    """Who is the same, from distances of embeddings; who it is, with a gallery."""
    return EmbeddingTask(
        dimension=dimension,
        normalise=normalise,
        thresholds=thresholds,
        margins=margins,
        unknown_beyond=unknown_beyond,
    )
