"""Where public data sets are published, under which licence, and by which checksums their files are known.

Checksums, and sizes but that of UrbanSound8K, are read from released software that checks downloads by them:
dcase_util 0.2.20 and soundata 1.0.1 (TAU), soundata (UrbanSound8K, ESC-50) and tensorflow-datasets 4.9.10
(Speech Commands, spoken digits). UrbanSound8K's size is what public scripts recorded of Zenodo. A file of
which no checksum is known has to say ``checksum=None``, never a guess; it is then refused unless the caller
gives up verifying.
"""

from __future__ import annotations

from dataclasses import dataclass

from sentio.core.errors import UnknownNameError


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Args:
        url: where, https.
        name: what it is called on disk; a zip or a tar.
        checksum: ``md5:...`` or ``sha256:...``; None where none is published.
        size: in bytes; None where it is not published.
    """

    url: str
    name: str
    checksum: str | None
    size: int | None = None


@dataclass(frozen=True)
class PublicSet:
    """One data set.

    Args:
        title: its full name.
        licence: what its authors allow.
        page: where to read about it.
        files: what to fetch.
        folder: where its data lies once unpacked, the path that ``open_data`` takes.
        bare: the archives hold no folder of that name themselves.
    """

    title: str
    licence: str
    page: str
    files: tuple[RemoteFile, ...]
    folder: str
    bare: bool = False

    @property
    def size(self) -> int | None:
        """Bytes to fetch; None where a part is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def _tau(year: int, record: int, parts: str) -> PublicSet:
    folder = f"TAU-urban-acoustic-scenes-{year}-mobile-development"
    files = []
    for line in parts.split("\n"):
        part, size, md5 = line.split()
        name = f"{folder}.{part}.zip"
        url = f"https://zenodo.org/records/{record}/files/{name}?download=1"
        files.append(RemoteFile(url, name, f"md5:{md5}", int(size)))
    return PublicSet(
        f"TAU Urban Acoustic Scenes {year} Mobile, development set",
        "free for academic use, no commercial use (Tampere University)",
        f"https://zenodo.org/records/{record}",
        tuple(files),
        folder,
    )


TAU_2020 = """doc 18066 175f40dc3fec144347abad4d2962b7ae
meta 214159 6eae9db553ce48e4ea246e34e50a3cf5
audio.1 1726039031 b1e85b8a908d3d6a6ab73268f385d5c8
audio.2 1782268370 4310a13cc2943d6ce3f70eba7ba4c784
audio.3 1870468865 ed38956c4246abb56190c1e9b602b7b8
audio.4 1879413176 97ab8560056b6816808dedc044dcc023
audio.5 1823936584 b50f5e0bfed33cd8e52cb3e7f815c6cb
audio.6 1827246144 fbf856a3a86fff7520549c899dc94372
audio.7 1728630243 0dbffe7b6e45564da649378723284062
audio.8 1748646043 bb6f77832bf0bd9f786f965beb251b2e
audio.9 1780487215 a65596a5372eab10c78e08a0de797c9e
audio.10 1726068853 2ad595819ffa1d56d2de4c7ed43205a6
audio.11 1744480272 0ad29f7040a4e6a22cfd639b3a6738e5
audio.12 1738707195 e5f4400c6b9697295fab4cf507155a2f
audio.13 1835797785 8855ab9f9896422746ab4c5d89d8da2f
audio.14 1846390881 092ad744452cd3e7de78f988a3d13020
audio.15 1869032508 4b5eb85f6592aebf846088d9df76b420
audio.16 436971777 2e0a89723e58a3836be019e6996ae460"""

TAU_2022 = """doc 16819 9c4f610bdb5d3e3e72a17d393a26452a
meta 1538781 419b6ff6570f1030730352dc80cd8d15
audio.1 1736050960 8be14bdbd844481dce059ab31fbd2239
audio.2 1791821989 e821abda49b069248bb75eab39df7575
audio.3 1878561499 9c7897f78bb42ca0008936daddf3f8f3
audio.4 1887825128 53ec3e37c0fc0be75f53c5abbc5300b8
audio.5 1832871840 528422c33c5d10263203d2c61cb1f3be
audio.6 1836165296 4759a9465c903e13e57d5e82e791fc28
audio.7 1737838582 6d545fc83a55a17856a9ccc1ac9aff6b
audio.8 1758317867 3a2916a9b5d3f43cc7a22a62b180b0d9
audio.9 1790044829 071f664c86639ad730f7be4e3c39d886
audio.10 1736836871 e0839d019e9b77ecbcbb0eff85965530
audio.11 1754618148 fc60f1c83726be3963ae14fbcb95eeb4
audio.12 1748795940 02246547f86c0a814dc63ec65d7033bb
audio.13 1844234922 88ae9ef884665140d1572d8061725e00
audio.14 1854884822 c3f400d74ae90e5190dc518cde43de47
audio.15 1877789093 85594c6fe4f91c10aa2a410f748103b8
audio.16 435379083 6e2df8438c69f6789414aeba8cbad9d8"""

PUBLIC_SETS: dict[str, PublicSet] = {
    "esc50": PublicSet(
        "ESC-50: Dataset for Environmental Sound Classification",
        "CC BY-NC 3.0",
        "https://github.com/karolpiczak/ESC-50",
        (
            # GitHub packs the newest state on request: a change there shows as another checksum.
            RemoteFile(
                "https://github.com/karolpiczak/ESC-50/archive/master.zip",
                "ESC-50-master.zip",
                "md5:7771e4b9d86d0945acce719c7a59305a",
            ),
        ),
        "ESC-50-master",
    ),
    "fsdd": PublicSet(
        "Free Spoken Digit Dataset, version 1.0.9",
        "CC BY-SA 4.0",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        (
            RemoteFile(
                "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
                "free-spoken-digit-dataset-1.0.9.tar.gz",
                "sha256:8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
                11_975_353,
            ),
        ),
        "free-spoken-digit-dataset-1.0.9",
    ),
    "speech-commands": PublicSet(
        "Speech Commands, version 2",
        "CC BY 4.0",
        "https://arxiv.org/abs/1804.03209",
        (
            RemoteFile(
                "https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                "speech_commands_v0.02.tar.gz",
                "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
                2_428_923_189,
            ),
        ),
        "speech_commands_v0.02",
        bare=True,
    ),
    "tau-2020-mobile": _tau(2020, 3819968, TAU_2020),
    "tau-2022-mobile": _tau(2022, 6337421, TAU_2022),
    "urbansound8k": PublicSet(
        "UrbanSound8K",
        "CC BY-NC 4.0",
        "https://zenodo.org/records/1203745",
        (
            RemoteFile(
                "https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz?download=1",
                "UrbanSound8K.tar.gz",
                "md5:9aa69802bbf37fb986f71ec1483a196e",
                6_023_741_708,
            ),
        ),
        "UrbanSound8K",
    ),
}


def public_set(name: str) -> PublicSet:
    """A data set by its short name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PUBLIC_SETS:
        raise UnknownNameError("public data set", name, list(PUBLIC_SETS))
    return PUBLIC_SETS[name]
