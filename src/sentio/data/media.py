"""Which files count as media, what a folder holds, and which paths stay inside it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from sentio.data.dataset import listed

LOSSLESS = frozenset({".wav", ".flac", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"})
LOSSY = frozenset({".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac"})
AUDIO = LOSSLESS | LOSSY
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
VIDEOS = frozenset({".mp4", ".m4v", ".mkv", ".webm", ".avi", ".mov", ".mpg", ".mpeg"})
#: sequences of poses and of landmarks
POSES = frozenset({".skeleton", ".npz"})
MEDIA = AUDIO | IMAGES | VIDEOS | POSES
#: files of many images and of their classes' names: CIFAR in both versions, and IDX files
PACKED = re.compile(
    r"(data_batch_[1-5]|test_batch|train|test)(\.bin)?|(batches\.)?meta|batches\.meta\.txt"
    r"|(coarse|fine)_label_names\.txt|(train|t10k)-(images-idx3|labels-idx1)-ubyte(\.gz)?"
)


def is_media(name: str) -> bool:
    """Whether a file is a sound, an image, a video or a sequence of poses, by its extension."""
    return PurePosixPath(name).suffix.lower() in MEDIA


def is_hidden(name: str) -> bool:
    """Whether a file or folder name is the operating system's business (``.DS_Store``, ``__MACOSX``)."""
    return name.startswith(".") or name == "__MACOSX"


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, each sorted by name, hidden ones left out.

    A link that leads nowhere counts as a file, so that it is reported when it is read.
    """
    folders: list[Path] = []
    files: list[Path] = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if not is_hidden(path.name):
            (folders if path.is_dir() else files).append(path)
    return folders, files


def relative_path(text: str) -> PurePosixPath | None:
    """A path from a table or an archive, or None if it could lead outside its folder.

    Backslashes separate as well, since tables and archives are also made on Windows.
    """
    clean = text.replace("\\", "/")
    path = PurePosixPath(clean)
    if "\0" in clean or path.is_absolute() or PureWindowsPath(clean).drive or ".." in path.parts:
        return None
    return path if path.parts else None


def ignored_note(names: list[str]) -> list[str]:
    """A note on files that are not media, none if there are none."""
    return (
        [f"Ignored files that are neither sound nor image ({len(names)}): {listed(names)}."] if names else []
    )
