"""Opens labelled data: `open_data` recognises how a folder, a table or an archive is laid out."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from sentio.core.errors import ConfigError, InputError, UnknownNameError
from sentio.data.archive import unpack
from sentio.data.audioset import is_audioset, read_audioset
from sentio.data.cifar import is_cifar, read_cifar
from sentio.data.crowd_sets import is_crowds, read_crowds
from sentio.data.dataset import Dataset, Item, choose_protocol, clean_label, listed, make_dataset, short_name
from sentio.data.idx import is_idx, read_idx
from sentio.data.kinetics import is_kinetics, read_kinetics
from sentio.data.media import ignored_note, is_media, listing
from sentio.data.ntu import is_ntu, read_ntu
from sentio.data.parts import is_parts, read_parts
from sentio.data.speech_commands import is_speech_commands, read_speech_commands
from sentio.data.table import read_table
from sentio.data.tau import is_tau, read_tau
from sentio.data.urbansound8k import is_urbansound8k, read_urbansound8k

FSDD_NAME = re.compile(r"(\d)_([A-Za-z][A-Za-z0-9-]*)_(\d+)\.wav")
#: public data sets with a layout of their own, each with what knows it again
PUBLIC = (
    (is_crowds, read_crowds),
    (is_ntu, read_ntu),
    (is_urbansound8k, read_urbansound8k),
    (is_tau, read_tau),
    (is_speech_commands, read_speech_commands),
    (is_kinetics, read_kinetics),
    (is_cifar, read_cifar),
    (is_idx, read_idx),
    (is_parts, read_parts),
)
LAYOUTS = (
    "put the files of each class in a folder named after the class, "
    "or add a meta.csv with columns 'filename' and 'label'"
)


def open_data(
    path: str | PathLike[str], *, protocol: str | None = None, labels: Sequence[str] | None = None
) -> Dataset:
    """Labelled files from a folder, a CSV or a zip; see ``docs/data.md`` for the layouts.

    Args:
        path: a folder per class, a folder with ``meta.csv`` or ``meta/esc50.csv``, such a CSV itself, the
            Free Spoken Digit Dataset, UrbanSound8K, TAU Urban Acoustic Scenes Mobile, Speech Commands,
            Kinetics, NTU RGB+D's skeletons, clips with manifests as AudioSet's, CIFAR-10 and -100 in their
            binary or Python version, Fashion-MNIST, a folder per part and class, or a zip of any of these.
            Or crowds: a part of ShanghaiTech, DISCO, a folder with ``crowds.csv`` and ``heads.csv``.
        protocol: how the data will be divided, one of the data set's ``protocols``; its default if None.
        labels: keep these classes only; all if None. Of AudioSet's clips, which carry several labels, those
            are kept that carry exactly one of them.

    Raises:
        InputError: the data cannot be used as it is; one sentence that says why and what to do.
        ConfigError: the data has no such protocol, or fewer than two labels are kept.
        UnknownNameError: the data has no such label.
    """
    if labels is not None and len(set(labels)) < 2:
        raise ConfigError(f"A classifier needs at least two labels, got {', '.join(labels) or 'none'}")
    shown = Path(path)
    location = shown.expanduser().absolute()
    try:
        if location.is_dir():
            return _read_folder(location, location if shown.name in ("", "..") else shown, protocol, labels)
        if not location.exists():
            raise InputError(f"There is no folder or file {shown}; check the path")
        if location.suffix.lower() == ".csv":
            return _only(read_table(location, shown, shown, protocol), labels)
        if location.suffix.lower() == ".zip" or zipfile.is_zipfile(location):
            return _read_zip(location, shown, protocol, labels)
    except OSError as error:
        raise InputError(
            f"Cannot read {error.filename or shown}: {error.strerror or error}; check its permissions"
        ) from error
    raise InputError(f"{shown} is neither a folder nor a CSV nor a zip; {LAYOUTS}")


def _only(dataset: Dataset, labels: Sequence[str] | None) -> Dataset:
    """The items of some classes, which get new numbers."""
    if labels is None:
        return dataset
    unknown = [label for label in labels if label not in dataset.labels]
    if unknown:
        raise UnknownNameError(f"label of {dataset.root},", unknown[0], dataset.labels)
    kept = tuple(item for item in dataset.items if item.label in labels)
    return replace(dataset, items=kept, labels=tuple(sorted(set(labels))))


def _read_folder(folder: Path, shown: Path, protocol: str | None, labels: Sequence[str] | None) -> Dataset:
    if is_audioset(folder):
        return read_audioset(folder, shown, protocol, labels)
    return _only(_read_layout(folder, shown, protocol), labels)


def _read_layout(folder: Path, shown: Path, protocol: str | None) -> Dataset:
    for knows, read in PUBLIC:
        if knows(folder):
            return read(folder, shown, protocol)
    for inner in (Path("meta.csv"), Path("meta", "esc50.csv")):
        if (folder / inner).is_file():
            return read_table(folder / inner, shown / inner, shown, protocol)
    for place in (folder, folder / "recordings"):
        if _is_fsdd(place):
            return _read_fsdd(place, shown, protocol)
    return _read_classes(folder, shown, protocol)


def _read_classes(folder: Path, shown: Path, protocol: str | None) -> Dataset:
    """A folder per class, the files directly inside."""
    folders, files = listing(folder)
    items: list[Item] = []
    empty, nested, others = [], [], [file.name for file in files if not is_media(file.name)]
    for sub in folders:
        deeper, inside = listing(sub)
        media = [file for file in inside if is_media(file.name)]
        # A class of tables alone: landmarks, a row for each frame.
        media = media or [file for file in inside if file.suffix.lower() == ".csv"]
        taken = set(media)
        others += [file.name for file in inside if file not in taken]
        nested += [f"{sub.name}/{path.name}" for path in deeper]
        if not media:
            empty.append(sub.name)
        items += [Item(f"{sub.name}/{file.name}", file, clean_label(sub.name)) for file in media]
    direct = [file.name for file in files if is_media(file.name)]
    if not items:
        if direct:
            raise InputError(
                f"{shown} holds files directly inside and no class folders "
                f"({len(direct)}: {listed(direct, 2)}); {LAYOUTS}"
            )
        if nested:
            raise InputError(
                f"No folder in {shown} holds sounds or images directly (looked in: {listed(empty)}); "
                f"if the class folders lie one level deeper, give that folder, e.g. {shown / empty[0]}"
            )
        if empty:
            raise InputError(f"The folders in {shown} hold no sounds or images ({listed(empty)}); {LAYOUTS}")
        raise InputError(f"{shown} is empty or holds no sounds or images; {LAYOUTS}")
    notes = ignored_note(others)
    if direct:
        notes.append(f"Ignored media files outside the class folders ({len(direct)}): {listed(direct)}.")
    if nested:
        notes.append(f"Ignored folders inside class folders ({len(nested)}): {listed(nested)}.")
    if empty:
        notes.append(f"Ignored folders without sounds or images ({len(empty)}): {listed(empty)}.")
    protocols = ("random",)
    chosen = choose_protocol(protocol, protocols, shown)
    return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes)


def _is_fsdd(folder: Path) -> bool:
    return folder.is_dir() and any(FSDD_NAME.fullmatch(file.name) for file in listing(folder)[1])


def _read_fsdd(folder: Path, shown: Path, protocol: str | None) -> Dataset:
    """The Free Spoken Digit Dataset (Z. Jackson et al.): ``digit_speaker_index.wav``, 8 kHz.

    The label is the digit, the group the speaker; ``details["index"]`` is the take.
    """
    found = []
    others = []
    for file in listing(folder)[1]:
        match = FSDD_NAME.fullmatch(file.name)
        if match is None:
            others.append(file.name)
            continue
        digit, speaker, index = match.groups()
        found.append((digit, speaker, int(index), file))
    items = [
        Item(file.name, file, digit, speaker, {"index": str(index)})
        for digit, speaker, index, file in sorted(found)
    ]
    protocols = ("index", "speaker")
    chosen = choose_protocol(protocol, protocols, shown)
    notes = [f"Ignored files not named digit_speaker_index.wav ({len(others)}): {listed(others)}."]
    return make_dataset(shown, items, protocols=protocols, protocol=chosen, notes=notes if others else ())


def _read_zip(path: Path, shown: Path, protocol: str | None, labels: Sequence[str] | None) -> Dataset:
    unpacked = unpack(path, shown)
    folder = unpacked.folder
    folders, files = listing(folder)
    # A lone folder of training files is a part, not a wrapping.
    if len(folders) == 1 and not files and not is_parts(folder) and _is_laid_out(folders[0]):
        folder = folders[0]
    dataset = _read_folder(folder, shown / folder.relative_to(unpacked.folder), protocol, labels)
    return replace(
        dataset,
        name=short_name(shown),
        root=shown,
        notes=(*unpacked.notes, *dataset.notes),
        keep=(unpacked, dataset.keep),
    )


def _is_laid_out(folder: Path) -> bool:
    """Whether a folder is itself a data set, so that it only wraps what an archive holds."""
    if (folder / "meta.csv").is_file() or (folder / "meta" / "esc50.csv").is_file():
        return True
    return (
        any(knows(folder) for knows, _ in PUBLIC)
        or is_audioset(folder)
        or _is_fsdd(folder)
        or _is_fsdd(folder / "recordings")
        or any(is_media(file.name) for sub in listing(folder)[0] for file in listing(sub)[1])
    )
