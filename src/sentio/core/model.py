"""A model: front end, network, task and policy as one thing that answers.

No PyTorch here: the network is a `Row`, in PyTorch or as exported stages, and this is the only path of
inference over both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.answering import Answers, answer, calibrated_output, check_temperatures
from sentio.core.anytime import FINAL, MAIN, Row, Step, anytime
from sentio.core.background import Background
from sentio.core.errors import ConfigError, InputError
from sentio.core.features import FrontEnd, finished, rows_of
from sentio.core.policy import ExitCosts, Fixed, Policy
from sentio.core.prediction import Label
from sentio.core.sample_stream import SampleStream
from sentio.core.task import Task
from sentio.core.timing import timed_costs


class RuntimeRow(Row, Protocol):
    """A row that takes numpy arrays, and says what it runs on."""

    runtime: str

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each input without the batch axis; empty where it is not known."""
        ...


class Model:
    """Answers about recordings, from the earliest exit that the policy accepts.

    May be used from several threads.

    Args:
        row: the network.
        task: the meaning of its outputs.
        frontend: recordings to features; None for a model that takes features only.
        policy: who leaves when, unless a call says otherwise; by default everybody at the last exit.
        temperatures: exit -> temperature.
        costs: of the exits.
        card: measured results and where they come from, plain values.
        name: what the model is called in messages and cards.

    Raises:
        ConfigError: a temperature is not a positive number.
    """

    def __init__(
        self,
        row: RuntimeRow,
        task: Task,
        *,
        frontend: FrontEnd | None = None,
        policy: Policy | None = None,
        temperatures: Mapping[str, float] | None = None,
        costs: ExitCosts | None = None,
        card: Mapping[str, Any] | None = None,
        name: str = "model",
    ) -> None:
        self.row = row
        self.task = task
        self.frontend = frontend
        self.policy: Policy = policy or Fixed(FINAL)
        check_temperatures(temperatures or {})
        self.temperatures = dict(temperatures or {})
        self.costs = costs
        self.card = dict(card or {})
        self.name = name
        self._stream: Any = None

    @property
    def runtime(self) -> str:
        """``torch`` or ``edge``."""
        return self.row.runtime

    @property
    def exit_names(self) -> tuple[str, ...]:
        """The exits that are switched on, in order, ``final`` last."""
        return tuple(point.name for point in self.row.exit_points)

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input of the network without the batch axis; empty where nothing says."""
        return dict((self.row if self.frontend is None else self.frontend).input_shapes)

    @property
    def network(self) -> Any:
        """The PyTorch network.

        Raises:
            ConfigError: the model runs on exported stages.
        """
        if not hasattr(self.row, "net"):
            raise ConfigError(f"Model {self.name!r} runs without PyTorch; load it with runtime='torch'")
        return self.row.net

    def predict(
        self,
        source: Any,
        *,
        policy: Policy | None = None,
        only: Sequence[str] | None = None,
        hop: float | None = None,
    ) -> Label:
        """Answer about one recording.

        A recording longer than the model's window is answered window by window, and merged.

        Args:
            source: a path, or samples with their rate as ``(array, hertz)``.
            policy: instead of the model's own.
            only: labels of interest; another best label is answered as "none of these".
            hop: distance of windows in seconds; by default the window itself.

        Raises:
            InputError: the recording cannot be used.
            ConfigError: the model has no front end; the policy does not fit.
        """
        if self.frontend is None:
            raise ConfigError(f"Model {self.name!r} takes features, not files; call answer(features)")
        begun = perf_counter()
        prepared = self.frontend.prepare(source, hop=hop)
        preparing = (perf_counter() - begun) * 1000.0 / len(prepared)
        silence = self.task.silence()
        parts: list[Label] = []
        used: list[str] = []
        for index in range(len(prepared)):
            if prepared.silent[index] and silence is not None:
                part = replace(silence, milliseconds=preparing)
            else:
                window = rows_of(prepared.inputs, slice(index, index + 1))
                answers = self.answer(window, policy=policy)
                used += answers.exit_names()
                part = self.task.decode(
                    answers.outputs[0],
                    exit=used[-1],
                    milliseconds=preparing + float(answers.ms[0]),
                    only=only,
                )
            parts.append(part.at(float(prepared.starts[index]), float(prepared.ends[index])))
        deepest = max(used, key=self.exit_names.index, default=FINAL)
        return replace(self.task.merge(parts, exit=deepest, only=only), notes=prepared.notes)

    def answer(self, inputs: Any, *, policy: Policy | None = None) -> Answers:
        """Answer about features, batch first.

        Args:
            inputs: array or tensor of the network's input shape with a batch axis in front, or several by
                name; computed in float32, or in what else the network's weights are. Where the front end is
                one of images, uint8 is pixels, which it standardises.
            policy: instead of the model's own.

        Raises:
            InputError: features of another shape, or that are not finite.
            ConfigError: the policy does not fit.
        """
        return answer(
            self.row,
            self._checked(inputs),
            policy or self.policy,
            self.task,
            costs=self.costs,
            temperatures=self.temperatures,
        )

    def anytime(self, inputs: Any) -> Iterator[Step]:
        """Every exit's answers as they are reached; stop whenever you like.

        Args:
            inputs: as `answer` takes them.

        Yields:
            the exit's name, its calibrated output in numpy, ``(samples still there, ...)``, and which samples
            these are; ``step.drop(mask)`` sends samples out.

        Raises:
            InputError: features of another shape, or that are not finite.
        """
        for step in anytime(self.row, self._checked(inputs)):
            step.output = calibrated_output(self.row, step, self.task, self.temperatures)
            yield step

    def background(self, inputs: Any) -> Background:
        """Every exit's answers as they are reached, computed in another thread while the caller goes on.

        For whoever does not know beforehand when the answer is needed: ``newest`` and ``stop()`` give the
        newest finished one at any moment, see `sentio.core.background.Background`.

        Args:
            inputs: as `answer` takes them; copied, so that a camera's buffer may be filled anew.

        Raises:
            InputError: features of another shape, or that are not finite.
        """
        copies = {
            name: array.clone() if hasattr(array, "clone") else np.array(array)
            for name, array in self._checked(inputs).items()
        }
        return Background(
            self.row,
            copies,
            read=lambda step: calibrated_output(self.row, step, self.task, self.temperatures),
        )

    def stream(self, *, policy: Policy | None = None, samples: bool = False) -> Any:
        """The model on streams, for a box that was exported with ``stream=``: one step of many at a time.

        Opens the box's step graphs, so keep what it returns.

        Args:
            policy: instead of the model's own.
            samples: whether steps take samples, of which the front end makes frames as they come, and not
                features.

        Returns:
            a `sentio.edge.box_stream.BoxStream`, or for samples a `sentio.core.sample_stream.SampleStream`;
            for ``step`` or for `StreamBatch`.

        Raises:
            ConfigError: the model runs in PyTorch, or was exported without; or its front end needs whole
                clips.
            ArtifactError: a step graph is damaged.
        """
        if not hasattr(self.row, "stream"):
            raise ConfigError(
                f"Model {self.name!r} runs in PyTorch, where sentio.stream(model.network) makes its stream; "
                "the steps of a box are opened with runtime='edge'"
            )
        steps = self.row.stream(
            policy=policy or self.policy, task=self.task, costs=self.costs, temperatures=self.temperatures
        )
        if not samples:
            return steps
        frames = getattr(self.frontend, "frames_of_streams", None)
        if frames is None:
            raise ConfigError(
                f"Model {self.name!r} has no front end that makes frames of samples as they come; its "
                "streams take features"
            )
        return SampleStream(frames(steps.hop), steps)

    def step(self, x: Any, state: Mapping[str, Any] | None = None, *, policy: Policy | None = None) -> Any:
        """One step of streams on a box, see `BoxStream.step`; `stream` is opened at the first call.

        Args:
            x: the next hop of each stream, ``(batch, ...)``.
            state: what the last step gave; None to begin.
            policy: instead of the model's own.

        Raises:
            ConfigError, ArtifactError: as `stream`.
            InputError: not a hop, or a state of other streams.
        """
        if self._stream is None:
            self._stream = self.stream()
        return self._stream.step(x, state, policy or self.policy)

    def time_exits(self, *, repeats: int = 10) -> ExitCosts:
        """Measure the milliseconds of a whole answer from each exit on this machine, for a sample of noise.

        The model goes by them from then on, so that a deadline is about the machine it runs on.

        Args:
            repeats: timed runs, of which the median counts; a few before them only warm up.

        Raises:
            ConfigError: the network's input shape is not known.
        """
        shapes = self.input_shapes
        if not shapes:
            raise ConfigError(f"Model {self.name!r} does not know its input shape, so it cannot be timed")
        generator = np.random.Generator(np.random.PCG64(0))
        noise = {
            name: generator.standard_normal((1, *shape), dtype=np.float32) for name, shape in shapes.items()
        }
        self.costs = timed_costs(
            self.row,
            noise,
            self.costs,
            repeats=repeats,
            task=self.task,
            temperatures=self.temperatures,
        )
        return self.costs

    def outputs(
        self, inputs: Any, *, batch: int = 64, change: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The calibrated output of every exit for every sample, ``{exit: (sample, ...)}``.

        Args:
            inputs: as `answer` takes them.
            batch: samples computed at once.
            change: what to keep of the outputs of so many samples; by default all.

        Raises:
            InputError: features of another shape, or that are not finite.
        """
        arrays = self._checked(inputs)
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in self.exit_names}
        for start in range(0, len(next(iter(arrays.values()))), batch):
            part = {name: array[start : start + batch] for name, array in arrays.items()}
            for step in anytime(self.row, part):
                output = calibrated_output(self.row, step, self.task, self.temperatures)
                found[step.exit].append(output if change is None else change(output))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _checked(self, inputs: Any) -> dict[str, Any]:
        """The inputs by name; arrays of numpy as float32."""
        arrays = dict(inputs) if isinstance(inputs, Mapping) else {MAIN: inputs}
        arrays = {name: _array_of_whole_numbers(given) for name, given in arrays.items()}
        wanted = self.input_shapes
        several = len(wanted) > 1
        if wanted and arrays.keys() != wanted.keys():
            raise InputError(
                f"Model {self.name!r} takes inputs {', '.join(wanted)}; got {', '.join(arrays) or 'none'}"
            )
        if several and all(isinstance(given, np.ndarray) for given in arrays.values()):
            arrays = finished(self.frontend, arrays)
        for name, given in arrays.items():
            if not hasattr(given, "shape"):
                raise InputError(
                    f"Model {self.name!r} takes arrays of features; got {type(given).__name__} for {name!r}"
                )
            shape = tuple(given.shape)
            if wanted and shape[1:] != tuple(wanted[name]):
                raise InputError(
                    f"Model {self.name!r} takes input {name!r} of shape (batch, "
                    f"{', '.join(map(str, wanted[name]))}), got {shape}"
                )
            if not shape or shape[0] == 0:
                raise InputError(f"Model {self.name!r} got an empty batch for input {name!r}, shape {shape}")
            if isinstance(given, np.ndarray):
                arrays[name] = self._finite(name, given if several else finished(self.frontend, given))
        return arrays

    def _finite(self, name: str, array: NDArray[Any]) -> NDArray[np.float32]:
        if array.dtype.kind not in "fiub":
            raise InputError(f"Input {name!r} of model {self.name!r} holds {array.dtype}, not numbers")
        with np.errstate(over="ignore"):
            values = array.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise InputError(f"Input {name!r} of model {self.name!r} holds NaN or infinite values")
        return values


def _array_of_whole_numbers(given: Any) -> Any:
    """A tensor of anything but floats as an array, so that pixels are met as pixels; all else as it is."""
    if hasattr(given, "detach") and not given.is_floating_point():
        return given.detach().cpu().numpy()
    return given
