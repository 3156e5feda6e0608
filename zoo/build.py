"""Make the models that ship with Sentio again, each from its recipe, into ``src/sentio/shelf``.

    python zoo/build.py                        all of them
    python zoo/build.py street-sounds          one of them
    python zoo/build.py NAME --data NAME=DIR   one whose data the reader has to get

A model whose data are not given is skipped. ``make zoo`` runs this and writes docs/shelf.md anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import sentio
from sentio.cli.bars import Bars
from sentio.cli.printing import shipped as in_one_line
from sentio.core.artifact import MANIFEST, ArtifactFiles
from sentio.core.errors import MissingProgramError
from sentio.core.model import Model
from sentio.core.shelf import FOLDER, SUFFIX, TEXTS, facts
from sentio.data.features import features
from sentio.data.simulate.accents import read_accents
from sentio.training.calibrating import calibrate
from sentio.training.cross_validation import cross_validate, pooled
from sentio.training.division import divide
from sentio.training.progress import counter
from sentio.training.recipe import Recipe, read_recipe

ROOT = Path(__file__).resolve().parents[1]
#: the package stays small: every model is loaded by whoever installs it, used or not
MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Rendered:
    """Clips of the street simulator, see `sentio.data.simulate.rendering.render_clips`.

    Args:
        train: its options.
        test: its options for the test clips, of another seed.
    """

    train: Mapping[str, Any]
    test: Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """Data that the reader has to get; the recipe's own split says what is tested on.

    Args:
        variable: of the environment, which names the folder where ``--data`` does not.
        what: what belongs into the folder, and where it can be had.
    """

    variable: str
    what: str


@dataclass(frozen=True)
class Start:
    """What a training starts from: a network that was first trained on rendered sounds.

    Args:
        recipe: a YAML file.
        sounds: options of `sentio.data.simulate.rendering.render_clips`; where there are ``words`` among
            them, of `sentio.data.simulate.words.render_words`.
        changes: of the recipe, as for `sentio.training.recipe.read_recipe`.
    """

    recipe: Path
    sounds: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One shipped model.

    Args:
        name: of the model and its file.
        recipe: a YAML file. If it leaves no test part, it is also trained on each split of its protocol, and
            the test figures are those of all splits together.
        source: of the data.
        start: what the training starts from; None for random weights.
        teacher: the recipe of a network that teaches by distillation, trained first on the same data; what
            it teaches has ``teacher: self`` in its place.
        fetched: the name of a teacher that is not trained here but made of its authors' weights by the script
            of that name beside this one; it has to lie in the work folder.
        first: the recipe by which the network is taught first; it then goes on from there by ``recipe``,
            taught by what it was. Without, ``recipe`` is what the teacher teaches.
        halves: whether, of data without a test part, thresholds are fitted on one half of the validation part
            and the test figures are those of the other.
        dtype: of the weights in the file; what is computed is float32.
        purpose: what it is for, a few words.
        data: what it was trained on, with numbers and seeds.
        tested_on: the same of its test figures.
        licence: of the data.
        credits: whose data they are.
    """

    name: str
    recipe: Path
    source: Rendered | Given
    purpose: str
    data: str
    tested_on: str
    licence: str
    credits: str
    start: Start | None = None
    teacher: Path | None = None
    fetched: str | None = None
    first: Path | None = None
    halves: bool = False
    dtype: str = "float32"

    @property
    def taught_by(self) -> Path | None:
        """The recipe of what its card names as its teacher."""
        return self.first or self.teacher

    @property
    def command(self) -> str:
        """What makes it again."""
        data = "" if isinstance(self.source, Rendered) else f" --data {self.name}=FOLDER"
        return f"python zoo/build.py {self.name}{data}"


def _clips(settings: Mapping[str, Any]) -> str:
    """Rendered clips in words, for a card."""
    return (
        f"rendered clips of {settings['seconds']:g} s at {settings['rate'] / 1000:g} kHz, "
        f"{settings['per_class']} of each class, simulator seed {settings['seed']}"
    )


STREET = Rendered(
    train={"per_class": 400, "seconds": 2.0, "seed": 1, "rate": 16_000},
    test={"per_class": 100, "seconds": 2.0, "seed": 2, "rate": 16_000},
)
EVERYDAY = {"kinds": "all", "per_class": 260, "seconds": 2.0, "seed": 21, "rate": 32_000}
ESC10 = {
    "source": Given("SENTIO_ESC10", "ESC-10 with its folds (github.com/karolpiczak/ESC-50)"),
    "data": "ESC-10, folds 1 to 4, after rendered clips of 18 sounds and of none",
    "tested_on": "the clips of each fold by a model trained on the other three",
    "licence": "CC BY 3.0",
    "credits": "K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM MM 2015, and the "
    "authors of its clips at freesound.org; taught by aiSFX of A. B. Ma and A. Lerch, ISMIR 2022, whose "
    "weights are under CC BY 4.0",
}
ESC10_START = ROOT / "recipes" / "esc10-start.yaml"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = {str(digit): name for digit, name in enumerate(NAMES)}
ZOO = (
    Entry(
        "street-sounds",
        ROOT / "recipes" / "street-sounds.yaml",
        STREET,
        purpose="ten sounds of a street, and its background, in windows of 2 s",
        data=_clips(STREET.train),
        tested_on=_clips(STREET.test),
        licence="Apache-2.0, as Sentio itself: every sound is computed by its simulator, none is recorded",
        credits="The Sentio developers",
    ),
    Entry(
        "esc10-sounds",
        ROOT / "recipes" / "esc10-sounds.yaml",
        fetched="aisfx",
        purpose="ten sounds of animals, weather, people and machines, in windows of 2 s",
        start=Start(ESC10_START, EVERYDAY),
        **ESC10,
    ),
    Entry(
        "esc10-micro",
        ROOT / "recipes" / "esc10-sounds.yaml",
        fetched="aisfx",
        purpose="the same ten sounds in fewer than 30,000 parameters",
        start=Start(ESC10_START, EVERYDAY, {"network__options": {"width": 7, "kernel": 5, "hidden": False}}),
        **ESC10,
    ),
    Entry(
        "fsdd-digits",
        ROOT / "recipes" / "fsdd-digits.yaml",
        Given(
            "SENTIO_FSDD", "the Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset)"
        ),
        purpose="spoken English digits, by people it has not met",
        data="the Free Spoken Digit Dataset, indices 5 to 49, after digits of synthetic voices",
        tested_on="the words of each speaker by a model trained on the other five",
        licence="CC BY-SA 4.0",
        credits="Z. Jackson et al., Free Spoken Digit Dataset",
        start=Start(
            ROOT / "recipes" / "digits-start.yaml",
            {
                "words": DIGITS,
                "per_word": 2200,
                "seed": 31,
                "rate": 8000,
                "programs": ("espeak-ng", "flite"),
                "sizes": 0.2,
                "accents": read_accents(ROOT / "zoo" / "digit-accents.yaml"),
                "accented": 0.45,
            },
        ),
    ),
    Entry(
        "cifar10-anytime",
        ROOT / "recipes" / "cifar10-anytime.yaml",
        Given(
            "SENTIO_CIFAR10",
            "CIFAR-10 (cs.toronto.edu/~kriz/cifar.html), its files or its images in folders, train/CLASS/",
        ),
        purpose="small photographs of ten kinds of animals and vehicles",
        data="CIFAR-10, 40,000 of its training images, coded as JPEG",
        tested_on="5,000 more of its training images, neither trained on nor fitted to",
        licence="CIFAR-10's own: published for research, without a licence text",
        credits="A. Krizhevsky, V. Nair, G. Hinton, CIFAR-10",
        teacher=ROOT / "recipes" / "cifar10-teacher.yaml",
        first=ROOT / "recipes" / "cifar10-first.yaml",
        halves=True,
        dtype="float16",
    ),
)


class MissingDataError(Exception):
    """A model cannot be made here; the message says what is missing."""


def make(
    entry: Entry,
    work: Path,
    *,
    shelf: Path = FOLDER,
    given: Mapping[str, Path] | None = None,
    trained: Path | None = None,
    begun: Path | None = None,
) -> Path:
    """Train, test and export one model.

    Args:
        entry: which.
        work: a folder for its data, checkpoints and logs.
        shelf: where the artifact goes.
        given: folders of data by the model's name.
        trained: an artifact that ``sentio train`` made by the entry's recipe; None to train now.
        begun: one that it made by the recipe of the entry's start, on what that is rendered from.

    Raises:
        MissingDataError: its data are not given.
        SystemExit: it is too large, was not tested, or tells of the machine it was made on; the shelf is left
            as it was.
    """
    train, test = _data(entry, work, given or {})
    _check_fetched(entry, work)
    start = _start(entry, work) if begun is None else _begun(begun, entry)
    recipe, cache = read_recipe(entry.recipe), work.absolute() / "features"
    # Where a teacher lies, so that the recipe on the card names it without that folder.
    place = contextlib.nullcontext() if entry.fetched is None else contextlib.chdir(work)
    train, start = train.absolute(), start and start.absolute()
    trained, shelf, work = trained and trained.absolute(), shelf.absolute(), work.absolute()
    with Bars() as bars, place:
        if trained is not None:
            model = _trained(trained, recipe, entry.taught_by)
        elif entry.teacher is not None:
            model = _taught(entry, entry.teacher, train, work, bars)
        else:
            out = work / f"{entry.name}-trained"
            model = sentio.train(start, recipe, train, out=out, cache=cache, progress=bars)
        if test is not None:
            model.card["test"] = sentio.evaluate(model, test, progress=bars).for_card()
        elif "test" not in model.card and entry.halves:
            _test_on_half(model, recipe, train, cache)
        elif "test" not in model.card:
            folds = []
            for fold in cross_validate(start, recipe, train, cache=cache, progress=bars):
                folds.append(fold)
                exits = ", ".join(f"{exit.name} {exit.accuracy:.3f}" for exit in fold.found.exits)
                print(f"{fold.name}: policy {fold.found.accuracy:.3f}, {exits}", flush=True)
            if any(fold.part != "test" for fold in folds):
                sys.exit(
                    f"{entry.name}: {entry.recipe.name} leaves no test part, nor do the splits of its data"
                )
            model.card["test"] = pooled(folds)
    model.name = entry.name
    model.card["shelf"] = {key: getattr(entry, key) for key in TEXTS}
    made = work / f"{entry.name}{SUFFIX}"
    sentio.export(model, made, dtype=entry.dtype)
    _check(made)
    shelf.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(made, shelf / made.name))


def _taught(entry: Entry, teacher: Path, data: Path, work: Path, bars: Bars) -> Model:
    """A model that others taught, which are trained first unless they lie in ``work``."""
    data, start = data.absolute(), None
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(work):  # so that the recipe on the card names the teacher without this folder
        if not Path(teacher.stem).exists():
            sentio.train(None, teacher, data, out=teacher.stem, cache="features", progress=bars)
        if entry.first is not None:
            start = entry.first.stem
            if not Path(start).exists():
                recipe = read_recipe(entry.first, technique__options__teacher=teacher.stem)
                sentio.train(None, recipe, data, out=start, cache="features", progress=bars)
            teacher = entry.first
        recipe = read_recipe(entry.recipe, technique__options__teacher=teacher.stem)
        out = f"{entry.name}-trained"
        return sentio.train(start, recipe, data, out=out, cache="features", progress=bars)


def recipe_on(card: Mapping[str, Any], teacher: Path | None) -> Recipe | None:
    """The recipe on a card, with the keys it has got since; ``teacher: self`` in place of the entry's.

    None where there is no recipe, or another teacher.
    """
    if "recipe" not in card:
        return None
    values = json.loads(json.dumps(card["recipe"]))
    if teacher is not None:
        options = values["technique"]["options"]
        if options.get("teacher") != teacher.stem:
            return None
        options["teacher"] = "self"
    return read_recipe(values)


def _trained(artifact: Path, recipe: Recipe, teacher: Path | None = None) -> Model:
    """A model that was trained before; refused where another recipe made it."""
    model = sentio.load(artifact, runtime="torch")
    by = recipe_on(model.card, teacher)
    if by is None or by.for_card() != recipe.for_card():
        sys.exit(f"{artifact} was not trained by the recipe {recipe.name!r} as it is now; train it again")
    return model


def _test_on_half(model: Model, recipe: Recipe, data: Path, cache: Path) -> None:
    """Thresholds from one half of the validation part, test figures from the other, classes alike in both."""
    dataset = sentio.open_data(data, protocol=recipe.data.protocol, labels=recipe.data.labels)
    held = divide(dataset, recipe.data, recipe.seed).validation
    targets = dataset.targets[held]
    first = np.zeros(len(held), bool)
    for label in np.unique(targets):
        first[np.flatnonzero(targets == label)[::2]] = True
    assert model.frontend is not None and model.costs is not None
    prepared = features(dataset, model.frontend, cache=cache)
    part = prepared.select(held[first])
    model.temperatures = {}
    found = calibrate(
        model.outputs(part.inputs), part.targets, model.costs, recipe.calibration, seed=recipe.seed
    )
    model.temperatures, model.policy = found.temperatures, found.policy
    model.card["validation"] = found.report
    tested = sentio.evaluate(model, prepared.select(held[~first]), labels=dataset.labels)
    model.card["test"] = tested.for_card()


def _start(entry: Entry, work: Path) -> Path | None:
    """An artifact to start from, trained anew."""
    if entry.start is None:
        return None
    clips, made = work / f"{entry.name}-clips", work / f"{entry.name}-start{SUFFIX}"
    _render(clips, entry.start.sounds)
    recipe = read_recipe(entry.start.recipe, **entry.start.changes)
    with Bars() as bars:
        sentio.train(None, recipe, clips, out=made, progress=bars)
    return made


def _check_fetched(entry: Entry, work: Path) -> None:
    if entry.fetched is not None and not (work / entry.fetched).exists():
        script = f"zoo/{entry.fetched}.py"
        raise MissingDataError(
            f"its teacher is not here; {script} says where its weights are, and "
            f"python {script} WEIGHTS -o {work / entry.fetched} makes it"
        )


def _begun(artifact: Path, entry: Entry) -> Path:
    """A start that was trained before; refused where another recipe made it."""
    if entry.start is None:
        sys.exit(f"{entry.name} begins with random weights; leave --begun out")
    _trained(artifact, read_recipe(entry.start.recipe, **entry.start.changes))
    return artifact


def _render(folder: Path, settings: Mapping[str, Any]) -> None:
    from sentio.data.simulate.rendering import render_clips
    from sentio.data.simulate.words import render_words

    if folder.exists():  # what another version of the simulator rendered is not mixed in
        shutil.rmtree(folder)
    render = render_words if "words" in settings else render_clips
    with Bars() as bars:
        render(folder, **settings, progress=counter(bars, f"render {folder.name}"))


def _data(entry: Entry, work: Path, given: Mapping[str, Path]) -> tuple[Path, Path | None]:
    """Training data, and test data where they are apart."""
    source = entry.source
    if isinstance(source, Rendered):
        folders = work / f"{entry.name}-train", work / f"{entry.name}-test"
        for folder, settings in zip(folders, (source.train, source.test), strict=True):
            _render(folder, settings)
        return folders
    folder = given.get(entry.name) or os.environ.get(source.variable)
    if not folder:
        raise MissingDataError(
            f"its data are not here; get {source.what}, and name the folder with "
            f"--data {entry.name}=FOLDER or {source.variable}=FOLDER"
        )
    return Path(folder), None


def _check(artifact: Path) -> None:
    size, local = artifact.stat().st_size, list(local_paths(artifact))
    if size >= MAX_BYTES:
        sys.exit(f"{artifact.name} holds {size:,} bytes; a shipped model holds less than {MAX_BYTES:,}")
    if local:
        sys.exit(f"{artifact.name} tells of the machine it was made on: {', '.join(local)}")


#: an absolute path inside a text
_PATH = re.compile(r"""(?:^|[\s'"(=:])((?:/(?!/)|~/|[A-Za-z]:[\\/])[^\s'"),;]+)""")


def local_paths(artifact: Path) -> Iterator[str]:
    """Absolute paths in an artifact: any in its manifest, this machine's in its other files."""
    files = ArtifactFiles(artifact)
    here = {str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix}
    folders = [f"{folder.rstrip('/')}/".encode() for folder in here if len(folder) > 1]
    for name in files.manifest.files:
        content = files.read(name)
        yield from (f"{folder.decode()} in {name}" for folder in folders if folder in content)
    for text in _texts(json.loads(files.manifest.model_dump_json())):
        yield from (f"{path} in {MANIFEST}" for path in _PATH.findall(text))


def _texts(values: Any) -> Iterator[str]:
    """Every text in plain values, keys included."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield key
            yield from _texts(value)
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)


def main(arguments: list[str] | None = None, zoo: tuple[Entry, ...] = ZOO) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [entry.name for entry in zoo]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; by default all")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=FOLDER", help="where the data of a model are"
    )
    parser.add_argument(
        "--trained",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what sentio train made by the model's recipe, to train it no more",
    )
    parser.add_argument(
        "--begun",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="what sentio train made by the recipe of the model's start, on the sounds that this one says",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "zoo", help="for data and checkpoints")
    parser.add_argument("--shelf", type=Path, default=FOLDER, help="where the artifacts go")
    options = parser.parse_args(arguments)
    pairs = [text.partition("=") for text in options.data]
    before = [text.partition("=") for text in options.trained]
    starts = [text.partition("=") for text in options.begun]
    for name in (*options.names, *(name for name, _, _ in (*pairs, *before, *starts))):
        if name not in names:
            parser.error(f"there is no model {name!r}; choose of: {', '.join(names)}")
    given = {name: Path(folder) for name, _, folder in pairs}
    trained = {name: Path(path) for name, _, path in before}
    begun = {name: Path(path) for name, _, path in starts}
    for entry in zoo:
        if options.names and entry.name not in options.names:
            continue
        try:
            made = make(
                entry,
                options.work,
                shelf=options.shelf,
                given=given,
                trained=trained.get(entry.name),
                begun=begun.get(entry.name),
            )
            print(in_one_line(facts(made)))
        except (MissingDataError, MissingProgramError) as reason:
            print(f"{entry.name} is skipped: {reason}")
        except sentio.SentioError as error:
            sys.exit(f"{entry.name}: {error}")


if __name__ == "__main__":
    main()
