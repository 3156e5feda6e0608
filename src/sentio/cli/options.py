"""The options that several commands share, and what their values mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sentio.core.errors import ConfigError
from sentio.core.policy import POLICIES, Policy, policy_from_dict

if TYPE_CHECKING:
    from sentio.core.model import Model

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Runtime = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="torch or edge; by default torch where it is installed."),
]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads of the runtime.")]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Execution provider of the edge runtime, such as cuda; the CPU by default."
    ),
]
PolicyText = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME:VALUE",
        help="Who leaves when, instead of the model's own policy: confidence:0.9, entropy:0.2, "
        "ensemble:0.9, patience:1, fixed:EXIT, deadline:MS or budget:MACS.",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How the data is divided: folds, esc10, speaker, index, random, urbansound8k, official, words, "
        "commands; which there are depends on the data.",
    ),
]
Cache = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Keep features in this folder for the next time.")
]
Draws = Annotated[
    int | None,
    typer.Option(
        "--tta",
        min=1,
        metavar="N",
        help="Average each answer over N random maskings and rolls, as wide as in the training.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out files that cannot be read, with a note.")
]
Artifact = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A model: a folder, a file, or the name of a shipped one.")
]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def typed(context: typer.Context) -> str:
    """The command again, as a shell takes it; what is at its default is left out."""
    words: list[str] = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.param_type_name == "argument":
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
        elif isinstance(value, list | tuple):  # an option that may be repeated
            words += [word for one in value for word in (option.opts[0], str(one))]
        elif value is not None and value != option.default:
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return join(["sentio", context.info_name or "", *words])


def policy(text: str | None) -> Policy | None:
    """``name:value`` as a policy.

    Raises:
        ConfigError: no such policy, or not its kind of value.
    """
    if text is None:
        return None
    name, _, value = text.partition(":")
    if name not in POLICIES or not value:
        raise ConfigError(
            f"--policy takes one of {', '.join(f'{name}:VALUE' for name in POLICIES)}; got {text!r}"
        )
    field = next(iter(POLICIES[name].__dataclass_fields__))
    if name == "fixed":
        return policy_from_dict({"name": name, field: value})
    try:
        number = int(value) if name == "patience" else float(value)
    except ValueError as error:
        kind = "whole number" if name == "patience" else "number"
        raise ConfigError(f"--policy {name} takes a {kind}, got {value!r}") from error
    return policy_from_dict({"name": name, field: number})


def split(text: str | None) -> int | str | None:
    """The number of a split, or ``all``.

    Raises:
        ConfigError: it is neither.
    """
    if text is None or text == "all":
        return text
    if not text.isdecimal():
        raise ConfigError(f"--split takes a number from 0, or all; got {text!r}")
    return int(text)


def runtime(text: str | None) -> Literal["torch", "edge"] | None:
    """A runtime by name.

    Raises:
        ConfigError: there is no such runtime.
    """
    if text is None or text in ("torch", "edge"):
        return text  # type: ignore[return-value]
    raise ConfigError(f"--runtime is torch or edge, got {text!r}")


def hold_torch_to(threads: int | None) -> None:
    """So many threads for PyTorch, where a model runs in it; the edge runtime is told as it is opened."""
    if threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def give_gallery(model: Model, path: Path | None) -> None:
    """Let a model name its embeddings by a gallery's file.

    Raises:
        ConfigError: it gives no embeddings, or such of another size.
        ArtifactError: no gallery there, or a damaged one.
    """
    from sentio.tasks.embedding import EmbeddingTask
    from sentio.tasks.gallery import Gallery

    if path is None:
        return
    if not isinstance(model.task, EmbeddingTask):
        raise ConfigError(f"--gallery names embeddings, and this model's task is {model.task.name}")
    model.task.gallery = Gallery.load(path)


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """``path.to.key=value`` as changes for `read_recipe`; values are read as YAML.

    Raises:
        ConfigError: one has no ``=``, or its value is not valid.
    """
    import yaml

    found = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set takes KEY=VALUE, e.g. optimiser.lr=0.001; got {text!r}")
        try:
            found[path.strip().replace(".", "__")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {path} has a value that is not valid YAML: {value!r}") from error
    return found


def evaluation(out: Path, recipe: Any, skip_bad: bool) -> str:
    """The command that measures a trained model on what it was not trained on."""
    words = ["sentio", "evaluate", str(out), str(recipe.data.path), *(["--skip-bad"] if skip_bad else [])]
    if recipe.data.split == "all":
        return join(words)
    words += ["--split", str(recipe.data.split)]
    words += ["--protocol", recipe.data.protocol] if recipe.data.protocol else []
    words += ["--seed", str(recipe.seed)] if recipe.seed else []
    return join(words)
