"""Exits that give the embedding of the last layer early, fitted on a frozen network.

N. Passalis, A. Tefas, "Adaptive Inference for Face Recognition leveraging Deep Metric Learning-enabled Early
Exits", EUSIPCO 2021. Each exit learns to say what the last layer will say, so that one gallery serves all of
them. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize, pad

from sentio.core.anytime import FINAL, Read
from sentio.core.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from sentio.core.features import FrontEnd, finished
from sentio.core.multi_exit import ExitSpec, MultiExit
from sentio.core.staged import evaluating
from sentio.exits.bag_of_features import BagOfFeaturesExit
from sentio.exits.linear_regressor import LinearRegressorExit
from sentio.nn.bag_of_features import BagOfFeatures, local_features
from sentio.techniques.linear_regression import NormalEquations

#: samples that run through the network at once where nothing is trained
CHUNK = 64
Branch = LinearRegressorExit | BagOfFeaturesExit


@dataclass(frozen=True)
class FittedExit:
    """How far an exit is from the last layer on the samples it was fitted on.

    All three are the squared distance of the two embeddings, summed over the embedding and averaged over
    samples.

    Args:
        closed_form: with codebook from k-means and regressor in closed form.
        tuned: behind gradient descent; None where there was none.
        loss: at the end, the regressor fitted once more.
    """

    closed_form: float
    tuned: float | None
    loss: float


def fit_embedding_exits(
    net: MultiExit,
    inputs: Any,
    *,
    exits: Sequence[str] | None = None,
    iterations: int = 2000,
    batch: int = 32,
    lr: float = 1e-3,
    regressor_lr: float = 1e-4,
    ridge: float = 1e-6,
    local: int = 100_000,
    normalise: bool = False,
    frontend: FrontEnd | None = None,
    seed: int = 0,
) -> dict[str, FittedExit]:
    """Fit the network's exits ``linear-regressor`` and ``bag-of-features`` to its last layer.

    A linear regressor is fitted in closed form. A bag of features gets its codewords by k-means on local
    features of its map, its width as the mean distance of features and codewords, and its regressor in closed
    form: the paper's BoF. With ``iterations`` codewords, width and regressor are then trained by Adam on the
    squared distance to the last layer, and the regressor is fitted in closed form once more: the paper's
    proposed method. The network itself stays as it is, bit for bit.

    Args:
        net: its exits are changed in place.
        inputs: of the network, batch first, an array, a tensor or several by name; the paper takes 16,000
            images. Pixels, uint8, where ``frontend`` standardises them.
        exits: the exits to fit; all of the two kinds by default.
        iterations: of Adam; 0 for none.
        batch: samples of one iteration.
        lr: of codewords and widths.
        regressor_lr: of regressors.
        ridge: of the closed form, as a share of the mean diagonal of the normal equations; codewords that
            nothing belongs to leave these without a single solution.
        local: features that k-means is given, drawn evenly from all inputs.
        normalise: aim at the last layer's embeddings scaled to length 1.
        frontend: what made pixels, see `sentio.core.features.finished`.
        seed: of all that is drawn.

    Raises:
        ConfigError: an option out of range; nothing to fit; an exit of another kind or width.
        UnknownNameError: no such exit.
        InputError: too few inputs for the codewords, or embeddings that are not finite.
        MissingExtraError: scikit-learn, which has the k-means, is not installed.
    """
    _check(iterations, batch, lr, regressor_lr, ridge, local)
    branches = _branches(net, exits)
    specs = {spec.name: spec for spec in net.specs if spec.name in branches}
    source = _Source(net, inputs, frontend, {name: spec.reads[0] for name, spec in specs.items()})
    generator = torch.Generator().manual_seed(seed)
    with evaluating(net):
        targets, drawn = _first_pass(source, branches, local, normalise, generator)
        _check_widths(specs, targets.shape[1])
        for name, features in drawn.items():
            _init_bag(name, branches[name].bag, features, seed)
        first = _solve(_equations(source, branches, targets), branches, ridge)
        bags = {name: branch for name, branch in branches.items() if isinstance(branch, BagOfFeaturesExit)}
        if not iterations or not bags:
            return {name: FittedExit(loss, None, loss) for name, loss in first.items()}
        _descend(source, bags, targets, iterations, batch, lr, regressor_lr, generator)
        equations = _equations(source, bags, targets)
        tuned = {name: equations[name].loss(_weights(branch)) for name, branch in bags.items()}
        last = _solve(equations, bags, ridge)
    return {name: FittedExit(loss, tuned.get(name), last.get(name, loss)) for name, loss in first.items()}


class _Source:
    """The network's inputs, and what its boundaries hold for some of them.

    Args:
        reads: exit -> what it reads.
    """

    def __init__(
        self, net: MultiExit, inputs: Any, frontend: FrontEnd | None, reads: Mapping[str, Read]
    ) -> None:
        self.net, self.frontend, self.reads = net, frontend, reads
        self.inputs = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
        lengths = {len(part) for part in self.inputs.values()}
        if len(lengths) != 1 or not min(lengths):
            raise InputError(
                "Exits are fitted to inputs of equal number, at least one; got "
                f"{', '.join(map(str, sorted(lengths))) or 'none'}"
            )
        self.length = lengths.pop()
        self.device = next((p.device for p in net.parameters()), torch.device("cpu"))

    def run(self, rows: NDArray[np.int64] | slice, *, final: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The last layer's output where it is asked for, and for each exit the tensor that it reads."""
        found = {name: self._tensor(part[rows]) for name, part in self.inputs.items()}
        x = found[""] if found.keys() == {""} else found
        with torch.no_grad():
            outputs, taps = self.net.tapped(x, (FINAL,) if final else (), set(self.reads.values()))
        return outputs.get(FINAL), {name: taps[read] for name, read in self.reads.items()}

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.length, CHUNK):
            yield slice(start, min(start + CHUNK, self.length))

    def _tensor(self, part: Any) -> Tensor:
        if isinstance(part, np.ndarray):
            part = torch.from_numpy(np.ascontiguousarray(finished(self.frontend, part)))
        tensor: Tensor = part.to(self.device)
        return tensor


def _first_pass(
    source: _Source, branches: Mapping[str, Branch], local: int, normalise: bool, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The last layer's embeddings ``(sample, dimension)``, and local features for each codebook."""
    each = ceil(local / source.length)
    targets: list[Tensor] = []
    drawn: dict[str, list[Tensor]] = {
        name: [] for name, branch in branches.items() if isinstance(branch, BagOfFeaturesExit)
    }
    for rows in source.chunks():
        final, taps = source.run(rows, final=True)
        assert final is not None
        targets.append(final)
        for name, parts in drawn.items():
            features = local_features(taps[name]).cpu()
            order = torch.rand(features.shape[:2], generator=generator).argsort(1)[:, :each]
            parts.append(features.gather(1, order[..., None].expand(-1, -1, features.shape[2])).flatten(0, 1))
    embeddings = torch.cat(targets)
    if embeddings.ndim != 2:
        raise ConfigError(
            "Embeddings are vectors, and the network's last stage gives outputs of shape "
            f"{tuple(embeddings.shape[1:])} for a sample"
        )
    if not torch.isfinite(embeddings).all():
        raise InputError("The network gives NaN or infinite embeddings; its weights or inputs are damaged")
    every = {name: torch.cat(parts) for name, parts in drawn.items()}
    chosen = {
        name: found[torch.randperm(len(found), generator=generator)[:local]] for name, found in every.items()
    }
    return normalize(embeddings) if normalise else embeddings, chosen


def _init_bag(name: str, bag: BagOfFeatures, features: Tensor, seed: int) -> None:
    """Codewords by k-means, the width as the mean distance to them."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn, which has the k-means of codebooks,", "train") from error
    count = len(bag.codewords)
    if len(features) < count:
        raise InputError(
            f"Exit {name!r} has {count} codewords, and the inputs have {len(features)} local features there; "
            "give more inputs or fewer codewords"
        )
    found = MiniBatchKMeans(count, random_state=seed, n_init=1).fit(features.float().numpy())
    centres = torch.from_numpy(found.cluster_centers_).to(features)
    mean = sum(torch.cdist(part, centres).sum().item() for part in features.split(4096))
    width = mean / (len(features) * count)
    if not width > 0:
        raise InputError(f"All features that exit {name!r} reads are alike; give it inputs that differ")
    with torch.no_grad():
        bag.codewords.copy_(centres)
        bag.log_sigma.fill_(float(np.log(width)))


def _equations(
    source: _Source, branches: Mapping[str, Branch], targets: Tensor
) -> dict[str, NormalEquations]:
    """For each exit what least squares needs to know of all inputs."""
    found = {name: NormalEquations() for name in branches}
    for rows in source.chunks():
        _, taps = source.run(rows, final=False)
        with torch.no_grad():
            for name, branch in branches.items():
                features = branch.features(taps[name])
                if branch.regressor.bias is not None:
                    features = pad(features, (0, 1), value=1.0)
                found[name].add(features, targets[rows])
    return found


def _weights(branch: Branch) -> Tensor:
    """Of the regressor, ``(feature, dimension)``, its bias as the last row."""
    weight, bias = branch.regressor.weight.detach(), branch.regressor.bias
    return weight.T if bias is None else torch.cat([weight.T, bias.detach()[None]])


def _solve(
    equations: Mapping[str, NormalEquations], branches: Mapping[str, Branch], ridge: float
) -> dict[str, float]:
    """Regressors by least squares, and the loss of each."""
    for name, branch in branches.items():
        weights, layer = equations[name].solve(ridge), branch.regressor
        with torch.no_grad():
            layer.weight.copy_(weights[: layer.in_features].T)
            if layer.bias is not None:
                layer.bias.copy_(weights[-1])
    return {name: equations[name].loss(_weights(branch)) for name, branch in branches.items()}


def _descend(
    source: _Source,
    branches: Mapping[str, BagOfFeaturesExit],
    targets: Tensor,
    iterations: int,
    batch: int,
    lr: float,
    regressor_lr: float,
    generator: torch.Generator,
) -> None:
    """Adam on the sum of the exits' losses; they share no parameters, so each is trained as if alone."""
    bags = [parameter for branch in branches.values() for parameter in branch.bag.parameters()]
    regressors = [parameter for branch in branches.values() for parameter in branch.regressor.parameters()]
    for parameter in [*bags, *regressors]:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam([{"params": bags, "lr": lr}, {"params": regressors, "lr": regressor_lr}])
    loss = torch.zeros(())
    for rows in _batches(source.length, batch, iterations, generator):
        _, taps = source.run(rows, final=False)
        wanted = targets[torch.from_numpy(rows).to(targets.device)]
        with torch.enable_grad():
            apart = [branch(taps[name]) - wanted for name, branch in branches.items()]
            loss = torch.stack([each.square().sum(1).mean() for each in apart]).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    if not isfinite(loss.item()):
        raise ConfigError("Fitting the exits diverged; give a smaller lr")


def _batches(length: int, batch: int, count: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """So many batches; each sample once before any comes again."""
    size = min(batch, length)
    order: list[Tensor] = []
    for _ in range(count):
        if not order:
            whole = torch.randperm(length, generator=generator).split(size)
            order = [part for part in whole if len(part) == size]
        yield order.pop().numpy()


def _branches(net: MultiExit, exits: Sequence[str] | None) -> dict[str, Branch]:
    """The modules to fit, by exit."""
    found: dict[str, Branch] = {}
    for name in net.exit_names[:-1] if exits is None else exits:
        if name not in net.exit_names[:-1]:
            raise UnknownNameError("exit", name, net.exit_names[:-1])
        branch = net.branch(name)
        if isinstance(branch, Branch):
            found[name] = branch
        elif exits is not None:
            raise ConfigError(
                f"Exit {name!r} is no 'linear-regressor' and no 'bag-of-features', so it cannot be fitted to "
                "the last layer; leave it out"
            )
    if not found:
        raise ConfigError(
            "The network has no exit to fit; add some of kind 'linear-regressor' or 'bag-of-features'"
        )
    return found


def _check_widths(specs: Mapping[str, ExitSpec], dimension: int) -> None:
    for name, spec in specs.items():
        if spec.outputs != dimension:
            raise ConfigError(
                f"Exit {name!r} gives {spec.outputs} values and the last layer {dimension}; add it with "
                f"classes={dimension}"
            )


def _check(iterations: int, batch: int, lr: float, regressor_lr: float, ridge: float, local: int) -> None:
    for name, number, least in (("iterations", iterations, 0), ("batch", batch, 1), ("local", local, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ConfigError(f"Fitting exits takes {name} as a whole number from {least} up, got {number!r}")
    for name, value in (("lr", lr), ("regressor_lr", regressor_lr)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"Fitting exits takes {name} as a number above 0, got {value!r}")
    if not 0 <= ridge < float("inf"):
        raise ConfigError(f"Fitting exits takes ridge as a number from 0 up, got {ridge!r}")
