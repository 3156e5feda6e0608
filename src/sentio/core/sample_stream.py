"""A network on streams together with its front end: samples in, answers out, many streams in one call.

No PyTorch here: the front end is the one of record, in numpy, and the network is the steps of a box.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.arrays import NumpyArrays, put_rows
from sentio.core.errors import ConfigError, InputError
from sentio.core.policy import Policy
from sentio.core.stepping import STEPS, Answered, State

#: what a state calls the samples before the next step's
SAMPLES = "samples"


class FramesOfStreams(Protocol):
    """A front end on streams (`sentio.audio.log_mel_stream`)."""

    @property
    def rate(self) -> int: ...
    @property
    def hop(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def delay(self) -> int: ...
    @property
    def keep(self) -> int: ...

    def start(self, batch: int = 1) -> NDArray[np.float32]: ...
    def step(
        self, samples: NDArray[np.float32], kept: NDArray[np.float32], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class StepsOfFeatures(Protocol):
    """A network on streams of features (`sentio.edge.box_stream`)."""

    hop: int
    axis: int
    shape: tuple[int, ...]
    exit_names: tuple[str, ...]
    delay: dict[str, int]

    @property
    def warm_up(self) -> dict[str, int]: ...
    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, NDArray[Any]]: ...
    def step(self, x: Any, state: State | None = None, policy: Policy | None = None) -> Answered: ...
    def check_state(self, state: State, batch: int | None = None) -> None: ...


class SampleStream:
    """A model on streams of samples: takes ``hop`` samples of each stream at a step.

    It holds no state: the state is that of the network's steps, and ``samples``, the last ones of each
    stream. May be used from several threads.

    Args:
        front_end: makes frames of samples.
        network: takes as many frames at a step as the front end gives.

    Raises:
        ConfigError: the network's steps take something else than the front end's frames.
    """

    arrays = NumpyArrays()
    #: of time in ``(batch, time)``
    axis = 1
    ndim = 2

    def __init__(self, front_end: FramesOfStreams, network: StepsOfFeatures) -> None:
        if network.axis != 2 or tuple(network.shape) != (1, *front_end.shape):
            raise ConfigError(
                f"The steps take {tuple(network.shape)} with time as axis {network.axis}, and the front end "
                f"gives {(1, *front_end.shape)}; push features instead"
            )
        self.front_end, self.network = front_end, network
        self.rate, self.hop, self.exit_names = front_end.rate, front_end.hop, network.exit_names
        frame = self.hop // network.hop
        #: for each exit, samples that must have come after the one an answer begins at
        self.delay = {name: units * frame + front_end.delay for name, units in network.delay.items()}

    @property
    def warm_up(self) -> dict[str, int]:
        """Steps before each exit's first valid answer."""
        return {name: self.front_end.warm_up + steps for name, steps in self.network.warm_up.items()}

    def start(self, batch: int = 1, *, like: Any = None) -> dict[str, NDArray[Any]]:
        """The state of streams that have not begun; ``like`` counts for its number of rows only."""
        count = batch if like is None else len(like)
        return {**self.network.start(count), SAMPLES: self.front_end.start(count)}

    def step(self, x: Any, state: State | None = None, policy: Policy | None = None) -> Answered:
        """One step of a batch of streams.

        Args:
            x: the next ``hop`` samples of each, floats ``(batch, hop)`` at the front end's rate, full scale
                at 1.
            state: what the last step gave, one row for each stream; None to begin new ones. It is not
                changed.
            policy: instead of the model's own.

        Raises:
            ConfigError: the policy does not fit.
            InputError: not ``hop`` samples, values that are not finite, or a state of other streams.
            ArtifactError: a graph cannot be run.
        """
        samples = np.asarray(x)
        if samples.shape[1:] != (self.hop,) or not len(samples):
            raise InputError(
                f"A step takes {self.hop} samples of each stream, shape (batch, {self.hop}); got "
                f"{samples.shape}"
            )
        if samples.dtype.kind != "f":
            raise InputError(
                f"A step takes float samples, got {samples.dtype}; sentio.audio.io.from_array converts them"
            )
        with np.errstate(over="ignore"):
            samples = samples.astype(np.float32, copy=False)
        if not np.isfinite(samples).all():
            raise InputError("The samples of a step hold NaN or infinite values")
        kept, steps, network = self._parts(self.start(len(samples)) if state is None else state, len(samples))
        frames, after = self.front_end.step(samples, kept, steps)
        late = self.front_end.warm_up
        young = np.flatnonzero(steps < late)
        # The network's own clock begins with the first frame.
        found = self.network.step(frames[:, None], {**network, STEPS: np.maximum(steps - late, 0)}, policy)
        new = {**found.state, SAMPLES: after, STEPS: steps + 1}
        if len(young):
            # What the network made of frames before the first is forgotten.
            for name, rows in self.network.start(len(young)).items():
                if name != STEPS:
                    put_rows(self.arrays, new, network, name, young, rows)
        valid = found.valid & (steps >= late)
        return found._replace(valid=valid, state=new)

    def _parts(
        self, state: State, streams: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, Any]]:
        """The front end's samples, the steps taken, and the network's state."""
        wanted, kept = (streams, self.front_end.keep), state.get(SAMPLES)
        if kept is None:
            raise InputError(f"The state is of a stream of features: it lacks {SAMPLES!r}")
        if not isinstance(kept, np.ndarray) or (kept.shape, kept.dtype) != (wanted, np.float32):
            raise InputError(
                f"The state does not fit: {SAMPLES!r} has shape {np.shape(kept)}, and {wanted} is needed; it "
                "is of another network or of other streams"
            )
        network = {name: rows for name, rows in state.items() if name != SAMPLES}
        self.network.check_state(network, streams)
        return kept, network[STEPS], network
