"""Distillation: every exit of a student learns from a teacher, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from sentio.core.anytime import FINAL
from sentio.core.errors import ConfigError, UnknownNameError
from sentio.core.multi_exit import MultiExit
from sentio.core.registry import register
from sentio.techniques.distillation_logits import LogitTerm, check_temperature, find_form
from sentio.techniques.distillation_objective import Distillation, Term, base_phases
from sentio.techniques.distillation_patchout import SharedPatchout
from sentio.techniques.distillation_teacher import Average, Ensemble
from sentio.techniques.distillation_token import HARD, TokenTerm
from sentio.techniques.distillation_vitkd import FeatureTerm
from sentio.techniques.phases import Phase

#: L2 penalty of a probe that has none of its own
PENALTY = 0.1
#: the student's last exit as the teacher of the others, and all its exits together as the teacher of each
SELF, EXITS = "self", "exits"


@register(
    "technique",
    "distillation",
    paper="Hinton et al. 2015; DeiT, Touvron et al. 2021; ViTKD, Yang et al. 2022; Lee and Lee 2021",
)
def build(
    net: MultiExit,
    /,
    *,
    teacher: Any = None,
    temperature: float = 2.0,
    weight: float | Mapping[str, float] | None = None,
    label_weight: float | None = None,
    form: str = "hinton",
    average: Average = "logits",
    cache: bool = False,
    probe: bool | float = False,
    token: str | None = None,
    features: bool | Mapping[str, Any] = False,
    patchout: Sequence[int] | None = None,
    phases: str | Mapping[str, Any] = "end-to-end",
) -> list[Phase]:
    """Every exit on labels and on a teacher's softened answers about the same batch.

    Exit ``e`` minimises ``w_e * ((1 - weight_e) * l_e + weight_e * tau**2 * KL(teacher || e))``, where
    ``w_e`` and ``l_e`` are its weight and loss in ``phases``.

    Args:
        net: the student.
        teacher: an artifact's path or a shipped model's name, a list of them, or in Python models and
            networks; ``self`` for the student's own last exit, which then learns from labels alone;
            ``exits`` for the mean logits of all its exits that are trained in a phase, each of which learns
            from them (exit ensemble distillation, Lee and Lee, arXiv 2104.00299, 2021, its logits' part).
        temperature: ``tau``.
        weight: of the distillation loss, from 0 to 1, one for all exits or by exit; exits without one learn
            from labels alone. With ``label_weight`` any number from 0 up. By default 0.8, and 0.5 for a
            token that learns ``hard``.
        label_weight: of the loss on labels of exits that are taught; by default what is missing to 1.
        form: see `distillation_loss`.
        average: of several teachers, their ``logits`` or ``probabilities``.
        cache: ask the teacher about every training sample once, before training and without augmentation.
            It may then have a front end of its own.
        probe: true, or an L2 penalty, for a teacher of other classes or of none: a linear probe on its
            embeddings, fitted to the training part, answers in its place (`LinearProbe`). Needs ``cache``.
        token: ``soft`` or ``hard`` where the last stage has a distillation token, which then learns from the
            teacher, and the class token from labels; see `TokenTerm`.
        features: true, or options of `FeatureTerm`, to compare features with the teacher's (ViTKD).
        patchout: (time, frequency) positions of patches that student and teacher both leave out, the same
            in both, drawn for each batch.
        phases: the technique that says what is trained when.

    Raises:
        ArtifactError: no artifact of that name.
        UnknownNameError, ConfigError: an option cannot be.
    """
    find_form(form)
    check_temperature(temperature)
    if weight is None:
        weight = {name: 0.5 if name == FINAL and token == HARD else 0.8 for name in net.exit_names}
    weights = _weights(net, weight, most=1.0 if label_weight is None else float("inf"))
    penalty = _penalty(probe)
    within = teacher if isinstance(teacher, str) and teacher in (SELF, EXITS) else None
    if within is not None:
        if within == SELF:
            weights[FINAL] = 0.0
        _check_within(weights, cache=cache, probe=penalty, token=token, features=features, patchout=patchout)
    if label_weight is not None:
        _check_weight("label_weight", label_weight)
    given = {name: 1.0 - w if label_weight is None else label_weight for name, w in weights.items()}
    label_weights = {name: given[name] if weights[name] > 0 else 1.0 for name in weights}
    if penalty is not None and not cache:
        raise ConfigError("A probe is fitted to what the teacher says before training; give cache: true too")
    teachers = None if within is not None else Ensemble(teacher, average, itself=cache, probe=penalty)
    shared = None if patchout is None else SharedPatchout(patchout)

    def objective() -> Distillation:
        terms: list[Term] = [
            LogitTerm(
                weights,
                label_weights,
                temperature,
                form,
                within=within,
                leave=() if token is None else (FINAL,),
            )
        ]
        if token is not None:
            terms.append(TokenTerm(net, token, weights[FINAL], label_weights[FINAL], temperature, form))
        if features:
            terms.append(_feature_term(features))
        return Distillation(teachers, terms, temperature=temperature, cache=cache, patchout=shared)

    # What is trained beside the network belongs to one phase.
    return [replace(phase, objective=objective()) for phase in base_phases(net, phases)]


def _check_within(weights: dict[str, float], *, cache: bool, **options: Any) -> None:
    """A network can teach itself, its exits having these weights."""
    if len(weights) < 2 or not any(weights.values()):
        raise ConfigError(
            "The last exit has no other exit to teach; add exits, give them a weight, or name a teacher"
        )
    if cache:
        raise ConfigError("A network that teaches itself changes as it learns; take cache out")
    used = [name for name, value in options.items() if value]
    if used:
        raise ConfigError(f"Option {used[0]!r} needs another network as teacher; name one, or take it out")


def _penalty(probe: Any) -> float | None:
    """Of a probe; None for none."""
    if isinstance(probe, bool):
        return PENALTY if probe else None
    if not isinstance(probe, int | float) or not 0 < probe < float("inf"):
        raise ConfigError(f"probe is true, or the probe's L2 penalty, a number above 0; got {probe!r}")
    return float(probe)


def _feature_term(features: bool | Mapping[str, Any]) -> FeatureTerm:
    options = {} if features is True else features
    known = tuple(signature(FeatureTerm).parameters)
    if not isinstance(options, Mapping):
        raise ConfigError(f"features is true or takes options {', '.join(known)}; got {features!r}")
    for name in options:
        if name not in known:
            raise UnknownNameError("option of features", str(name), known)
    return FeatureTerm(**options)


def _weights(net: MultiExit, weight: float | Mapping[str, float], most: float) -> dict[str, float]:
    """A weight for every exit, ``final`` included; 0 for those that a mapping does not name."""
    names = net.exit_names
    given = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(names, weight)
    for name, value in given.items():
        if name not in names:
            raise UnknownNameError("exit", name, names)
        _check_weight(f"The distillation loss of exit {name!r}", value, most)
    return {name: float(given.get(name, 0.0)) for name in names}


def _check_weight(what: str, value: Any, most: float = float("inf")) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not 0 <= value <= most or value == float("inf"):
        upto = f"to {most:g}, or more where label_weight is given" if most < float("inf") else "up"
        raise ConfigError(f"{what} has weight {value!r}; it takes a number from 0 {upto}")
