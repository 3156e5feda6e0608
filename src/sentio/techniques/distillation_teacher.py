"""Teachers of distillation: one trained network or several, and what they say about a student's batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sentio.core.anytime import FINAL, MAIN, Read
from sentio.core.artifact import WEIGHTS, ArtifactFiles
from sentio.core.errors import ConfigError
from sentio.core.features import FrontEnd, finished
from sentio.core.loading import load
from sentio.core.model import Model
from sentio.core.multi_exit import MultiExit
from sentio.core.shelf import find_artifact
from sentio.core.staged import Staged, copied
from sentio.core.task import Task
from sentio.techniques.distillation_probe import LinearProbe
from sentio.techniques.objective import Setting

Source = str | Path | Model | MultiExit | Staged | nn.Module
Average = Literal["logits", "probabilities"]
AVERAGES = ("logits", "probabilities")
#: settings of a front end that scale features and change nothing else
SCALE = ("mean", "std")
#: the task of networks whose answer is an embedding
EMBEDDING = "embedding"
#: samples that a teacher takes at once when its answers are computed beforehand: with few, what a large one
#: holds between layers stays in caches, and a small one is quick anyway
CHUNK = 4


class Teacher:
    """A trained network that answers about what the student is given; never changed, never trained.

    Not a module, so that the training that holds it neither keeps it in checkpoints nor trains it.

    Args:
        source: an artifact's path, a shipped model's name, a `Model`, or a network; a copy of what is given
            in Python is used. A network alone says nothing of labels and features, which are then taken to
            be the student's.

        itself: whether it may hear recordings through a front end of its own, where that is not the
            student's.
        probe: L2 penalty of a linear probe on its embeddings, which then answers in its place: see
            `LinearProbe`. None where it answers itself.

    Raises:
        ArtifactError: no artifact there.
        ConfigError: it is none of these.
    """

    def __init__(self, source: Source, *, itself: bool = False, probe: float | None = None) -> None:
        self.name = "teacher"
        self.itself, self.probe = itself, None if probe is None else LinearProbe(probe)
        self._source: Any = source
        if isinstance(source, str | Path):
            files = ArtifactFiles(find_artifact(source))
            self._source, self.name = files.path, files.manifest.name
            self._identity = files.manifest.files[WEIGHTS].sha256 if files.has(WEIGHTS) else ""
        elif isinstance(source, Model):
            self.name, self._identity = source.name, fingerprint(source.network)
        elif isinstance(source, nn.Module):
            self._identity = fingerprint(source)
        else:
            raise ConfigError(
                f"A teacher is an artifact, a Model or a network, got {type(source).__name__}; "
                "give the path of an artifact"
            )
        self._net: MultiExit | None = None
        self._frontend: FrontEnd | None = None
        self._embeds = False
        self._remembered: dict[bytes, Tensor] = {}
        self._order: Tensor | None = None
        self._scale: tuple[Tensor, Tensor] | None = None

    @property
    def net(self) -> MultiExit:
        """The network, in eval mode; there once `fit` was called."""
        assert self._net is not None, "fit the teacher to a student first"
        return self._net

    @property
    def ears(self) -> FrontEnd | None:
        """The front end through which it hears for itself; None where it takes the student's features."""
        return self._frontend if self.itself else None

    def identity(self) -> str:
        """A fingerprint of its weights."""
        return self._identity

    def fit(self, setting: Setting) -> None:
        """Load it, and find how its features and classes correspond to the student's.

        Raises:
            ConfigError: they do not.
            ArtifactError: it cannot be loaded.
        """
        model: Model | None = None
        if self._net is None:
            source = self._source
            if isinstance(source, Path):
                model = load(source, runtime="torch")
                net: Any = model.network
            elif isinstance(source, Model):
                model, net = source, copied(source.network)
            else:
                net = copied(source)
            self._net = _multi_exit(net).eval().requires_grad_(False)
            if model is not None:
                self._embeds = model.task.name == EMBEDDING
                if self.probe is None:
                    self._order = _order(self.name, model.task, setting.task)
                self._frontend = model.frontend
            known = None if self._frontend is None else _unlike(self._frontend, setting.frontend)
            self.itself = self.itself and known is not None
        if self._frontend is not None and not self.itself:
            _check_features(self.name, self._frontend, setting.frontend)
            self._scale = _rescaling(self._frontend, setting.frontend)

    def check_width(self, outputs: int, x: Any) -> None:
        """See on an example that it takes the student's features and knows as many classes.

        Raises:
            ConfigError: it does not.
        """
        try:
            if self.itself:
                x = self.net.backbone.example(2)
            if self.probe is not None:
                self.embed(x)
                return
            logits = self.run(x)[0]
        # A network of the user's own may raise anything on features it was not made for.
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ConfigError(
                f"Teacher {self.name!r} does not take the student's features: {reason}; "
                "train the student on features that its teacher takes"
            ) from error
        if logits.shape[1:] != (outputs,):
            raise ConfigError(
                f"Teacher {self.name!r} gives {tuple(logits.shape[1:])} for each sample and the data has "
                f"{outputs} classes; choose a teacher of the same classes"
            )

    def run(self, x: Any, taps: Collection[Read] = ()) -> tuple[Tensor, dict[Read, Tensor]]:
        """Its final logits in the student's order of classes, and tensors at boundaries, without gradients.

        Args:
            x: as the student gets it, batch first.
            taps: (boundary, tensor) pairs.
        """
        net = self.net.eval()
        first = next(x for x in (x.values() if isinstance(x, Mapping) else (x,)))
        if any(p.device != first.device for p in net.parameters()):
            net.to(first.device)
        # One channel lies the same either way, and says nothing of what the network should do.
        laid_out = first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
        if laid_out and not first.is_contiguous():
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):  # they would lay their weights out each time
                    layer.to(memory_format=torch.channels_last)
        with torch.no_grad():
            outputs, found = net.tapped(self._rescaled(x), (FINAL,), taps)
            logits = outputs[FINAL]
            if self._order is not None:
                logits = logits[:, self._order.to(logits.device)]
        return logits, found

    def embed(self, x: Any) -> Tensor:
        """What a probe is fitted to, ``(batch, dim)``: its answer where that is an embedding, else what
        enters its last stage, averaged over all axes but batch and channel.
        """
        if self._embeds:
            return self.run(x)[0]
        names = self.net.stage_names
        if len(names) < 2:
            raise ConfigError(f"Teacher {self.name!r} has one stage, and a probe reads what enters the last")
        read = (names[-2], MAIN)
        found = self.run(x, (read,))[1][read].float()
        return found.flatten(2).mean(2) if found.ndim > 2 else found

    def answers(self, inputs: NDArray[Any], frontend: FrontEnd | None) -> Tensor:
        """Its logits about samples, ``(sample, class)``, or what a probe is fitted to, ``(sample, dim)``.

        What was asked is remembered, since a second training on more samples asks it all again.

        Args:
            inputs: features as its data set keeps them.
            frontend: that made them.
        """
        marks = [hashlib.blake2b(np.ascontiguousarray(one).tobytes()).digest() for one in inputs]
        new = [place for place, mark in enumerate(marks) if mark not in self._remembered]
        for at in range(0, len(new), CHUNK):
            places = new[at : at + CHUNK]
            batch = torch.from_numpy(finished(frontend, inputs[places]))
            found = self.run(batch)[0] if self.probe is None else self.embed(batch)
            self._remembered.update(
                {marks[place]: one for place, one in zip(places, found.cpu(), strict=True)}
            )
        return torch.stack([self._remembered[mark] for mark in marks])

    def _rescaled(self, x: Any) -> Any:
        if self._scale is None:
            return x
        if isinstance(x, Mapping):  # other inputs, such as the patches to keep, are no features
            return {**x, MAIN: self._rescaled(x[MAIN])}
        factor, shift = (value.to(x.device, x.dtype) for value in self._scale)
        return x * factor + shift


class Ensemble:
    """Several teachers that answer as one.

    Args:
        sources: one teacher or several, see `Teacher`.
        average: of their ``logits``, or of their ``probabilities`` at the temperature that is asked for.
        itself, probe: of each, see `Teacher`.

    Raises:
        ConfigError: there is none, or no such average.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        average: Average = "logits",
        *,
        itself: bool = False,
        probe: float | None = None,
    ) -> None:
        if average not in AVERAGES:
            raise ConfigError(f"Teachers are averaged by their {' or '.join(AVERAGES)}, got {average!r}")
        given = list(sources) if isinstance(sources, list | tuple) else [sources]
        if not given or None in given:
            raise ConfigError("Distillation needs a teacher: give the path of an artifact as option teacher")
        self.members = [Teacher(source, itself=itself, probe=probe) for source in given]
        self.average = average
        self._kept: tuple[float, Tensor] | None = None
        self._about: NDArray[Any] | None = None

    def identity(self) -> str:
        return " ".join(teacher.identity() for teacher in self.members)

    def check(self, setting: Setting, x: Any) -> None:
        """See that every teacher fits the student; ``x`` is an example of its features."""
        for teacher in self.members:
            teacher.fit(setting)
            teacher.check_width(setting.task.outputs, x)

    def keep(self, inputs: NDArray[Any], temperature: float, setting: Setting) -> None:
        """Compute the answers about all training samples now, so that the teachers need not run again.

        Args:
            inputs: the features of the training part, not augmented.
            temperature: at which they will be asked for.
            setting: of the training; with its part where a teacher hears for itself or answers by a probe.

        Raises:
            ConfigError: a teacher's front end does not take the samples.
        """
        # Phases share a teacher; a second training, on more samples, asks it about all of them anew.
        if self._kept is not None and self._kept[0] == temperature and self._about is inputs:
            return
        members = torch.stack([_answers(teacher, inputs, setting) for teacher in self.members])
        self._kept, self._about = (temperature, average_logits(members, temperature, self.average)), inputs

    def kept(self, items: Tensor, shares: Tensor | None = None) -> Tensor:
        """What was kept for these samples of the training part, ``(batch, class)``.

        Args:
            items: places of the samples, ``(batch,)``.
            shares: of each sample in each, ``(batch, batch)``, where they were mixed: the answer about a
                mixture is the mixture of the probabilities at the temperature that was kept for.
        """
        assert self._kept is not None, "keep the answers first"
        temperature, answers = self._kept
        logits = answers[items.cpu()].to(items.device)
        if shares is None:
            return logits
        mixed = shares.to(logits) @ (logits / temperature).softmax(1)
        return temperature * mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()

    def logits(self, x: Any, temperature: float) -> Tensor:
        """One answer of all about a batch, ``(batch, class)``; see `average_logits`."""
        members = torch.stack([teacher.run(x)[0] for teacher in self.members])
        return average_logits(members, temperature, self.average)


def _answers(teacher: Teacher, inputs: NDArray[Any], setting: Setting) -> Tensor:
    """One teacher's logits about all samples of the training part."""
    frontend, part = setting.frontend, setting.part
    if teacher.ears is not None:
        assert part is not None, "a teacher that hears for itself needs the training part"
        frontend, inputs = teacher.ears, part.through(teacher.ears)
    answers = teacher.answers(inputs, frontend)
    if teacher.probe is None:
        return answers
    assert part is not None, "a probe needs the training part"
    targets, rows = torch.from_numpy(part.targets), torch.from_numpy(part.rows)
    teacher.probe.fit(answers, targets, rows, setting.task.outputs)
    return teacher.probe(answers)


def average_logits(members: Tensor, temperature: float = 1.0, average: Average = "logits") -> Tensor:
    """One teacher's logits for those of several.

    Args:
        members: ``(teacher, batch, class)``.
        temperature: ``tau``.
        average: ``logits`` for their mean; ``probabilities`` for logits ``z`` whose ``softmax(z / tau)`` is
            the mean of the members' ``softmax(z_i / tau)``.

    Returns:
        ``(batch, class)``. The two differ unless the members agree.
    """
    if len(members) == 1:
        return members[0]
    if average == "logits":
        return members.mean(0)
    logs = (members / temperature).log_softmax(2)
    return temperature * (logs.logsumexp(0) - math.log(len(members)))


def fingerprint(net: nn.Module) -> str:
    """Of all weights and buffers of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        # As bytes, for numpy has no bfloat16.
        bare = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + bare.numpy().tobytes())
    return digest.hexdigest()


def _multi_exit(net: nn.Module) -> MultiExit:
    if isinstance(net, MultiExit):
        return net
    return MultiExit(net if isinstance(net, Staged) else Staged({"network": net}))


def _order(name: str, known: Task, wanted: Task) -> Tensor | None:
    """For each class of the student its place among the teacher's; None where they are the same."""
    if known.name != wanted.name:
        raise ConfigError(
            f"Teacher {name!r} was trained for {known.name} and the student is for {wanted.name}; "
            "choose a teacher of the same task"
        )
    theirs, ours = (task.settings().get("labels") for task in (known, wanted))
    if theirs is None or ours is None or theirs == ours:
        return None
    missing = [label for label in ours if label not in theirs]
    more = [label for label in theirs if label not in ours]
    if missing or more:
        facts = [f"does not know {', '.join(missing)}"] if missing else []
        facts += [f"knows {', '.join(more)}, which the data has not"] if more else []
        raise ConfigError(f"Teacher {name!r} {' and '.join(facts)}; choose a teacher of the same classes")
    return torch.tensor([theirs.index(label) for label in ours])


def _unlike(theirs: FrontEnd, ours: FrontEnd) -> str | None:
    """How a teacher's features differ from the student's, but for their scale; None where they do not."""
    if theirs.name != ours.name:
        return f"{theirs.name} features and the student {ours.name}"
    known, wanted = theirs.settings(), ours.settings()
    keys = [key for key in {**known, **wanted} if key not in SCALE and known.get(key) != wanted.get(key)]
    facts = ", ".join(f"{key} is {known.get(key)} there and {wanted.get(key)} here" for key in keys)
    return f"other features than the student: {facts}" if keys else None


def _check_features(name: str, theirs: FrontEnd, ours: FrontEnd) -> None:
    if (unlike := _unlike(theirs, ours)) is not None:
        raise ConfigError(
            f"Teacher {name!r} takes {unlike}; give both the same front end, or cache: true, with which a "
            "teacher hears for itself"
        )


def _rescaling(theirs: FrontEnd, ours: FrontEnd) -> tuple[Tensor, Tensor] | None:
    """Factor and shift from features as the student has them standardised to the teacher's."""
    (their_mean, their_std), (our_mean, our_std) = _scale(theirs), _scale(ours)
    if np.array_equal(their_mean, our_mean) and np.array_equal(their_std, our_std):
        return None
    return torch.tensor(our_std / their_std), torch.tensor((our_mean - their_mean) / their_std)


def _scale(frontend: FrontEnd) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation, scalars, one for each band, or of images one for each channel."""
    mean, std = (frontend.settings().get(key) for key in SCALE)
    found = np.asarray(mean or 0.0, np.float64), np.asarray(1.0 if std is None else std, np.float64)
    if not hasattr(frontend, "finish"):
        return found
    return found[0].reshape(-1, 1, 1), found[1].reshape(-1, 1, 1)
