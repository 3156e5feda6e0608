"""``sentio augment``: a data set with augmented copies beside its originals."""

from __future__ import annotations

from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from sentio.cli import printing
from sentio.cli.bars import Bars
from sentio.cli.options import Json


def augment(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled sounds, as for sentio train.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="data-hunger, device-balance or impulse-response.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes, a new folder.")],
    seed: Annotated[int, typer.Option(metavar="N", help="Of all that is random.")] = 0,
    shift: Annotated[float, typer.Option(metavar="SECONDS", help="Largest shift in time.")] = 0.3125,
    pitch: Annotated[float, typer.Option(metavar="N", help="Largest change of pitch, semitones.")] = 2.0,
    stretch: Annotated[
        float, typer.Option(metavar="SHARE", help="Largest change of tempo; 0.1 is 0.9 to 1.1.")
    ] = 0.1,
    mask: Annotated[float, typer.Option(metavar="SHARE", help="Widest hidden span of time.")] = 0.2,
    band_mask: Annotated[float, typer.Option(metavar="SHARE", help="Widest removed band.")] = 0.2,
    probability: Annotated[
        float, typer.Option(metavar="P", help="Of a copy through another microphone.")
    ] = 0.5,
    responses: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Measured impulse responses; by default 66 synthetic ones."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Reference device; by default that of most clips.")
    ] = None,
    device_column: Annotated[
        str, typer.Option(metavar="NAME", help="Column that says a clip's device.")
    ] = "device",
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", help="By default one per core. The result does not depend on it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write labelled sounds with augmented copies, to train on.

    data-hunger adds five copies of every clip: shifted, of another pitch, of another tempo, with a gap in
    time, with a gap in frequency. device-balance adds them to clips of all devices but the reference, and
    cuts recordings again half a segment later. impulse-response adds to data-hunger clips of the reference
    device heard through other microphones. meta.csv says what each copy was made from: it is trained on
    with its original, and never tested on.
    """
    from sentio.data.augmenting import augment_data
    from sentio.data.augmenting_plans import Strengths
    from sentio.training.progress import counter

    strengths = Strengths(
        shift=shift, pitch=pitch, stretch=stretch, mask=mask, band_mask=band_mask, probability=probability
    )
    with Bars() as bars:
        found = augment_data(
            data,
            out,
            recipe,
            strengths=strengths,
            seed=seed,
            device=device,
            device_column=device_column,
            responses=responses,
            processes=processes,
            progress=counter(bars, "augment"),
        )
    if as_json:
        printing.as_json({"out": str(found.folder), "files": dict(found.files), "notes": list(found.notes)})
        return
    for note in found.notes:
        print(f"note: {note}")
    print(", ".join(f"{name} {count}" for name, count in found.files.items()))
    print(f"sounds ({sum(found.files.values())}) and meta.csv in {found.folder}")
    print(f"try: {join(['sentio', 'train', str(found.folder), '-o', 'my-model'])}")
