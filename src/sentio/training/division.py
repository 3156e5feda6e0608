"""Which clips a recipe trains on, calibrates on and is tested on."""

from __future__ import annotations

import numpy as np

from sentio.core.errors import ConfigError
from sentio.data.dataset import Dataset, choose_protocol
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


def rounds(dataset: Dataset, section: DataSection, seed: int) -> list[Split]:
    """The splits by which a recipe is calibrated, one after the other: that of `divide`, or with
    ``validation: each-group`` one for each fold or speaker that is not tested on, which holds it out.

    Raises:
        ConfigError, InputError: as `divide`.
    """
    own = originals(dataset)
    if len(own) < len(dataset):
        return [with_copies(dataset, own, part) for part in rounds(dataset.subset(own), section, seed)]
    split = divide(dataset, section, seed)
    pool = np.sort(np.concatenate([split.train, split.validation]))
    groups = np.array([dataset.items[place].group for place in pool])
    names = sorted(set(groups.tolist()), key=natural) if section.validation == "each-group" else []
    if len(names) < 2:
        return [split]
    return [
        Split(split.name, pool[groups != name], pool[groups == name], split.test, split.notes)
        for name in names
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
