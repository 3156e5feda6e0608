"""``sentio demo``: from nothing to a model that listens to a street, and a report about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import join
from shutil import which
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentio.cli import options, printing
from sentio.cli.bars import Bars
from sentio.core.errors import MissingExtraError, SentioError
from sentio.data.dataset import listed

if TYPE_CHECKING:
    from sentio.core.model import Model
    from sentio.data.dataset import Dataset
    from sentio.serve.listening import Listening
    from sentio.training.evaluation import Evaluation
    from sentio.training.recipe import Recipe

#: clips of rendered sounds in each class, and seconds of each
PER_CLASS, SECONDS = 120, 2.0
#: epochs are as many as show the network this many clips, within bounds
LOOKS, MOST_EPOCHS = 32_000, 60
#: seconds between windows of the street
HOP = 0.5
#: compact, and quick to train on two cores
RECIPE: dict[str, Any] = {
    "name": "demo",
    "network": {"name": "dcase2024-baseline"},
    "exits": [
        {"kind": "pooled-linear", "at": ["block2", "block4"], "options": {"over": "time", "hidden": 64}}
    ],
    "technique": "classifier-wise",
    "optimiser": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
    "schedule": {"name": "cosine", "warmup_epochs": 2},
    "augment": {"roll": 1.0, "time_mask": 0.1, "frequency_mask": 0.1, "mixup": 0.2},
    "batch": 32,
    "keep": "last",
    "calibration": {"accuracy_drop": 0.01},
}
STREET_FRONTEND = {
    "name": "log-mel",
    "options": {
        "window": SECONDS,
        "rate": 16000,
        "n_fft": 512,
        "hop_length": 320,
        "n_mels": 48,
        "f_min": 40.0,
        "ref": "max",
        "top_db": 80.0,
    },
}
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from sentio.cli import main; main(sys.argv[1:])"


def demo(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Sounds of your own, as for sentio train; else they are rendered."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.")] = Path("sentio-demo"),
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all that is random.")] = 0,
    minutes: Annotated[float, typer.Option(metavar="N", help="Length of the street.")] = 1.0,
    deadline: Annotated[float, typer.Option(metavar="MS", help="For each window of the street.")] = 20.0,
    per_class: Annotated[
        int, typer.Option(min=4, metavar="N", help="Rendered clips in each class.")
    ] = PER_CLASS,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each phase; by default by the amount of data.")
    ] = None,
) -> None:
    """Show everything once, from sounds to a report, in three minutes.

    Renders street sounds, trains a compact network on them, attaches exits to the frozen backbone,
    calibrates, compares three policies, listens to a rendered street under a deadline for each window,
    exports, runs again without PyTorch, and writes a report. With --data all of it on your own sounds; the
    street is then made of the clips that were kept from training.
    """
    _check_installed()
    from sentio.serve.listening import BACKGROUND

    begun = perf_counter()
    rendered = data is None
    with _step(1, "Sounds"):
        dataset = _sounds(data, out, per_class, seed)
    recipe = _recipe(dataset, seed, epochs, rendered)
    with _step(2, "Training: the backbone, exits on the frozen backbone, calibration"):
        model, test = _trained(recipe, dataset, out / "model")
    kept = model.card["data"]["files"]["test"]  # without those that cannot be read
    with _step(3, f"Three policies, on {kept} clips that were kept from training"), _one_thread():
        evaluations = _evaluated(model, test)
    with (
        _step(4, f"Listening to {60 * minutes:g} seconds of street, {deadline:g} ms for each window"),
        _one_thread(),
    ):
        heard = _street(model, None if rendered else test, out / "street", minutes, deadline, seed)
        if data is not None and BACKGROUND not in heard.labels:
            note = _never_met_a_street(data)
            print(f"note: {note}")
            evaluations[0] = replace(evaluations[0], notes=(*evaluations[0].notes, note))
    with _step(5, "The box: exported, and run once more without PyTorch"):
        _box(model, out / "box", heard.source)
    with _step(6, "Report"):
        page = _report(out / "report.html", evaluations, heard, dataset, options.typed(context), seed)
        print(f"{page}, {page.stat().st_size / 1000:.0f} kB")
    print(f"\nAll of it took {perf_counter() - begun:.0f} s. Next:")
    program = _program()
    print(f"  look at {page} in a browser")
    print(f"  {join([program, 'predict', str(out / 'box')])} YOUR.wav --windows")
    print(f"  {join([program, 'demo'])} --data YOUR_SOUNDS")


def _program() -> str:
    """What to type for Sentio here: after ``make demo`` it is not on the path."""
    called = Path(sys.argv[0])
    return str(called) if called.stem == "sentio" and called.is_file() and not which("sentio") else "sentio"


def _check_installed() -> None:
    for package in ("torch", "lightning", "tensorboard", "matplotlib", "onnxscript"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package}, which sentio demo needs,", "train,export")


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    print(f"\n{number}. {title}", flush=True)
    begun = perf_counter()
    yield
    print(f"   [{perf_counter() - begun:.1f} s]", flush=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A window at a time is too little to divide, and on a busy machine one thread waits for the other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sounds(data: Path | None, out: Path, per_class: int, seed: int) -> Dataset:
    from sentio import open_data
    from sentio.data.simulate.rendering import render_clips
    from sentio.training.progress import counter

    if data is None:
        with Bars() as bars:
            data = render_clips(
                out / "clips",
                per_class=per_class,
                seconds=SECONDS,
                seed=seed,
                progress=counter(bars, "render clips"),
            )
    dataset = open_data(data)
    print(f"{len(dataset)} clips in {data}, {len(dataset.labels)} classes: {listed(dataset.labels, 12)}")
    return dataset


def _recipe(dataset: Dataset, seed: int, epochs: int | None, rendered: bool) -> Recipe:
    from sentio.training.recipe import read_recipe

    fitting = min(MOST_EPOCHS, max(5, round(LOOKS / len(dataset))))
    return read_recipe(
        RECIPE,
        seed=seed,
        epochs=epochs or fitting,
        frontend=STREET_FRONTEND if rendered else None,
    )


def _trained(recipe: Recipe, dataset: Dataset, out: Path) -> tuple[Model, Dataset]:
    """The model, and the clips it was kept from."""
    from sentio import train
    from sentio.training.division import divide

    with Bars() as bars:
        model = train(None, recipe, dataset, out=out, skip_bad=True, progress=bars)
    print(printing.training(model.card))
    return model, dataset.subset(divide(dataset, recipe.data, recipe.seed).test)


def _evaluated(model: Model, test: Dataset) -> list[Evaluation]:
    """The model's own policy, and two others."""
    from sentio import Budget, Patience, evaluate

    assert model.costs is not None
    second = model.costs.macs[min(1, len(model.costs.macs) - 1)]
    with Bars() as bars:
        found = [
            evaluate(model, test, policy=policy, skip_bad=True, progress=bars)
            for policy in (None, Patience(1), Budget(second))
        ]
    print(printing.policies(found))
    return found


def _street(
    model: Model, samples: Dataset | None, out: Path, minutes: float, deadline: float, seed: int
) -> Listening:
    from sentio.data.simulate.labels import read_labels
    from sentio.data.simulate.rendering import render_street
    from sentio.serve.listening import hear
    from sentio.training.progress import counter

    with Bars() as bars:
        render_street(
            out,
            minutes=minutes,
            seed=seed + 1,  # sounds that the model has not met
            samples=samples,
            polyphony=1,
            progress=counter(bars, "render street"),
        )
    first = min((out / "audio").glob("*.wav"))
    heard = hear(model, first, hop=HOP, deadline_ms=deadline, truth=read_labels(out))
    print(printing.listening(heard))
    return heard


def _never_met_a_street(data: Path) -> str:
    """Why little is right in the street, though the clips are answered well."""
    program = _program()
    render = join([program, "simulate", "clips", "--samples", str(data), "--out", "clips-in-a-street"])
    return (
        "The data has no class 'background' and the model never met the noise of a street, so there it names "
        f"whatever is nearest. To train it for one, lay the clips over such noise: {render}; then: "
        f"{join([program, 'demo', '--data', 'clips-in-a-street'])}"
    )


def _box(model: Model, out: Path, recording: str) -> None:
    """Export, and let a process in which PyTorch cannot be imported answer the same recording."""
    from sentio import export

    exported = export(model, out)
    size = sum(exported.bytes.values())
    print(f"{len(exported.bytes)} graphs, {size / 1e6:.2f} MB, in {out}")
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        "predict",
        str(out),
        recording,
        "--hop",
        str(HOP),
        "--json",
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SentioError(f"The box did not answer without PyTorch: {run.stderr.strip()}")
    there = json.loads(run.stdout)[0]
    here = model.predict(recording, hop=HOP).to_dict()
    pairs = list(zip(here["windows"] or [here], there["windows"] or [there], strict=True))
    same = sum(ours["label"] == theirs["label"] and ours["exit"] == theirs["exit"] for ours, theirs in pairs)
    apart = max(
        (
            abs(score - theirs["scores"][label])
            for ours, theirs in pairs
            for label, score in ours["scores"].items()
        ),
        default=0.0,
    )
    print(
        f"without PyTorch: the same answer from the same exit for {same} of {len(pairs)} windows, "
        f"probabilities at most {apart:.1e} apart"
    )


def _report(
    path: Path, evaluations: list[Evaluation], heard: Listening, dataset: Dataset, command: str, seed: int
) -> Path:
    from sentio.reporting import circumstances, write_report

    return write_report(
        path,
        evaluations,
        title="Sentio demo",
        listening=heard,
        made_by=circumstances(
            evaluations[0].runtime,
            command=command,
            data=f"{dataset.name}: {len(dataset)} clips, {len(dataset.labels)} classes",
            seed=seed,
        ),
    )
