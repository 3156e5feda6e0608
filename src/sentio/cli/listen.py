"""``sentio listen``: what is heard, when, from which exit and how quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sentio.cli import options, printing
from sentio.cli.options import Artifact, Json, PolicyText, Provider, Runtime, Threads
from sentio.cli.warming import warm_up


def listen(
    artifact: Artifact,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording, of any length.")],
    hop: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Distance of windows; by default the window's own length."),
    ] = None,
    in_steps: Annotated[
        bool,
        typer.Option(
            "--stream", help="Answer at each step of a box that was exported with --stream, not by windows."
        ),
    ] = False,
    deadline: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Milliseconds from a window's last sample to its answer."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="What there is to hear: filename, onset, offset, event_label; or its folder."
        ),
    ] = None,
    policy: PolicyText = None,
    runtime: Runtime = None,
    threads: Threads = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Listen to a recording, each window by a deadline.

    Prints what is heard from when to when, from which exit and in how many milliseconds; then how much faster
    than real time that was, and with --truth how much of it was right.
    """
    from sentio import load
    from sentio.data.simulate.labels import read_labels
    from sentio.serve.listening import check_listening, hear

    # Steps are graphs of a box, whatever else is installed.
    chosen = "edge" if in_steps and runtime is None else options.runtime(runtime)
    model = load(artifact, runtime=chosen, threads=threads, provider=provider)
    options.hold_torch_to(threads)
    way = options.policy(policy)
    if not in_steps:
        check_listening(model)
        warm_up(model, way)
    found = hear(
        model,
        file,
        hop=hop,
        deadline_ms=deadline,
        policy=way,
        truth=None if truth is None else read_labels(truth),
        in_steps=in_steps,
    )
    if as_json:
        printing.as_json(found.to_dict())
    else:
        print(printing.listening(found))
