"""All commands."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sentio import __version__
from sentio.cli import options, printing
from sentio.cli.augment import augment
from sentio.cli.bars import Bars
from sentio.cli.box import export
from sentio.cli.demo import demo
from sentio.cli.download import download
from sentio.cli.listen import listen
from sentio.cli.options import (
    Artifact,
    Cache,
    Draws,
    Json,
    PolicyText,
    Protocol,
    Provider,
    Runtime,
    SkipBad,
    Threads,
    examples,
)
from sentio.cli.simulate import app as simulate
from sentio.cli.warming import warm_up
from sentio.core.errors import ConfigError, MissingExtraError, SentioError
from sentio.core.policy import Deadline

EXIT_CODES = """\b
Exit codes:
  0    done
  2    wrong usage, a recipe or an option that is not valid
  3    data or a recording that cannot be used
  4    an artifact that cannot be used, or a result that cannot be written
  5    something that is not installed; the message says how to get it
  6    a network that cannot be cut into stages
  130  interrupted
"""

app = typer.Typer(
    help="Audio-visual perception that fits the budget: train, shrink and run networks with early exits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(
    epilog=examples(
        "sentio train my_sounds -o my-model",
        "sentio train recipes/esc10.yaml --data esc10 --split 1 -o esc10-model",
        "sentio train my_sounds --from esc10-model -o fine-tuned",
        "sentio train my_sounds -o my-model --set batch=64 --set devices.devices=2",
    )
)
def train(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Labelled data, or a recipe (.yaml).")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="Where the model goes: a folder, .zip or .sentio."),
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data, where SOURCE is a recipe.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="ARTIFACT", help="A model to fine-tune; its front end is kept."),
    ] = None,
    protocol: Protocol = None,
    split: Annotated[
        str | None, typer.Option(metavar="N", help="Which split is tested on, from 0; all tests on none.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Epochs of each phase.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Of all that is random.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the recipe; may be repeated."),
    ] = None,
    cache: Cache = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Train a model with early exits on your labelled data.

    Trains, calibrates, fits thresholds, and measures on the test part. SOURCE is a folder per class, a
    folder with meta.csv, a zip of either, a folder of crowds with heads, or a recipe. Ctrl-C loses
    at most one epoch: the same command goes on.
    """
    for package in ("torch", "lightning", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package}, which sentio train needs,", "train")
    from sentio import train as run
    from sentio.data.crowd_sets import is_crowds
    from sentio.training.defaults import counter_recipe, default_recipe
    from sentio.training.progress import main_process
    from sentio.training.recipe import read_recipe

    is_recipe = source.suffix in (".yaml", ".yml")
    if data is not None and not is_recipe:
        raise ConfigError(f"--data goes with a recipe, and {source} is taken as data; give one of the two")
    given = {
        "data__path": str(data or source) if data or not is_recipe else None,
        "data__protocol": protocol,
        "data__split": options.split(split),
        "epochs": epochs,
        "seed": seed,
    }
    default = counter_recipe if is_crowds(source) else default_recipe
    recipe = read_recipe(
        source if is_recipe else default(out.stem), **{**options.settings(changes or []), **given}
    )
    with Bars() as bars:
        model = run(start, recipe, out=out, cache=cache, skip_bad=skip_bad, progress=bars)
    if not main_process():
        return
    if as_json:
        printing.as_json({"out": str(out), "card": model.card})
        return
    print(printing.training(model.card))
    print(f"model written to {out}; try: {options.evaluation(out, recipe, skip_bad)}")


@app.command(
    epilog=examples(
        "sentio evaluate my-model my_sounds --split 0",
        "sentio evaluate my-model other_sounds --policy fixed:block2 --json",
        "sentio evaluate my-model my_sounds --split 0 --tta 30",
        "sentio evaluate my-model my_sounds --split 0 --report my-model.html",
        "sentio evaluate scenes TAU_FOLDER --split 0 --by device",
    )
)
def evaluate(
    context: typer.Context,
    artifact: Artifact,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled data, as for sentio train.")],
    policy: PolicyText = None,
    protocol: Protocol = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="N", help="Only a part of this split of the protocol; by default all data."),
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="NAME", help="With --split: train, validation or test.")
    ] = "test",
    seed: Annotated[int, typer.Option(metavar="N", help="With --split: seed of a random protocol.")] = 0,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Also the accuracy of each value of a column of the data, e.g. device."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Keep only the files of these classes; give it twice or more."),
    ] = None,
    draws: Draws = None,
    runtime: Runtime = None,
    threads: Threads = None,
    cache: Cache = None,
    skip_bad: SkipBad = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the figures, with plots, as one HTML file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy, MACs and milliseconds of every exit.

    Prints a table of the exits: accuracy, of counters their errors, multiply-accumulates, measured
    milliseconds and the share of windows that leave there; in its last line the same under the policy. With
    --by, a second table of the figures under the policy for each value of the column.
    """
    from sentio import evaluate as run
    from sentio import load, open_data
    from sentio.data.splits import originals, splits
    from sentio.reporting import check_report, circumstances, write_report

    if report is not None:
        check_report(report)
    model = load(artifact, runtime=options.runtime(runtime), threads=threads)
    options.hold_torch_to(threads)
    chosen = options.policy(policy)
    dataset = open_data(data, protocol=protocol, labels=label)
    notes = list(dataset.notes)
    own = originals(dataset)
    if split is None and len(own) < len(dataset):
        notes.append(f"Augmented copies are for training and were left out ({len(dataset) - len(own)}).")
        dataset = dataset.subset(own)
    if draws is not None:
        from sentio.audio.draws import draws_of_training, with_draws

        model = with_draws(model, draws_of_training(model, draws))
        notes.append(f"Test-time augmentation: each answer is the mean of {draws} draws.")
    if split is not None:
        found = splits(dataset, seed=seed)
        place = options.split(split)
        if not isinstance(place, int) or place >= len(found) or part not in ("train", "validation", "test"):
            raise ConfigError(
                f"{data} has splits 0 to {len(found) - 1} with parts train, validation and test; "
                f"got split {split!r}, part {part!r}"
            )
        dataset = dataset.subset(getattr(found[place], part))
        notes += found[place].notes
    elif model.card.get("data", {}).get("name") == dataset.name:
        notes.append(f"The model was trained on files of {dataset.name}; --split measures on a test part.")
    if isinstance(chosen or model.policy, Deadline):
        model.time_exits()  # a deadline is about this machine
    with Bars() as bars:
        result = run(model, dataset, policy=chosen, by=by, cache=cache, skip_bad=skip_bad, progress=bars)
    result = replace(result, notes=(*notes, *result.notes))
    if as_json:
        printing.as_json(result.to_dict())
    else:
        for note in result.notes:
            print(f"note: {note}")
        print(result.table(), end="")
    if report is None:
        return
    facts = circumstances(
        result.runtime,
        command=options.typed(context),
        data=f"{dataset.name}, {len(dataset)} files" + ("" if split is None else f", split {split}, {part}"),
        seed_of_the_training=model.card.get("recipe", {}).get("seed"),
    )
    write_report(report, result, title=f"{model.name} on {dataset.name}", made_by=facts)
    if not as_json:
        print(f"report written to {report}")


@app.command(
    epilog=examples(
        "sentio predict my-model clip.ogg",
        "sentio predict my-model *.wav --policy deadline:5 --json",
        "sentio predict my-model hour.flac --hop 0.5 --windows",
    )
)
def predict(
    artifact: Artifact,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="Recordings; long ones are answered window by window."),
    ],
    policy: PolicyText = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS", help="Labels of interest, separated by commas; others are none of these."
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Distance of windows; by default that of the model."),
    ] = None,
    windows: Annotated[
        bool, typer.Option("--windows", help="Also print every window of long files.")
    ] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Names for embeddings, an .npz file that Gallery.save of sentio.tasks wrote."
        ),
    ] = None,
    runtime: Runtime = None,
    threads: Threads = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Answer about recordings, and say from which exit.

    Prints what is heard, how surely, the exit that answered, and milliseconds. After a file that cannot be
    read it goes on with the next, and its exit code is that of the first error.
    """
    from sentio import load

    model = load(artifact, runtime=options.runtime(runtime), threads=threads, provider=provider)
    options.hold_torch_to(threads)
    options.give_gallery(model, gallery)
    chosen = options.policy(policy)
    labels = None if only is None else [label.strip() for label in only.split(",")]
    warm_up(model, chosen)
    failed = 0
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            found = model.predict(file, policy=chosen, only=labels, hop=hop)
        except ConfigError:
            raise
        except SentioError as error:
            print(f"sentio: {error}", file=sys.stderr)
            rows.append({"file": str(file), "error": str(error)})
            failed = failed or error.exit_code
            continue
        rows.append({"file": str(file), **found.to_dict()})
        if not as_json:
            print(printing.prediction(str(file), found))
            for window in found.windows if windows else ():
                print(printing.prediction(f"  {window.start:7.2f} to {window.end:7.2f} s", window))
            for note in found.notes:
                print(f"  note: {note}")
    if as_json:
        printing.as_json(rows)
    if failed:
        raise typer.Exit(failed)


@app.command(
    epilog=examples(
        "sentio profile my-model",
        "sentio profile dcase2024-baseline --no-measure --json",
        "sentio profile box --runtime edge --threads 1",
    )
)
def profile(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="A model, or the name of a network.")],
    rule: Annotated[
        str, typer.Option(metavar="NAME", help="What is counted: macs, tf-2021 or dcase.")
    ] = "macs",
    measure: Annotated[bool, typer.Option(help="Time every stage too.")] = True,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed runs.")] = 30,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.")] = None,
    runtime: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="torch, or edge to time the exits of a box on this machine."),
    ] = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Count parameters, MACs, bytes and milliseconds per stage.

    With --runtime edge, which needs no PyTorch, only the exits are timed; MACs are those that were counted
    when the box was written.
    """
    if options.runtime(runtime) == "edge":
        from sentio import load

        model = load(network, runtime="edge", threads=threads, provider=provider)
        costs = model.time_exits(repeats=repeats)
        if as_json:
            printing.as_json(asdict(costs))
        else:
            print(printing.exit_times(costs))
        return
    from sentio import create_network, load
    from sentio import profile as run
    from sentio.core.errors import UnknownNameError
    from sentio.core.registry import names
    from sentio.core.shelf import shipped

    if Path(network).exists() or network in shipped():
        net: Any = load(network, runtime="torch")
    elif network in names("network"):
        net = create_network(network)
    else:
        raise UnknownNameError("model or network", network, [*shipped(), *names("network")])
    result = run(net, rule=rule, measure=measure, repeats=repeats, threads=threads)
    if as_json:
        printing.as_json(result.to_dict())
    else:
        print(result.table())


app.command(
    epilog=examples("sentio export my-model box", "sentio export my-model box --int8 --calibration my_sounds")
)(export)


@app.command(epilog=examples("sentio models --json"))
def models(as_json: Json = False) -> None:
    """List shipped models, networks, exits and other names.

    A shipped model's name stands for it in every command that takes an ARTIFACT.
    """
    from sentio.core.registry import ROOMS, names
    from sentio.core.shelf import facts, shipped

    ready = [facts(file) for file in shipped().values()]
    found = {kind: names(kind) for kind in ROOMS}
    if as_json:
        printing.as_json({"model": ready, **found})
        return
    for model in ready:
        print(printing.shipped(model))
    for kind, members in found.items():
        print(f"{kind + 's':12} {', '.join(members)}")


@app.command(epilog=examples("sentio doctor"))
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and how to get it."""
    from sentio.cli.doctor import report

    rows = report()
    if as_json:
        printing.as_json(rows)
        return
    for row in rows:
        state = row["version"] or f"missing; pip install 'sentio[{row['extra']}]'"
        print(f"{row['package']:14} {state:42} {row['purpose']}")


app.command(
    epilog=examples("sentio download fsdd data", "sentio download tau-2022-mobile data --keep-archives")
)(download)
app.command(epilog=examples("sentio demo", "sentio demo --data my_sounds --out my-demo"))(demo)
app.command(
    epilog=examples(
        "sentio listen my-model street.wav --hop 0.5 --deadline 20",
        "sentio listen my-model street/audio/street_000.wav --hop 1 --truth street --json",
    )
)(listen)
app.add_typer(simulate, name="simulate")
app.command(
    epilog=examples(
        "sentio augment my_sounds --recipe data-hunger --out more",
        "sentio augment scenes --recipe impulse-response --device a --responses microphones --out more",
    )
)(augment)
