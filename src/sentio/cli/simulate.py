"""``sentio simulate``: labelled sounds of a street, as clips or spoken words, and pictures of crowds."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from sentio.cli import printing
from sentio.cli.bars import Bars
from sentio.cli.options import Json, examples
from sentio.core.errors import ConfigError

app = typer.Typer(
    help="Render labelled sounds, and pictures of crowds.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes, a new folder.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of all that is random.")]
Rate = Annotated[int, typer.Option(metavar="HZ", help="Samples per second, 8000 to 48000.")]
Samples = Annotated[
    Path | None,
    typer.Option(metavar="DATA", help="Labelled sounds of your own to use, as for sentio train."),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes; by default one per core. The result does not depend on it."),
]


@app.command(
    epilog=examples(
        "sentio simulate street --minutes 5 --seed 1 --out my-street",
        "sentio simulate street --minutes 1 --out my-street --samples my_sounds --polyphony 1",
    )
)
def street(
    out: Out,
    minutes: Annotated[float, typer.Option(metavar="N", help="Of sound in all.")] = 1.0,
    seed: Seed = 0,
    rate: Rate = 16000,
    polyphony: Annotated[int, typer.Option(metavar="N", help="At most this many events at once.")] = 2,
    samples: Samples = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Render recordings of a street, and when what is heard in them.

    Writes audio/street_000.wav and so on, a minute each, and labels.csv: file, onset, offset and label of
    every event, its distance, speed and signal-to-noise ratio.
    """
    from sentio.data.simulate.rendering import render_street
    from sentio.training.progress import counter

    with Bars() as bars:
        folder = render_street(
            out,
            minutes=minutes,
            seed=seed,
            rate=rate,
            samples=samples,
            polyphony=polyphony,
            workers=workers,
            progress=counter(bars, "render street"),
        )
    _report(folder, "labels.csv", "event_label", as_json)


@app.command(
    epilog=examples(
        "sentio simulate clips --per-class 60 --seed 1 --out my-clips",
        "sentio simulate clips --per-class 200 --seconds 1 --out more --samples my_sounds",
    )
)
def clips(
    out: Out,
    per_class: Annotated[int, typer.Option(metavar="N", help="Clips of each class.")] = 60,
    seconds: Annotated[float, typer.Option(metavar="N", help="Length of a clip.")] = 2.0,
    seed: Seed = 0,
    rate: Rate = 16000,
    kinds: Annotated[
        str, typer.Option(metavar="NAME", help="Of a street, or everyday ones of house and farm, or all.")
    ] = "street",
    samples: Samples = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Render clips with one event each, to train on.

    Writes audio/ and meta.csv, which sentio train takes, with a class "background" in which nothing happens.
    """
    from sentio.data.simulate.rendering import render_clips
    from sentio.training.progress import counter

    with Bars() as bars:
        folder = render_clips(
            out,
            per_class=per_class,
            seconds=seconds,
            seed=seed,
            rate=rate,
            kinds=kinds,  # type: ignore[arg-type]
            samples=samples,
            workers=workers,
            progress=counter(bars, "render clips"),
        )
    _report(folder, "meta.csv", "label", as_json)


@app.command(
    epilog=examples(
        "sentio simulate words yes no stop --per-word 300 --out my-words",
        "sentio simulate words 0=zero 1=one 2=two --per-word 1000 --rate 8000 --out digits",
        "sentio simulate words yes no --program espeak-ng --program flite --sizes 0.2 --out words",
        "sentio simulate words ja nein --language de --out words",
        "sentio simulate words yes no --accents accents.yaml --out words",
    )
)
def words(
    words: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="What is said, or LABEL=WORD where they differ.")
    ],
    out: Out,
    per_word: Annotated[int, typer.Option(metavar="N", help="Clips of each word.")] = 300,
    language: Annotated[
        str, typer.Option(metavar="NAME", help="en in its accents, or one that espeak-ng knows.")
    ] = "en",
    programs: Annotated[
        list[str],
        typer.Option(
            "--program", metavar="NAME", help="Who speaks: espeak-ng, flite (English only); may be repeated."
        ),
    ] = ["espeak-ng"],  # noqa: B006
    sizes: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How much larger or smaller speakers are than a voice, at most."),
    ] = 0.0,
    accents: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML of LANGUAGE: {LABEL: the word in its spelling, ...}."),
    ] = None,
    accented: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the clips, those with one of these accents.")
    ] = 0.5,
    seed: Seed = 0,
    rate: Rate = 16000,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Let many synthetic voices say words, to train a keyword spotter on.

    Needs the program espeak-ng, or those that are named. Writes audio/ and meta.csv for sentio train.
    """
    from sentio.data.simulate.accents import read_accents
    from sentio.data.simulate.words import render_words
    from sentio.training.progress import counter

    pairs = [text.partition("=") for text in words]
    with Bars() as bars:
        folder = render_words(
            out,
            {label: word if sign else label for label, sign, word in pairs},
            per_word=per_word,
            language=language,
            programs=programs,
            sizes=sizes,
            accents=None if accents is None else read_accents(accents),
            accented=accented,
            seed=seed,
            rate=rate,
            workers=workers,
            progress=counter(bars, "speak"),
        )
    _report(folder, "meta.csv", "label", as_json)


@app.command(
    epilog=examples(
        "sentio simulate crowds --train 240 --seed 1 --out my-crowds",
        "sentio simulate crowds --condition mixed --size 72x96 --people 0:40 --out my-crowds",
    )
)
def crowds(
    out: Out,
    train: Annotated[int, typer.Option(metavar="N", help="Scenes to train on.")] = 240,
    validation: Annotated[int, typer.Option(metavar="N", help="Scenes to validate on.")] = 40,
    test: Annotated[int, typer.Option(metavar="N", help="Scenes to test on.")] = 40,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width in pixels.")] = "96x128",
    people: Annotated[str, typer.Option(metavar="A:B", help="Fewest and most in a picture.")] = "0:60",
    condition: Annotated[
        str, typer.Option(metavar="NAME", help="clear, dark, blurred, noisy, or mixed for each in turn.")
    ] = "clear",
    seed: Seed = 0,
    rate: Rate = 16000,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Draw crowds with the second of sound around them, to train a counter on.

    Writes pictures/, sounds/, crowds.csv (file, part, sound and number of people) and heads.csv (where each
    head is), which sentio train takes.
    """
    from sentio.data.crowd_tables import CROWDS, read_crowd_tables
    from sentio.data.simulate.crowd_files import render_crowds
    from sentio.training.progress import counter

    with Bars() as bars:
        folder = render_crowds(
            out,
            train=train,
            validation=validation,
            test=test,
            size=_pair("--size", size, "x"),
            people=_pair("--people", people, ":"),
            condition=condition,
            seed=seed,
            rate=rate,
            workers=workers,
            progress=counter(bars, "draw crowds"),
        )
    scenes = read_crowd_tables(folder)
    parts = {part: [int(one.count) for one in scenes.part(part)] for part in ("train", "val", "test")}
    people_in = {part: sum(counts) for part, counts in parts.items()}
    if as_json:
        settings = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
        table = str(folder / CROWDS)
        printing.as_json({"out": str(folder), "table": table, "people_in": people_in, **settings})
        return
    for part, counts in parts.items():
        if counts:
            print(f"{part:5} {len(counts)} pictures, {min(counts)} to {max(counts)} people in each")
    print(
        f"pictures in {folder / 'pictures'}, sounds in {folder / 'sounds'}, heads in {folder / 'heads.csv'}"
    )
    print(
        f"try: {join(['sentio', 'train', 'recipes/crowds.yaml', '--data', str(folder), '-o', 'my-counter'])}"
    )


def _pair(option: str, text: str, between: str) -> tuple[int, int]:
    """Two whole numbers.

    Raises:
        ConfigError: the text is something else.
    """
    first, sign, second = text.lower().partition(between)
    if not (sign and first.isdecimal() and second.isdecimal()):
        raise ConfigError(f"{option} takes two whole numbers such as 96{between}128, got {text!r}")
    return int(first), int(second)


def _report(folder: Path, table: str, column: str, as_json: bool) -> None:
    """What was rendered, read from the files themselves."""
    with (folder / table).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    settings = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))
    counts = dict(sorted(Counter(row[column] for row in rows).items()))
    files = sum(1 for _ in (folder / "audio").glob("*.wav"))
    if as_json:
        printing.as_json(
            {"out": str(folder), "table": str(folder / table), "files": files, "labels": counts, **settings}
        )
        return
    for note in settings["notes"]:
        print(f"note: {note}")
    print(", ".join(f"{label} {count}" for label, count in counts.items()))
    if settings["kind"] in ("clips", "words"):
        then = ["train", str(folder), "-o", "my-model"]
    else:
        model = "street-sounds" if settings["samples"] is None else "my-model"
        then = ["listen", model, str(folder / "audio" / "street_000.wav"), "--truth", str(folder)]
    print(f"sounds ({files}) in {folder / 'audio'}, labels in {folder / table}")
    print(f"try: {join(['sentio', *then])}")
