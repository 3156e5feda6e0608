"""Check the installed package in an environment of the base dependencies, so without PyTorch.

    python check_box.py DIR         DIR as written by make_box.py

Prints one line for each check, and leaves with 1 if one fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch_free import HIDDEN, import_errors, modules, needs_torch

#: what ``import sentio`` may take, in seconds
IMPORT_SECONDS = 0.3
#: how far a probability may be from PyTorch's
TOLERANCE = 1e-4


def nothing_optional_is_installed(box: Path) -> str:
    found = sorted(name for name in HIDDEN if find_spec(name))
    assert not found, f"this environment has {', '.join(found)}; it must hold the base dependencies only"
    origin = Path(find_spec("sentio").origin)
    assert origin.is_relative_to(sys.prefix), f"sentio comes from {origin}, not from the wheel"
    return "no PyTorch here, sentio is the wheel's"


def import_is_quick(box: Path) -> str:
    timed = "import time; begun = time.perf_counter(); import sentio; print(time.perf_counter() - begun)"
    run = [sys.executable, "-c", timed]
    best = min(float(subprocess.run(run, check=True, capture_output=True).stdout) for _ in range(5))
    assert best < IMPORT_SECONDS, f"import sentio takes {best:.2f} s at best, more than {IMPORT_SECONDS} s"
    return f"import sentio: {best * 1000:.0f} ms, best of 5"


def edge_starts_quickly(box: Path) -> str:
    """Figures only: what they are depends on the machine."""
    timed = (
        "import time; begun = time.perf_counter(); import sentio.edge; imported = time.perf_counter()\n"
        f"model = sentio.edge.load({str(box / 'box')!r}, threads=1); loaded = time.perf_counter()\n"
        f"model.predict({str(next((box / 'clips').iterdir()))!r})\n"
        "print(imported - begun, loaded - begun, time.perf_counter() - begun)"
    )
    runs = [
        [float(word) for word in subprocess.run(run, check=True, capture_output=True).stdout.split()]
        for run in [[sys.executable, "-c", timed]] * 5
    ]
    imported, loaded, answered = (1000 * min(figures) for figures in zip(*runs, strict=True))
    return (
        f"import sentio.edge: {imported:.0f} ms; from the start a model is there after {loaded:.0f} ms and "
        f"has answered after {answered:.0f} ms, best of 5"
    )


def modules_import(box: Path) -> str:
    free = [name for name in modules() if not needs_torch(name)]
    failed = {name: error for name, error in import_errors(free).items() if error}
    assert not failed, f"these modules do not import without PyTorch: {failed}"
    return f"{len(free)} modules import"


def missing_torch_is_named(box: Path) -> str:
    import sentio

    for ask in (lambda: sentio.Staged, lambda: sentio.load(box / "box", runtime="torch")):
        try:
            ask()
        except sentio.MissingExtraError as error:
            assert "sentio[torch]" in str(error), f"this message names no extra: {error}"
        else:
            raise AssertionError("something that needs PyTorch came without it")
    return "what needs PyTorch says so, with the extra"


def answers_agree(box: Path) -> str:
    import sentio

    reference = json.loads((box / "reference.json").read_text(encoding="utf-8"))
    assert reference, "there are no reference answers"
    count, worst = compared(sentio.load(box / "box"), reference, (box / "clips").joinpath)
    return f"{count} answers as in PyTorch: same exit, probabilities within {worst:.1e}"


def compared(model: Any, reference: dict[str, Any], source: Callable[[str], Any]) -> tuple[int, float]:
    """How many answers agree with PyTorch's, and the largest difference of a probability.

    ``source`` gives what each answer of the reference is about.
    """
    assert model.runtime == "edge", f"the model runs on {model.runtime!r}"
    worst, count = 0.0, 0
    for name, wanted in reference.items():
        found = json.loads(json.dumps(model.predict(source(name)).to_dict()))
        pairs = list(zip([found, *found["windows"]], [wanted, *wanted["windows"]], strict=True))
        for index, (ours, theirs) in enumerate(pairs):
            where = name if index == 0 else f"{name}, window {index}"
            for key in ("label", "exit", "start", "end", "notes"):
                assert ours[key] == theirs[key], f"{where}: {key} {ours[key]!r}, in PyTorch {theirs[key]!r}"
            assert ours["scores"].keys() == theirs["scores"].keys(), f"{where}: other classes"
            gaps = [abs(ours["scores"][label] - score) for label, score in theirs["scores"].items()]
            worst, count = max([worst, *gaps]), count + 1
    assert worst <= TOLERANCE, f"probabilities differ from PyTorch's by up to {worst:.1e}"
    return count, worst


def command_answers(box: Path) -> str:
    clips = sorted((box / "clips").iterdir())
    reference = json.loads((box / "reference.json").read_text(encoding="utf-8"))
    for row in command("predict", box / "box", *clips):
        wanted = reference[Path(row["file"]).name]["label"]
        assert row["label"] == wanted, f"sentio predict says {row['label']} of {row['file']}, not {wanted}"
    return "the command says the same"


def command(*words: object) -> Any:
    """What ``sentio WORDS --json`` prints."""
    program = Path(sys.executable).with_name("sentio")
    run = subprocess.run([str(program), *map(str, words), "--json"], capture_output=True, text=True)
    assert run.returncode == 0, f"sentio {words[0]} left with {run.returncode}: {run.stderr}"
    return json.loads(run.stdout)


def clips_are_rendered(box: Path) -> str:
    import soundfile

    from sentio.data.simulate.rendering import render_clips

    settings = json.loads((box / "clips.json").read_text(encoding="utf-8"))
    with TemporaryDirectory() as scratch:
        made = sorted((render_clips(Path(scratch) / "rendered", **settings) / "audio").iterdir())
        wanted = sorted((box / "rendered" / "audio").iterdir())
        assert [file.name for file in made] == [file.name for file in wanted], "other clips are rendered here"
        for ours, theirs in zip(made, wanted, strict=True):
            gap = abs(soundfile.read(ours)[0] - soundfile.read(theirs)[0]).max()
            assert gap <= TOLERANCE, f"{ours.name} differs by {gap:.1e} from what is rendered beside PyTorch"
    return f"{len(made)} street clips rendered, the same as beside PyTorch"


def picture_of(file: Path) -> Callable[[str], Any]:
    import numpy as np

    pictures = np.load(file)
    return lambda place: pictures[int(place)]


def shipped_models_answer(box: Path) -> str:
    import sentio
    from sentio.core.shelf import shipped

    reference = json.loads((box / "shelf.json").read_text(encoding="utf-8"))
    assert list(shipped()) == list(reference), f"the wheel ships {list(shipped())}, not {list(reference)}"
    if not reference:
        return "no model ships in this wheel, so none is tried"
    listed = [model["name"] for model in command("models")["model"]]
    assert listed == list(reference), f"sentio models lists {listed}"
    count, worst = 0, 0.0
    audio = box / "rendered" / "audio"
    for name, wanted in reference.items():
        pictures = box / f"{name}.npy"
        source = picture_of(pictures) if pictures.exists() else audio.joinpath
        answers, gap = compared(sentio.load(name), wanted["answers"], source)
        count, worst = count + answers, max(worst, gap)
        if pictures.exists():
            continue
        clip = next(iter(wanted["answers"]))
        (row,) = command("predict", name, audio / clip)
        assert row["label"] == wanted["answers"][clip]["label"], f"sentio predict {name}: {row['label']}"
        confusion = command("evaluate", name, box / f"{name}.csv")["confusion"]
        assert confusion == wanted["confusion"], f"sentio evaluate {name} counts otherwise than PyTorch"
    return f"{', '.join(reference)}: {count} answers as in PyTorch, probabilities within {worst:.1e}"


def every_exit_agrees_on_features(box: Path) -> str:
    import numpy as np

    from sentio import edge
    from sentio.core.confidence import softmax

    files = sorted((box / "features").glob("*.npz"))
    assert files, "there are no features"
    worst, close = 0.0, []
    for file in files:
        own = box / "networks" / f"{file.stem}.sentio"
        model = edge.load(own if own.exists() else file.stem, threads=1)
        given = np.load(file)
        ours = model.outputs(given["features"])
        sure = {}
        for exit, values in ours.items():
            want = softmax(given[f"output {exit}"])
            worst = max(worst, float(np.abs(softmax(values) - want).max()))
            assert worst <= TOLERANCE, f"{file.stem}: exit {exit!r} differs from PyTorch by {worst:.1e}"
            sure[exit] = want.max(axis=1)
        found = model.answer(given["features"]).exit_names()
        for row, (one, other) in enumerate(zip(found, given["exits"].tolist(), strict=True)):
            if one != other:
                early = min(one, other, key=model.exit_names.index)
                limits = model.policy.threshold
                limit = limits[early] if isinstance(limits, dict) else limits
                near = abs(float(sure[early][row]) - limit)
                assert near <= TOLERANCE, f"{file.stem}, sample {row}: exit {one}, in PyTorch {other}"
                close.append(f"{file.stem} sample {row}")
        if own.exists():
            assert len(set(found)) > 1, f"{file.stem}: all samples leave at {found[0]}"
    names = ", ".join(file.stem for file in files)
    listed = ", ".join(close) or "none"
    return f"{names}: every exit within {worst:.1e}; other exit at a threshold: {listed}"


CHECKS: tuple[Callable[[Path], str], ...] = (
    nothing_optional_is_installed,
    import_is_quick,
    edge_starts_quickly,
    modules_import,
    missing_torch_is_named,
    answers_agree,
    command_answers,
    clips_are_rendered,
    shipped_models_answer,
    every_exit_agrees_on_features,
)


def main(box: Path) -> None:
    failed = False
    for check in CHECKS:
        try:
            print(f"ok      {check(box)}")
        except AssertionError as error:
            print(f"FAILED  {check.__name__}: {error}")
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
