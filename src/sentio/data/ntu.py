"""Reads NTU RGB+D: skeleton files whose names say setup, camera, performer, repetition and action.

A. Shahroudy, J. Liu, T.-T. Ng, G. Wang, *NTU RGB+D: A Large Scale Dataset for 3D Human Activity Analysis*,
CVPR 2016.
"""

from __future__ import annotations

import re
from pathlib import Path

from sentio.core.errors import InputError
from sentio.data.dataset import Dataset, Item, choose_protocol, listed, make_dataset
from sentio.data.media import listing

NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})\.skeleton", re.IGNORECASE)
#: a list of samples whose skeletons are incomplete, a name on each line, as published beside the data
MISSING = re.compile(r".*missing_skeletons?.*\.txt", re.IGNORECASE)
#: performers of the training part of cross-subject
SUBJECTS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
#: cameras of the training part of cross-view
CAMERAS = frozenset({2, 3})
PROTOCOLS = ("x-sub", "x-view")


def is_ntu(folder: Path) -> bool:
    """Whether a folder directly holds files that are named like this."""
    return folder.is_dir() and any(NTU_NAME.fullmatch(file.name) for file in listing(folder)[1])


def read_ntu(folder: Path, shown: Path, protocol: str | None = None) -> Dataset:
    """The skeleton files, with the published parts.

    The label is the action, ``A001`` to ``A060``; the group the performer, so that validation holds out
    people. ``details``: ``setup``, ``camera``, ``performer``, ``repetition``, the part (train or test) by
    protocol, and ``recording``, the performer again, which is what a recipe's validation share keeps whole.

    Args:
        folder: with files ``SsssCcccPpppRrrrAaaa.skeleton``.
        shown: what messages call it.
        protocol: ``x-sub`` trains on half of the performers, ``x-view`` on cameras 2 and 3.

    Raises:
        InputError: nothing is left, or one part is empty.
        ConfigError: no such protocol.
    """
    chosen = choose_protocol(protocol, PROTOCOLS, shown)
    items: list[Item] = []
    others: list[str] = []
    files = listing(folder)[1]
    incomplete = _incomplete(files)
    left_out = []
    for file in files:
        match = NTU_NAME.fullmatch(file.name)
        if match is None:
            if not MISSING.fullmatch(file.name):
                others.append(file.name)
            continue
        if file.stem.upper() in incomplete:
            left_out.append(file.name)
            continue
        setup, camera, performer, repetition, action = match.groups()
        details = {
            "setup": setup,
            "camera": camera,
            "performer": performer,
            "recording": performer,
            "repetition": repetition,
            "x-sub": "train" if int(performer) in SUBJECTS else "test",
            "x-view": "train" if int(camera) in CAMERAS else "test",
        }
        items.append(Item(file.name, file, f"A{action}", performer, details))
    if not items:
        raise InputError(f"{shown} holds no skeletons but those listed as missing; take that list away")
    notes = [f"Ignored files not named like NTU RGB+D's ({len(others)}): {listed(others)}."] if others else []
    if left_out:
        notes.append(f"Left out skeletons listed as missing ({len(left_out)}): {listed(left_out)}.")
    return make_dataset(shown, items, protocols=PROTOCOLS, protocol=chosen, notes=notes)


def _incomplete(files: list[Path]) -> set[str]:
    """Names, without their ending, in lists of missing skeletons."""
    found: set[str] = set()
    for file in files:
        if MISSING.fullmatch(file.name):
            found |= {line.strip().upper() for line in file.read_text("utf-8", "replace").splitlines()}
    return found
