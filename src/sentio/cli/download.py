"""``sentio download``: a public data set, verified and unpacked."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from sentio.cli import printing
from sentio.cli.bars import Bars
from sentio.cli.options import Json
from sentio.data.public_sets import PUBLIC_SETS, public_set

MIB = 2**20


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of: {', '.join(PUBLIC_SETS)}.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it goes; made if it is not there.")],
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the published sizes and checksums.")
    ] = True,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives beside what was in them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Download a public data set, verify it and unpack it.

    Goes on where an earlier try stopped. What is not as published is not kept. Mind the licence, which is
    printed first: most allow research and no commercial use.
    """
    from sentio.data.download import download as run
    from sentio.training.progress import Progress

    found = public_set(name)
    if not as_json:
        size = "" if found.size is None else f", {found.size / 1e9:.2f} GB to fetch"
        print(f"{found.title}{size}\nlicence: {found.licence}; see {found.page}")
    with Bars() as bars:

        def report(job: str, done: int, total: int) -> None:
            if job == "unpack":
                bars(Progress("unpack (archives)", done, total))
            else:
                bars(Progress(f"{job} (MiB)", -(-done // MIB), -(-total // MIB)))

        target = run(name, folder, verify=verify, keep_archives=keep_archives, progress=report)
    if as_json:
        facts = {"name": name, "title": found.title, "licence": found.licence, "page": found.page}
        printing.as_json({"path": str(target), "verified": verify, **facts})
        return
    print(f"data in {target}; try: {join(['sentio', 'train', str(target), '-o', 'my-model'])}")
