"""Which clips a recipe trains on, calibrates on and is tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sentio.core.errors import ConfigError
from sentio.data.dataset import Dataset, choose_protocol, listed
from sentio.data.splits import (
    GROUP_NAMES,
    VALIDATION_SHARE,
    Split,
    hold_out,
    natural,
    originals,
    splits,
    with_copies,
)
from sentio.training.sections import DataSection

#: values of ``data.validation`` that hold whole folds or speakers out
GROUPS = ("group", "each-group")


def rounds(dataset: Dataset, section: DataSection, seed: int) -> tuple[Split, list[Split]]:
    """What a recipe trains on in the end, and the splits by which it is calibrated, one after the other.

    Both are the split of `divide`, but with ``validation: each-group``: then the parts hold each fold or
    speaker out that is not tested on, and all of these are trained on in the end. Where there is only one, it
    is as with ``group``.

    Raises:
        ConfigError, InputError: as `divide`.
    """
    own = originals(dataset)
    if len(own) < len(dataset):
        whole, parts = rounds(dataset.subset(own), section, seed)
        joined = with_copies(dataset, own, whole)
        return joined, [replace(with_copies(dataset, own, part), notes=joined.notes) for part in parts]
    split = divide(dataset, section, seed)
    pool = np.sort(np.concatenate([split.train, split.validation]))
    groups = np.array([dataset.items[place].group for place in pool])
    names = sorted(set(groups.tolist()), key=natural) if section.validation == "each-group" else []
    if len(names) < 2:
        return split, [split]
    # What that one split lacks in training or validation, another one has.
    notes = [note for note in split.notes if "training part" not in note and "validation part" not in note]
    word = GROUP_NAMES[choose_protocol(section.protocol or dataset.protocol, dataset.protocols, dataset.root)]
    labels = dataset.targets[pool]
    for name in names:
        if len(alone := np.setdiff1d(labels[groups == name], labels[groups != name])):
            notes.append(
                f"Only {word} {name} has clips of: {listed([dataset.labels[label] for label in alone])}; "
                "the network by whose answers its thresholds were fitted has not heard them."
            )
    whole = Split(split.name, pool, pool, split.test, tuple(notes))
    return whole, [
        replace(whole, train=pool[groups != name], validation=pool[groups == name]) for name in names
    ]


def divide(dataset: Dataset, section: DataSection, seed: int) -> Split:
    """The split that a recipe asks for.

    With ``validation`` a share, or ``split: all``, that share of whole recordings is held out of everything
    that is not tested on. With ``validation: group`` a whole fold or speaker is, the protocol's own or, of
    ``all``, the first; with ``each-group`` too, and `rounds` gives the others. Augmented copies train with
    their originals, see `sentio.data.splits.with_copies`.

    Raises:
        ConfigError: there is no such split.
        InputError: the data cannot be divided.
    """
    own = originals(dataset)
    if len(own) < len(dataset):
        return with_copies(dataset, own, divide(dataset.subset(own), section, seed))
    if section.split == "all":
        protocol = choose_protocol(section.protocol or dataset.protocol, dataset.protocols, dataset.root)
        nothing = np.zeros(0, dtype=np.intp)
        if section.validation in GROUPS:
            _check_groups(protocol, dataset)
            first = splits(dataset, protocol, seed)[0]
            return Split("all", np.sort(np.concatenate([first.train, first.validation])), first.test, nothing)
        chosen = Split("all", np.arange(len(dataset)), nothing, nothing)
    else:
        found = splits(dataset, section.protocol, seed)
        if section.split >= len(found):
            raise ConfigError(
                f"{dataset.root} has {len(found)} splits under protocol "
                f"{section.protocol or dataset.protocol!r}; choose 0 to {len(found) - 1}, or all"
            )
        chosen = found[section.split]
        if section.validation in GROUPS:
            _check_groups(section.protocol or dataset.protocol, dataset)
        if section.validation in ("protocol", *GROUPS):
            return chosen
    share = VALIDATION_SHARE if section.validation == "protocol" else section.validation
    pool = np.sort(np.concatenate([chosen.train, chosen.validation]))
    names = [dataset.items[index].details.get("recording", dataset.items[index].name) for index in pool]
    _, units = np.unique(names, return_inverse=True)
    held = hold_out(dataset.targets[pool], units, float(share), np.random.default_rng(seed))
    # What the protocol's own validation part lacked no longer holds.
    notes = tuple(note for note in chosen.notes if "validation" not in note)
    return Split(chosen.name, pool[~held], pool[held], chosen.test, notes)


def _check_groups(protocol: str, dataset: Dataset) -> None:
    if protocol not in GROUP_NAMES:
        raise ConfigError(
            f"Validation by group leaves a fold or a speaker out, but {dataset.root} is divided by "
            f"{protocol!r}; set data.validation to a share, or name another protocol"
        )
