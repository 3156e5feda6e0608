"""Divides data into training, validation and test parts that share no recording or speaker.

A threshold or a temperature is fitted on the validation part, never on the test part; so every split has
both where the data allows it.

Augmented copies that are part of the data (`sentio.data.augmenting` writes such) train along with their
originals and are never validated or tested on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ConfigError, InputError
from sentio.data.dataset import Dataset, choose_protocol, listed

Indices = NDArray[np.intp]

#: of all clips the share held out for the test, and of the rest the share for validation
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
#: FSDD's own rule: recordings 0 to 4 of each digit and speaker are the test part
FSDD_TEST_INDICES = range(5)
#: what a group is called under a protocol that leaves one out
GROUP_NAMES = {"folds": "fold", "esc10": "fold", "urbansound8k": "fold", "speaker": "speaker"}
#: protocols that follow the parts that the data set's authors published
PUBLISHED = frozenset({"official", "words", "commands", "x-sub", "x-view"})
#: protocols of one data set that differ in its classes, not in its parts
OTHER_CLASSES = {"words", "commands"}
#: where an item's details name what it is an augmented copy of, several originals with the separator between
AUGMENTED_FROM, SEPARATOR = "augmented_from", "|"


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set.

    Args:
        name: what is special about it, e.g. ``fold 1``, the fold it is tested on.
        train, validation, test: places in ``dataset.items``, each sorted; together they cover it but for
            augmented copies of what is not trained on. ``test`` is empty where the data set's own test part
            is absent.
        notes: what the data did not allow, one sentence each.
    """

    name: str
    train: Indices
    validation: Indices
    test: Indices
    notes: tuple[str, ...] = ()


def splits(dataset: Dataset, protocol: str | None = None, seed: int = 0) -> list[Split]:
    """The splits of a protocol, the same on every machine for the same seed.

    ``folds``, ``esc10`` and ``speaker`` give one split per group, tested on it and validated on the next,
    ``urbansound8k`` one per fold, validated on the one before; all others give one split.

    Args:
        dataset: the data.
        protocol: one of ``dataset.protocols``; the one it was opened with if None.
        seed: for the random choices.

    Raises:
        ConfigError: the data has no such protocol, or was opened with the classes of another one; the seed is
            below 0.
        InputError: there is too little data, or too few groups, to divide.
    """
    own = originals(dataset)
    if len(own) < len(dataset):
        return [with_copies(dataset, own, split) for split in splits(dataset.subset(own), protocol, seed)]
    chosen = choose_protocol(protocol or dataset.protocol, dataset.protocols, dataset.root)
    if chosen != dataset.protocol and {chosen, dataset.protocol} == OTHER_CLASSES:
        raise ConfigError(
            f"{dataset.root} was opened with protocol {dataset.protocol!r}, which has other classes than "
            f"{chosen!r}; open it with protocol={chosen!r}"
        )
    if chosen in GROUP_NAMES:
        return _leave_one_group_out(dataset, GROUP_NAMES[chosen], -1 if chosen == "urbansound8k" else 1, seed)
    if chosen in PUBLISHED:
        return [_published(dataset, chosen, seed)]
    return [_by_index(dataset) if chosen == "index" else _random(dataset, seed)]


def originals(dataset: Dataset) -> Indices:
    """The places of all items but augmented copies of others."""
    return np.flatnonzero([not item.details.get(AUGMENTED_FROM) for item in dataset.items])


def with_copies(dataset: Dataset, own: Indices, split: Split) -> Split:
    """A split of the originals as one of all items: a copy trains if all that it is made of does.

    Args:
        dataset: originals and copies.
        own: places of the originals, see `originals`.
        split: of ``dataset.subset(own)``.

    Raises:
        InputError: a copy's original is not in the data, so nobody knows what it may be trained with.
    """
    known = {dataset.items[place].name for place in own}
    trained = {dataset.items[place].name for place in own[split.train]}
    joined, left = [], 0
    for place in np.setdiff1d(np.arange(len(dataset)), own):
        item = dataset.items[place]
        named = item.details[AUGMENTED_FROM]
        sources = [named] if named in known else named.split(SEPARATOR)
        lost = [name for name in sources if name not in known]
        if lost:
            raise InputError(
                f"{dataset.root} says that {item.name} is a copy of {lost[0]!r}, which it does not hold; add "
                "the original or take the copy out"
            )
        if trained.issuperset(sources):
            joined.append(place)
        else:
            left += 1
    notes = list(split.notes)
    if left:
        notes.append(f"Augmented copies of clips outside the training part are left out ({left}).")
    train = np.sort(np.concatenate([own[split.train], np.array(joined, dtype=np.intp)]))
    return Split(split.name, train, own[split.validation], own[split.test], tuple(notes))


def hold_out(
    targets: NDArray[np.int64], units: NDArray[np.int64], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose whole units at random so that about ``share`` of every class is held out.

    Units are taken in random order while that brings the classes nearer to their share. A class that two
    units hold then appears on both sides wherever a choice of whole units allows it; a class that one unit
    holds is never held out.

    Args:
        targets: class numbers, shape ``(n,)``.
        units: the unit (recording, speaker) of each clip, shape ``(n,)``.
        share: between 0 and 1.
        generator: source of the random order.

    Returns:
        Which clips are held out, shape ``(n,)``.
    """
    _, unit = np.unique(units, return_inverse=True)
    classes, label = np.unique(targets, return_inverse=True)
    counts = np.zeros((unit.max(initial=-1) + 1, len(classes)), dtype=np.int64)
    np.add.at(counts, (unit, label), 1)
    total = counts.sum(axis=0)
    wanted = np.clip(np.floor(total * share + 0.5), 1, np.maximum(total - 1, 1)).astype(np.int64)
    wanted[(counts > 0).sum(axis=0) < 2] = 0
    order = np.argsort(generator.random(len(counts)), kind="stable")

    held = np.zeros_like(total)
    chosen = np.zeros(len(counts), dtype=bool)

    def distance(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        result: NDArray[np.int64] = np.abs(rows - wanted).sum(axis=-1)
        return result

    for candidate in order:
        after = held + counts[candidate]
        if distance(after) < distance(held) and (after < total).all():
            held, chosen[candidate] = after, True
    for missing in np.flatnonzero((held == 0) & (wanted > 0)):
        options = order[(counts[order, missing] > 0) & ~chosen[order]]
        options = options[(held + counts[options] < total).all(axis=1)]
        if held[missing] == 0 and len(options):
            best = options[np.argmin(distance(held + counts[options]))]
            held, chosen[best] = held + counts[best], True
    return chosen[unit]


def _leave_one_group_out(dataset: Dataset, word: str, step: int, seed: int) -> list[Split]:
    """Each group tested once, the group ``step`` places on validating."""
    groups = [item.group for item in dataset.items]
    names = sorted({group for group in groups if group is not None}, key=natural)
    if None in groups or len(names) < 2:
        raise InputError(
            f"{dataset.root} has {len(names)} {word}{'' if len(names) == 1 else 's'} and cross-validation "
            f"needs at least 2 that cover every clip; give clips of different recordings different {word}s"
        )
    member = np.array([names.index(group) for group in groups if group is not None])
    found = []
    for tested, name in enumerate(names):
        notes: list[str] = []
        if len(names) > 2:
            held = member == (tested + step) % len(names)
        else:
            held = np.zeros(len(member), dtype=bool)
            # In the order of their names, so that the order of a table's rows changes nothing.
            rest = np.array(sorted(np.flatnonzero(member != tested), key=lambda at: dataset.items[at].name))
            units = np.arange(len(rest))
            held[rest] = hold_out(dataset.targets[rest], units, VALIDATION_SHARE, _generator(seed))
            notes.append(
                f"With 2 {word}s the validation clips come from the training {word}, so figures on them are "
                "too good; the test part is not touched."
            )
        found.append(_split(f"{word} {name}", dataset, member == tested, held, notes))
    return found


def _by_index(dataset: Dataset) -> Split:
    index = np.array([int(item.details["index"]) for item in dataset.items])
    test = np.isin(index, FSDD_TEST_INDICES)
    rest = np.unique(index[~test])
    lowest = rest[: len(FSDD_TEST_INDICES)]
    if len(lowest) == len(rest):
        raise InputError(
            f"{dataset.root} has recordings of {len(rest)} indices beside the test indices 0 to 4, and "
            f"more than {len(FSDD_TEST_INDICES)} are needed to train and validate; use protocol 'speaker'"
        )
    span = f"{lowest[0]} to {lowest[-1]}"
    notes = [] if test.any() else [f"Indices 0 to 4, the test part, are absent; {span} serve as validation."]
    return _split("index", dataset, test, np.isin(index, lowest), notes)


def _published(dataset: Dataset, name: str, seed: int) -> Split:
    """The authors' own parts; where they published no validation part, whole groups of the training part."""
    # Where a data set has several protocols of this kind, a part for each.
    part = np.array([item.details.get(name) or item.details["part"] for item in dataset.items])
    test, validation = part == "test", part == "validation"
    if not (part == "train").any():
        raise InputError(
            f"{dataset.root} holds no clip of the data set's own training part; add its files, or keep "
            "classes that have some"
        )
    if not validation.any():
        rest = np.flatnonzero(~test)
        units = _units(dataset)[rest]
        validation[rest] = hold_out(dataset.targets[rest], units, VALIDATION_SHARE, _generator(seed))
    notes = [] if test.any() else ["The data set's own test part is absent."]
    return _split(name, dataset, test, validation, notes)


def _units(dataset: Dataset) -> NDArray[np.intp]:
    """What is held out whole, numbered by name: a group, or a clip that has none, ``(len(dataset),)``."""
    names = [item.name if item.group is None else f"group {item.group}" for item in dataset.items]
    order = {name: place for place, name in enumerate(sorted(set(names), key=natural))}
    return np.array([order[name] for name in names], dtype=np.intp)


def _random(dataset: Dataset, seed: int) -> Split:
    generator = _generator(seed)
    units = _units(dataset)
    test = hold_out(dataset.targets, units, TEST_SHARE, generator)
    if not test.any():
        raise InputError(
            f"{dataset.root} has no class with two clips that may be parted, so nothing can be held out "
            "for a test; add clips of other recordings"
        )
    rest = np.flatnonzero(~test)
    validation = np.zeros_like(test)
    validation[rest] = hold_out(dataset.targets[rest], units[rest], VALIDATION_SHARE, generator)
    return _split(f"random, seed {seed}", dataset, test, validation, [])


def _split(
    name: str, dataset: Dataset, test: NDArray[np.bool_], validation: NDArray[np.bool_], notes: list[str]
) -> Split:
    train = ~(test | validation)
    present = np.unique(dataset.targets)
    for part, mask in (("training", train), ("validation", validation), ("test", test)):
        absent = [dataset.labels[c] for c in np.setdiff1d(present, dataset.targets[mask])]
        if not mask.any() and part == "validation":
            notes.append("The validation part is empty: there are too few clips to set some aside.")
        elif absent and mask.any():
            notes.append(f"The {part} part has no clip of: {listed(absent)}.")
    return Split(name, np.flatnonzero(train), np.flatnonzero(validation), np.flatnonzero(test), tuple(notes))


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(f"A seed is a whole number from 0, got {seed}")
    # Named, since NumPy's default generator may change.
    return np.random.Generator(np.random.PCG64(seed))


def natural(name: str) -> tuple[bool, int, str]:
    """Sorts fold 10 behind fold 9."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
