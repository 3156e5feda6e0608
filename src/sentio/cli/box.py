"""``sentio export``: a model as graphs for the box, in float or in int8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sentio.cli import printing
from sentio.cli.options import Artifact, Cache, Json, Protocol, SkipBad
from sentio.core.errors import ConfigError


def export(
    artifact: Artifact,
    out: Annotated[Path, typer.Argument(metavar="PATH", help="Where it goes: a folder, .zip or .sentio.")],
    half: Annotated[
        bool, typer.Option("--float16", help="Store weights in half the bytes; computed is in float32.")
    ] = False,
    on_streams: Annotated[
        bool, typer.Option("--stream", help="Also write the steps for streams, frame by frame.")
    ] = False,
    hop: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="With --stream: frames of a step; the stride by default."),
    ] = None,
    front_end: Annotated[
        bool, typer.Option("--front-end", help="Write the log-mel front end as a graph too.")
    ] = False,
    weights: Annotated[
        bool, typer.Option(help="Keep the weights for PyTorch; an int8 export has none.")
    ] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise stages and exits; needs --calibration.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled data, divided by its protocol: ranges from one part, figures from another.",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Other data for the figures; CALIBRATION is not divided then."),
    ] = None,
    protocol: Protocol = None,
    split: Annotated[
        int, typer.Option(min=0, metavar="N", help="Which split divides the calibration data.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the division and the draw of windows.")] = 0,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="How ranges are found: minmax, percentile or entropy.")
    ] = "minmax",
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Activations symmetric about zero (int8), which ARM prefers.")
    ] = False,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="Weights of 7 bits, for x86 processors without VNNI.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A stage or exit that stays in float, as in stage:NAME; may be repeated."
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=1, metavar="N", help="Windows that the ranges are taken from.")
    ] = 256,
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit temperatures and thresholds anew, on the calibration part.")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Always say what each stage and exit costs by itself.")
    ] = False,
    cache: Cache = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Write a model as graphs that run without PyTorch.

    Every stage and every exit becomes an ONNX file of its own, so early exits save time there as well. With
    --int8 it prints bytes and accuracies before and after, and writes them into the model's card; where the
    accuracy drops by more than a point it says which stage costs most.
    """
    from sentio import Int8, load, open_data
    from sentio import export as run

    if int8 != (calibration is not None):
        raise ConfigError(
            "--int8 needs data for the ranges of activations: --calibration DATA, and the other way"
        )
    settings = None
    if calibration is not None:
        settings = Int8(
            calibration=open_data(calibration, protocol=protocol),
            measured=None if measured is None else open_data(measured),
            split=split,
            method=method,  # type: ignore[arg-type]
            symmetric=symmetric,
            reduce_range=reduce_range,
            keep=tuple(keep or ()),
            windows=windows,
            refit=refit,
            sensitivity=sensitivity or None,
            seed=seed,
        )
    model = load(artifact, runtime="torch")
    steps = None
    if on_streams:
        from sentio import stream

        steps = stream(model.network, hop=hop)
    elif hop is not None:
        raise ConfigError("--hop is of the steps for streams; give --stream as well")
    result = run(
        model,
        out,
        dtype="float16" if half else "float32",
        int8=settings,
        stream=steps,
        front_end=front_end,
        weights=weights,
        cache=cache,
        skip_bad=skip_bad,
    )
    if as_json:
        facts: dict[str, Any] = {"path": str(result.path), "bytes": dict(result.bytes)}
        facts |= {"difference": result.difference, "rounding": result.rounding, "int8": result.int8}
        if steps is not None:
            facts["step"] = printing.step_input(model.frontend, steps.hop)
        printing.as_json(facts)
        return
    print(printing.exported(result, str(out), classifies=hasattr(model.task, "labels")))
    if steps is not None:
        takes = printing.step_input(model.frontend, steps.hop)
        samples = f", or {takes['samples']} samples at {takes['rate']} Hz" if takes["samples"] else ""
        reason = f"; no samples: {takes['reason']}" if takes["reason"] else ""
        print(f"a step takes {takes['frames']} frames of features{samples}{reason}")
