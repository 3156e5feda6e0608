"""What a recipe may say, section by section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(_Section):
    """Which data, and which part of it is kept from training."""

    path: str | None = Field(
        default=None,
        description="The labelled files, see [data](data.md); may be given when training instead.",
    )
    protocol: str | None = Field(
        default=None, description="How the data is divided: `folds`, `speaker`, `index`, `random`, ..."
    )
    split: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0,
        description="Which of the protocol's splits, from 0; `all` tests on nothing and trains on all but a "
        "validation share.",
    )
    validation: Literal["protocol"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default="protocol",
        description="`protocol` for its own validation part, or the share of whole recordings held out of "
        "all that is not tested on.",
    )


class NamedSection(_Section):
    """Something of the registry by name, with its options; the bare name is enough where it needs none."""

    name: str = Field(description="As `sentio models` lists it.")
    options: dict[str, Any] = Field(default={}, description="Keyword options of its constructor.")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_serializer("options", when_used="json")
    def _plain(self, options: dict[str, Any]) -> Any:
        """What was given in Python, such as a teacher, is named by its type."""
        return _each(
            options, lambda value: value if _is_plain(value) else f"{type(value).__name__} in Python"
        )


class ExitSection(_Section):
    """One kind of exit behind one or several stages."""

    kind: str = Field(description="As `sentio models` lists exits.")
    at: list[str] = Field(min_length=1, description="The stages behind which it is attached, one exit each.")
    names: list[str] | None = Field(default=None, description="The exits' names; by default their stages'.")
    options: dict[str, Any] = Field(default={}, description="Keyword options of its constructor.")


class OptimiserSection(_Section):
    """How weights follow gradients."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="The method.")
    lr: float = Field(default=1e-3, gt=0, description="Learning rate at its highest.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of `sgd`.")


class ScheduleSection(_Section):
    """How the learning rate falls."""

    name: Literal["plateau", "cosine", "constant"] = Field(
        default="cosine",
        description="`plateau` when the validation loss stops falling (the training loss where there is no "
        "validation part), along a `cosine` to zero, or not.",
    )
    factor: float = Field(
        default=0.6, gt=0, lt=1, description="By which `plateau` multiplies the learning rate."
    )
    patience: int = Field(
        default=2, ge=0, description="Epochs without a better loss that `plateau` lets pass."
    )
    warmup_epochs: int = Field(
        default=0, ge=0, description="Epochs of linear rise before `cosine`; at most half of all."
    )


class AugmentSection(_Section):
    """Random changes of the training features; zero switches one off."""

    roll: float = Field(default=0.0, ge=0, le=1, description="Largest roll along time, as a share of it.")
    shift: float = Field(
        default=0.0, ge=0, le=1, description="Largest shift along frequency, as a share of the bands."
    )
    gain: float = Field(
        default=0.0, ge=0, description="Largest change of loudness, in units of the standardised features."
    )
    time_mask: float = Field(default=0.0, ge=0, lt=1, description="Widest masked span of time, as a share.")
    frequency_mask: float = Field(
        default=0.0, ge=0, lt=1, description="Widest masked span of frequency, as a share."
    )
    mixup: float = Field(default=0.0, ge=0, description="Alpha of mixup's Beta distribution.")


class CalibrationSection(_Section):
    """What the exits' thresholds are fitted for, on the validation part; at most one goal."""

    temperature: bool = Field(default=True, description="Fit a temperature for each exit.")
    accuracy_drop: float | None = Field(
        default=None, ge=0, le=1, description="Goal: accuracy at most this much below the best single exit's."
    )
    target_accuracy: float | None = Field(
        default=None, gt=0, le=1, description="Goal: this accuracy, as cheaply as possible."
    )
    mean_macs: float | None = Field(
        default=None, gt=0, description="Goal: the best accuracy at this mean number of MACs."
    )

    def goals(self) -> dict[str, float]:
        found = {name: getattr(self, name) for name in ("accuracy_drop", "target_accuracy", "mean_macs")}
        return {name: value for name, value in found.items() if value is not None}


class DevicesSection(_Section):
    """Passed to Lightning's `Trainer` as they are."""

    accelerator: str = Field(default="auto", description="`auto`, `cpu`, `gpu`, `mps`, ...")
    devices: int | str | list[int] = Field(
        default=1, description="How many, or which, or `auto` for all there are."
    )
    strategy: str = Field(
        default="auto", description="`ddp` for several devices, `auto` to let Lightning say."
    )
    num_nodes: int = Field(default=1, ge=1, description="Machines.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        default="32-true", description="Arithmetic of the training."
    )


class Recipe(_Section):
    """Everything that decides what comes out of a training."""

    name: str = Field(min_length=1, description="Of the model that comes out.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of initial weights and all that is random.")
    deterministic: bool = Field(
        default=False, description="Only algorithms that give the same bits each time on the same machine."
    )
    data: DataSection = DataSection()
    frontend: NamedSection | None = Field(
        default=None, description="From files to features; by default chosen from the data."
    )
    network: NamedSection | None = Field(
        default=None, description="The network; by default the compact one, with two exits."
    )
    exits: list[ExitSection] = Field(default=[], description="Early exits; the last stage needs none.")
    task: NamedSection = Field(
        default=NamedSection(name="classification"), description="The meaning of the outputs."
    )
    technique: NamedSection = Field(
        default=NamedSection(name="end-to-end"), description="What is trained when, on which losses."
    )
    optimiser: OptimiserSection = OptimiserSection()
    schedule: ScheduleSection = ScheduleSection()
    augment: AugmentSection = AugmentSection()
    epochs: int = Field(default=60, ge=1, description="Epochs of each phase of the technique.")
    batch: int = Field(default=32, ge=1, description="Samples in a batch, on each device.")
    early_stopping: int | None = Field(
        default=None, ge=1, description="Epochs without a better validation loss after which a phase ends."
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="Which epoch's weights are kept, `best` by validation loss."
    )
    calibration: CalibrationSection = CalibrationSection(accuracy_drop=0.01)
    devices: DevicesSection = DevicesSection()

    def dump(self) -> str:
        """As YAML, every default written out."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text

    def for_card(self) -> dict[str, Any]:
        """Plain values that name no place on this machine: of a path among the options only its end."""
        values = self.model_dump(mode="json", exclude={"data": {"path"}})
        technique = values["technique"]
        technique["options"] = _each(
            technique["options"], lambda value: Path(value).name if isinstance(value, str) else value
        )
        return values


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested values with every leaf changed; tuples become lists, and paths text."""
    if isinstance(value, Mapping):
        return {str(key): _each(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each(inner, change) for inner in value]
    return change(str(value) if isinstance(value, Path) else value)
