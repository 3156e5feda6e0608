"""A gallery: embeddings of known persons or things, by name. Plain numpy."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import ArtifactError, ConfigError, InputError
from sentio.tasks.metrics.verification import unit_length

Floats = NDArray[np.floating[Any]]

VERSION = 1
#: distances computed at once
PIECE = 1 << 22


@dataclass(frozen=True)
class Nearest:
    """Who in the gallery is nearest to each probe.

    Args:
        place: of the nearest name in `Gallery.names`, ``(probe,)``.
        distance: to its nearest embedding, ``(probe,)``.
        second: to the nearest embedding of any other name, ``(probe,)``; infinite where there is one name.
    """

    place: NDArray[np.intp]
    distance: NDArray[np.float64]
    second: NDArray[np.float64]

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Distance over second distance, 0 to 1, ``(probe,)``: small where there is no doubt.

        1 where both are alike, and where there is no second to compare with.
        """
        found: NDArray[np.float64] = np.ones_like(self.distance)
        compared = np.isfinite(self.second) & (self.second > 0)
        np.divide(self.distance, self.second, out=found, where=compared)
        return np.minimum(found, 1.0)  # rounding may take the second for the first


class Gallery:
    """Embeddings by name, of one network's last layer; every exit that shares its space may ask it.

    One name may have several embeddings; the nearest counts. It may be asked from several threads while one
    enrols.

    Args:
        dimension: of the embeddings.
        normalise: whether distances are of embeddings scaled to length 1.

    Raises:
        ConfigError: a dimension below 1.
    """

    def __init__(self, dimension: int, *, normalise: bool = True) -> None:
        if not isinstance(dimension, int) or isinstance(dimension, bool) or dimension < 1:
            raise ConfigError(f"A gallery's embeddings have a dimension from 1 up, got {dimension!r}")
        self.dimension = dimension
        self.normalise = normalise
        # Replaced whole, never changed, so that another thread sees names and vectors that fit.
        self._held: tuple[tuple[str, ...], NDArray[np.intp], NDArray[np.float32]] = (
            (),
            np.zeros(0, np.intp),
            np.zeros((0, dimension), np.float32),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order in which they came."""
        return self._held[0]

    def __len__(self) -> int:
        """How many embeddings there are."""
        return len(self._held[1])

    def enrol(self, name: str, embeddings: Floats) -> None:
        """Add embeddings of one name; those it has already stay.

        Args:
            name: printable text.
            embeddings: ``(dimension,)`` or ``(sample, dimension)``.

        Raises:
            InputError: no such name can be, or the embeddings do not fit.
        """
        _check_name(name)
        added = self._checked(np.atleast_2d(embeddings))
        if not len(added):
            raise InputError(f"There is no embedding of {name!r} to enrol; give at least one")
        names, owners, vectors = self._held
        if name not in names:
            names = (*names, name)
        owner = np.full(len(added), names.index(name), np.intp)
        self._held = names, np.concatenate([owners, owner]), np.concatenate([vectors, added])

    def remove(self, name: str) -> None:
        """Forget a name.

        Raises:
            InputError: it is not there.
        """
        names, owners, vectors = self._held
        if name not in names:
            raise InputError(f"The gallery does not know {name!r}, so it cannot be removed")
        place = names.index(name)
        kept = owners != place
        owners = owners[kept]
        rest = (*names[:place], *names[place + 1 :])
        self._held = rest, np.where(owners > place, owners - 1, owners), vectors[kept]

    def nearest(self, embeddings: Floats) -> Nearest:
        """Who is nearest to each of some embeddings.

        Args:
            embeddings: ``(probe, dimension)``, of any exit that shares the gallery's space.

        Raises:
            InputError: the gallery is empty, or the embeddings do not fit.
        """
        probes = self._checked(embeddings).astype(np.float64)
        _, owners, vectors = self._held
        if not len(owners):
            raise InputError("The gallery is empty; enrol somebody first")
        held = vectors.astype(np.float64)
        if self.normalise:
            probes, held = unit_length(probes), unit_length(held)
        step = max(1, PIECE // len(held))
        starts = range(0, max(len(probes), 1), step)  # no probes are a part of none
        parts = [_two_nearest(probes[at : at + step], held, owners) for at in starts]
        place, distance, second = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Nearest(place, distance, second)

    def save(self, path: str | Path) -> Path:
        """Write the gallery as an ``.npz`` file.

        Raises:
            ArtifactError: it cannot be written there.
        """
        names, owners, vectors = self._held
        target = Path(path)
        try:
            with target.open("wb") as file:  # a path alone would get another ending
                np.savez(
                    file,
                    version=np.int64(VERSION),
                    normalise=np.bool_(self.normalise),
                    names=np.array(names, dtype=np.str_),
                    owners=owners.astype(np.int64),
                    vectors=vectors,
                )
        except OSError as error:
            raise ArtifactError(
                f"Gallery {target} could not be written: {error.strerror or error}"
            ) from error
        return target

    @classmethod
    def load(cls, path: str | Path) -> Gallery:
        """Read what `save` wrote. Nothing is unpickled, so a stranger's gallery cannot run code.

        Raises:
            ArtifactError: no gallery there, or one that is damaged or newer than this library.
        """
        source = Path(path)
        found = _read(source)
        names = tuple(str(name) for name in found["names"])
        owners, vectors = found["owners"], found["vectors"]
        fits = vectors.shape[1] > 0 and len(owners) == len(vectors)
        fits = fits and len(set(names)) == len(names) and set(owners.tolist()) == set(range(len(names)))
        if not fits or not np.isfinite(vectors).all():
            raise ArtifactError(f"Gallery {source} is damaged: its parts do not fit; copy or save it again")
        gallery = cls(int(vectors.shape[1]), normalise=bool(found["normalise"]))
        try:
            for name in names:
                _check_name(name)
        except InputError as error:
            raise ArtifactError(f"Gallery {source} is refused: {error}") from error
        gallery._held = names, owners.astype(np.intp), vectors.astype(np.float32)
        return gallery

    def _checked(self, embeddings: Any) -> NDArray[np.float32]:
        array = np.asarray(embeddings)
        if array.ndim != 2 or array.shape[1] != self.dimension or array.dtype.kind not in "fiu":
            raise InputError(
                f"The gallery takes embeddings (sample, {self.dimension}), got {array.dtype} {array.shape}"
            )
        with np.errstate(over="ignore"):
            found = array.astype(np.float32)
        if not np.isfinite(found).all():
            raise InputError("Embeddings hold NaN or infinite values, or such as float32 has no room for")
        return found


def _two_nearest(
    probes: NDArray[np.float64], held: NDArray[np.float64], owners: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """For each probe the nearest name, the distance to it, and to the nearest of another name."""
    rows = np.arange(len(probes))
    square = np.square(held).sum(1) - 2 * probes @ held.T  # less |probe|^2, which changes no order
    first = square.argmin(1)
    place = owners[first]
    square[owners == place[:, None]] = np.inf
    second = square.argmin(1)
    alone = np.isinf(square[rows, second])
    # Anew from the difference: the product is off by rounding where they are close, and equal ones have 0.
    distance = np.linalg.norm(probes - held[first], axis=1)
    other = np.linalg.norm(probes - held[second], axis=1)
    return place, distance, np.where(alone, np.inf, other)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InputError(f"A name in a gallery is printable text, got {name!r}")


def _read(source: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a gallery's file, of the kinds that `Gallery.save` writes."""
    kinds = {"version": "i", "normalise": "b", "names": "U", "owners": "i", "vectors": "f"}
    try:
        with zipfile.ZipFile(source) as archive:
            # What is not compressed is no larger unpacked than the file is.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ArtifactError(f"Gallery {source} is refused: it is compressed; save it again")
        with np.load(source, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in kinds}
    except FileNotFoundError as error:
        raise ArtifactError(f"No gallery at {source}: there is no such file") from error
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{source} is no gallery, or a damaged one; copy or save it again") from error
    axes = {"version": 0, "normalise": 0, "names": 1, "owners": 1, "vectors": 2}
    if any((found[name].dtype.kind, found[name].ndim) != (kinds[name], axes[name]) for name in kinds):
        raise ArtifactError(f"{source} is no gallery, or a damaged one; copy or save it again")
    if found["version"] > VERSION:
        raise ArtifactError(
            f"Gallery {source} is newer than this library; update with: pip install -U sentio"
        )
    return found
