"""When a sample may leave: exit policies, in numpy.

A policy is asked at every exit it evaluates, about all samples still in the batch at once. It is immutable
and may be shared between threads; what it must remember from exit to exit (`Patience`, `Ensemble`) it
returns as ``memory``, arrays with one row per sample, which the caller keeps with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sentio.core.confidence import ENTROPY, MAX_PROBABILITY, softmax
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.numeric import is_number

Memory = dict[str, NDArray[Any]]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Thresholds = float | Mapping[str, float | None]
Combine = Callable[[Floats, Memory, Mask], tuple[Floats, Memory]]


@dataclass(frozen=True)
class ExitCosts:
    """What it costs to reach each exit and evaluate it, the exits before it included.

    Args:
        names: exits in order.
        macs: multiply-accumulates of one sample, for each exit.
        ms: measured milliseconds of one sample, for each exit, or None where nothing was measured.

    Raises:
        ConfigError: there is not one figure for each exit, or one is no number.
    """

    names: tuple[str, ...]
    macs: tuple[float, ...]
    ms: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for what, figures in (("MACs", self.macs), ("milliseconds", self.ms)):
            if figures is not None and len(figures) != len(self.names):
                raise ConfigError(
                    f"Costs of {len(self.names)} exits ({', '.join(self.names)}) come with "
                    f"{len(figures)} figures of {what}; give one for each exit"
                )
            for name, figure in zip(self.names, figures or (), strict=False):
                if not is_number(figure):
                    raise ConfigError(f"Costs are finite numbers, got {figure!r} {what} of exit {name!r}")

    def index(self, exit: str) -> int:
        """The place of an exit in the order."""
        if exit not in self.names:
            raise UnknownNameError("exit", exit, self.names)
        return self.names.index(exit)

    def only(self, exits: Collection[str]) -> ExitCosts:
        """The costs of some of the exits, in the same order."""
        chosen = [index for index, name in enumerate(self.names) if name in exits]
        if len(chosen) == len(self.names):
            return self
        return ExitCosts(
            tuple(self.names[index] for index in chosen),
            tuple(self.macs[index] for index in chosen),
            None if self.ms is None else tuple(self.ms[index] for index in chosen),
        )


class Policy(Protocol):
    """Decides which samples leave at an exit."""

    @property
    def measure(self) -> str | None:
        """The measure of confidence it reads, None if it reads none."""
        ...

    def evaluates(self, exit: str) -> bool:
        """Whether this exit has to be computed at all."""
        ...

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        """Which samples leave here.

        Args:
            confidence: between 0 and 1, ``(batch,)``; None if the task has no such notion.
            prediction: the answer as it stands, ``(batch,)``, compared for equality only.
            exit: this exit's name.
            costs: of the exits that will be evaluated, where known.
            elapsed: milliseconds since the input was given.
            memory: what this policy returned at the exit before, one row per sample; empty at first.

        Returns:
            booleans ``(batch,)``, or a single one for all, and the new memory, one row per sample.
        """
        ...


def combine_of(policy: Policy | None) -> Combine | None:
    """How a policy makes an answer of several exits' outputs, see `Ensemble.combine`; None if it does not."""
    combine: Combine | None = getattr(policy, "combine", None)
    return combine


@dataclass(frozen=True)
class Confidence:
    """Leave when the largest probability reaches a threshold.

    Args:
        threshold: one for all exits, or by exit; an exit that is not named, or has None, is passed.
    """

    threshold: Thresholds
    measure = MAX_PROBABILITY

    def __post_init__(self) -> None:
        _check_thresholds(type(self).__name__, self.threshold)

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        known = _needed(confidence, self)
        threshold = _at(self.threshold, exit)
        return np.asarray(False) if threshold is None else known >= threshold, memory


@dataclass(frozen=True)
class Ensemble(Confidence):
    """Leave when the exits together are sure enough; the answer is the mean of their probabilities so far.

    An ensemble whose members cost nothing (Qendro et al., *Early Exit Ensembles for Uncertainty
    Quantification*, ML4H 2021). Thresholds are for the mean's largest probability; an exit without one is
    heard and passed. On streams the answers of one step are averaged, of which a deeper exit's may be about
    a slightly earlier moment.

    Args:
        threshold: as for `Confidence`.
    """

    def combine(self, output: Floats, memory: Memory, heard: Mask) -> tuple[Floats, Memory]:
        """What the exits say together up to this one.

        Args:
            output: this exit's calibrated logits, ``(batch, class)``.
            memory: as for `decide`, which gets what is returned here.
            heard: for which samples this exit counts, ``(batch,)``.

        Returns:
            logarithms of mean probabilities, ``(batch, class)``, and the new memory.

        Raises:
            ConfigError: outputs are no logits of classes.
        """
        if output.ndim != 2:
            raise ConfigError(
                f"Ensemble averages probabilities of classes, and this task's outputs are {output.shape[1:]} "
                "for each sample; use Fixed, Deadline or Budget"
            )
        voices = heard[:, None].astype(output.dtype)
        total = softmax(output) * voices
        if memory:
            total, voices = memory["total"] + total, memory["voices"] + voices
        mean = total / np.maximum(voices, 1)
        logs: Floats = np.log(np.maximum(mean, np.finfo(output.dtype).tiny))
        return logs, {"total": total, "voices": voices}


@dataclass(frozen=True)
class Entropy:
    """Leave when the entropy of the class probabilities, divided by its maximum, is at most a threshold.

    BranchyNet's rule (Teerapittayanon et al., ICPR 2016), with the entropy scaled to lie between 0 and 1.

    Args:
        threshold: one for all exits, or by exit; an exit that is not named, or has None, is passed.
    """

    threshold: Thresholds
    measure = ENTROPY

    def __post_init__(self) -> None:
        _check_thresholds("Entropy", self.threshold)

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        known = _needed(confidence, self)
        threshold = _at(self.threshold, exit)
        return np.asarray(False) if threshold is None else 1.0 - known <= threshold, memory


@dataclass(frozen=True)
class Patience:
    """Leave when the answer has not changed over ``tolerance`` further exits.

    PABEE (Zhou et al., NeurIPS 2020).

    Args:
        tolerance: in how many exits in a row the answer is the same as in the exit before.
    """

    tolerance: int
    measure = None

    def __post_init__(self) -> None:
        if not isinstance(self.tolerance, int | np.integer) or isinstance(self.tolerance, bool):
            raise ConfigError(f"Patience needs a whole number of exits, got {self.tolerance!r}")
        if self.tolerance < 1:
            raise ConfigError(f"Patience needs a tolerance of at least 1 exit, got {self.tolerance}")

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        if prediction is None:
            raise ConfigError("Patience compares answers between exits, which this task does not offer")
        if not memory:
            agreed = np.zeros(len(prediction), dtype=np.int64)
        else:
            agreed = np.where(memory["prediction"] == prediction, memory["agreed"] + 1, 0)
        return agreed >= self.tolerance, {"prediction": prediction, "agreed": agreed}


@dataclass(frozen=True)
class Fixed:
    """Everybody leaves at one exit; the others are not computed."""

    exit: str
    measure = None

    def __post_init__(self) -> None:
        if not isinstance(self.exit, str):
            raise ConfigError(f"Fixed needs the name of an exit, got {self.exit!r}")

    def evaluates(self, exit: str) -> bool:
        return exit == self.exit

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        return np.asarray(exit == self.exit), memory


@dataclass(frozen=True)
class Deadline:
    """Leave when the next exit would come after the deadline.

    The time to the next exit is the measured one of ``costs``, stretched by how much slower than measured
    this call has been so far (a larger batch, a busier machine). The first exit answers whenever it comes.

    Args:
        ms: milliseconds from the call, for the whole batch.
    """

    ms: float
    measure = None

    def __post_init__(self) -> None:
        if not is_number(self.ms) or self.ms <= 0:
            raise ConfigError(f"Deadline needs a positive number of milliseconds, got {self.ms!r}")

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        if costs is None or costs.ms is None:
            raise ConfigError("Deadline needs measured milliseconds of each exit; profile the network first")
        here = costs.index(exit)
        late = elapsed >= self.ms
        if not late and here + 1 < len(costs.names):
            stretch = max(1.0, elapsed / costs.ms[here]) if costs.ms[here] > 0 else 1.0
            late = elapsed + (costs.ms[here + 1] - costs.ms[here]) * stretch > self.ms
        return np.asarray(late), memory


@dataclass(frozen=True)
class Budget:
    """Leave at the last exit that a sample can afford: a hard cap on its multiply-accumulates.

    The first exit answers whatever it costs. A mean budget over many samples is met by fitting thresholds
    (`sentio.core.calibration.fit_thresholds`).

    Args:
        macs: multiply-accumulates of one sample, exits on the way included.
    """

    macs: float
    measure = None

    def __post_init__(self) -> None:
        if not is_number(self.macs) or self.macs <= 0:
            raise ConfigError(f"Budget needs a positive number of multiply-accumulates, got {self.macs!r}")

    def evaluates(self, exit: str) -> bool:
        return True

    def decide(
        self,
        confidence: Floats | None,
        prediction: NDArray[Any] | None,
        exit: str,
        costs: ExitCosts | None,
        elapsed: float,
        memory: Memory,
    ) -> tuple[Mask, Memory]:
        if costs is None:
            raise ConfigError("Budget needs the multiply-accumulates of each exit; profile the network first")
        here = costs.index(exit)
        spent = here + 1 < len(costs.names) and costs.macs[here + 1] > self.macs
        return np.asarray(spent), memory


POLICIES: dict[str, type[Any]] = {
    "confidence": Confidence,
    "entropy": Entropy,
    "ensemble": Ensemble,
    "patience": Patience,
    "fixed": Fixed,
    "deadline": Deadline,
    "budget": Budget,
}


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """A policy as plain values for JSON: ``{"name": ..., its arguments}``.

    Raises:
        ConfigError: it is not one of this library's policies.
    """
    kind: type[Any] = type(policy)
    for name, known in POLICIES.items():
        if kind is known:
            return {"name": name, **{f.name: _plain(getattr(policy, f.name)) for f in fields(kind)}}
    raise ConfigError(f"A policy of type {kind.__name__} cannot be stored; use one of: {', '.join(POLICIES)}")


def policy_from_dict(values: Mapping[str, Any]) -> Policy:
    """The policy that `policy_to_dict` described.

    Raises:
        UnknownNameError, ConfigError: no such policy, or not its arguments.
    """
    rest = dict(values)
    name = str(rest.pop("name", ""))
    if name not in POLICIES:
        raise UnknownNameError("policy", name, tuple(POLICIES))
    takes = [f.name for f in fields(POLICIES[name])]
    if list(rest) != takes:
        raise ConfigError(f"Policy {name!r} takes {', '.join(takes)}; got {', '.join(rest) or 'nothing'}")
    policy: Policy = POLICIES[name](**rest)
    return policy


def check_exits(policy: Policy, exits: tuple[str, ...]) -> None:
    """Every exit that a policy names exists.

    Raises:
        UnknownNameError: one does not; the message offers the nearest.
    """
    named: Collection[str] = ()
    if isinstance(policy, Fixed):
        named = (policy.exit,)
    elif isinstance(policy, Confidence | Entropy) and isinstance(policy.threshold, Mapping):
        named = policy.threshold.keys()
    for name in named:
        if name not in exits:
            raise UnknownNameError("exit", name, exits)


def _check_thresholds(policy: str, threshold: Thresholds) -> None:
    values = threshold.values() if isinstance(threshold, Mapping) else [threshold]
    if isinstance(threshold, Mapping) and not all(isinstance(name, str) for name in threshold):
        raise ConfigError(f"{policy} thresholds by exit go by its name, got {list(threshold)}")
    for value in values:
        if value is None and isinstance(threshold, Mapping):
            continue
        if not is_number(value) or not 0.0 <= value <= 1.0:  # type: ignore[operator]
            raise ConfigError(f"{policy} thresholds are numbers between 0 and 1, got {value!r}")


def _at(threshold: Thresholds, exit: str) -> float | None:
    return threshold.get(exit) if isinstance(threshold, Mapping) else threshold


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _needed(confidence: Floats | None, policy: Policy) -> Floats:
    if confidence is None:
        raise ConfigError(
            f"{type(policy).__name__} needs a confidence, which this task does not have; "
            "use Fixed, Patience, Deadline or Budget"
        )
    return confidence
