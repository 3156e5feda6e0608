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
    labels: Annotated[list[str], Field(min_length=2)] | None = Field(
        default=None,
        description="Keep these classes only; of clips that carry several labels, those with exactly one "
        "of them.",
    )
    split: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0,
        description="Which of the protocol's splits, from 0; `all` tests on nothing and trains on all but a "
        "validation part.",
    )
    validation: Literal["protocol", "group", "each-group"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default="protocol",
        description="`protocol` for its own validation part; `group` for a whole fold or speaker, also of "
        "`all`; `each-group` for each of them in turn, by a training of its own, and needs `refit`; "
        "or the share of whole recordings held out of all that is not tested on.",
    )
    train_hop: float | None = Field(
        default=None,
        gt=0,
        description="Distance of the windows that are trained on, in seconds; by default the front end's.",
    )
    draw: Literal["all", "one"] = Field(
        default="all",
        description="What an epoch takes of a recording: `all` of its windows, or `one`, drawn anew.",
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
    reads: list[str] | None = Field(
        default=None,
        description="What the exit reads, `STAGE.TENSOR` each, for networks whose boundaries carry several "
        "tensors; by default `main` behind its stage. Then `at` is one stage, the last of those.",
    )
    options: dict[str, Any] = Field(default={}, description="Keyword options of its constructor.")

    @model_validator(mode="after")
    def _whole_reads(self) -> ExitSection:
        for text in self.reads or ():
            if "." not in text.strip("."):
                raise ValueError(f"should be STAGE.TENSOR, such as visual4.main, in reads: {text!r}")
        if self.reads is not None and len(self.at) > 1:
            raise ValueError("should have one stage in at where it has reads; add a section for each exit")
        return self

    def tensors(self) -> list[list[tuple[str, str]]] | None:
        """The (boundary, tensor) pairs of its one exit; None where it reads what lies behind its stage."""
        if self.reads is None:
            return None
        pairs = [text.rpartition(".") for text in self.reads]
        return [[(stage, tensor) for stage, _, tensor in pairs]]


class OptimiserSection(_Section):
    """How weights follow gradients."""

    name: Literal["adam", "adamw", "muon", "sgd"] = Field(default="adam", description="The method.")
    lr: float = Field(default=1e-3, gt=0, description="Learning rate at its highest.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of `sgd`, `muon`.")
    clip: float | None = Field(
        default=None, gt=0, description="Longest gradient over all parameters; a longer one is scaled to it."
    )


class LossSection(_Section):
    """What each exit of a classifier is trained to make small; left as it is, the task's own loss."""

    name: Literal["cross-entropy", "focal"] = Field(
        default="cross-entropy",
        description="`focal` lets samples that are surely right count less (Lin et al. 2017).",
    )
    gamma: float = Field(default=1.0, ge=0, description="Exponent of `focal`; at 0 it is the cross-entropy.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of each target that is spread evenly over all classes."
    )
    class_weights: Literal["none", "inverse"] | dict[str, Annotated[float, Field(ge=0)]] = Field(
        default="none",
        description="`inverse`: a class of n training samples weighs 1 / max(n, `class_floor`); or a weight "
        "by label, 1 for those not named. Scaled to a mean of 1 over the training samples.",
    )
    class_floor: int = Field(
        default=1, ge=1, description="Classes of fewer samples weigh no more with `inverse`."
    )

    @property
    def is_default(self) -> bool:
        """Whether the task's own loss is left as it is."""
        plain = self.name == "cross-entropy" or self.gamma == 0
        return plain and not self.label_smoothing and self.class_weights == "none"


class ScheduleSection(_Section):
    """How the learning rate moves; shares are of `optimiser.lr`, epochs count from 0."""

    name: Literal["plateau", "cosine", "cosine-cycle", "linear", "one-cycle", "constant"] = Field(
        default="cosine",
        description="`plateau` when the validation loss stops falling (the training loss where there is no "
        "validation part), along half a `cosine`, in cosines up and down again (`cosine-cycle`), `linear`, "
        "up and down once (`one-cycle`), or not.",
    )
    factor: float = Field(
        default=0.6, gt=0, lt=1, description="By which `plateau` multiplies the learning rate."
    )
    patience: int = Field(
        default=2, ge=0, description="Epochs without a better loss that `plateau` lets pass."
    )
    floor: float = Field(
        default=0.0, ge=0, lt=1, description="The share below which the learning rate does not fall."
    )
    warmup_epochs: int = Field(
        default=0,
        ge=0,
        description="Epochs of rise: linear before `cosine`, exponential before `linear`, the first part of "
        "`one-cycle` (0 for three tenths); at most half of all.",
    )
    cycle_epochs: int = Field(default=20, ge=2, description="Epochs of one rise and fall of `cosine-cycle`.")
    decay_start: int | None = Field(
        default=None,
        ge=0,
        description="Epoch from which `linear` falls (by default the end of the warm-up), or up to which "
        "`cosine-cycle` begins new cycles (by default the last).",
    )
    decay_epochs: int | None = Field(
        default=None, ge=1, description="Epochs in which `linear` falls to the floor; by default the rest."
    )
    every: Literal["epoch", "step"] = Field(
        default="epoch", description="When the learning rate is set anew, other than for `plateau`."
    )


class AveragingSection(_Section):
    """The mean of the weights along the training, which is then validated and kept in their place."""

    name: Literal["none", "ema", "swa"] = Field(
        default="none",
        description="`ema`: exponential, after every step, running statistics too. `swa`: plain, over the "
        "ends of the last epochs, running statistics measured anew (Izmailov et al. 2018).",
    )
    decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Share of the old mean that `ema` keeps in a step; at most (1 + n) / (10 + n) after n "
        "steps.",
    )
    start: float = Field(
        default=0.75, ge=0, lt=1, description="Share of the epochs after which `swa` begins."
    )


Rates = tuple[Annotated[float, Field(ge=0.25, le=4)], Annotated[float, Field(ge=0.25, le=4)]]


class AugmentSection(_Section):
    """Random changes of what is trained on, see [augmentation](augmentation.md); zero switches one off.

    Features are changed anew in every batch. Sound is changed before its features are computed, in `copies`
    of every training item; each epoch takes the original or one of its copies, at random.
    """

    roll: float = Field(default=0.0, ge=0, le=1, description="Largest roll along time, as a share of it.")
    shift: float = Field(
        default=0.0, ge=0, le=1, description="Largest shift along frequency, as a share of the bands."
    )
    warp_time: float = Field(
        default=0.0, ge=0, le=1, description="Largest stretch along time, as a share; or squeeze, likewise."
    )
    warp_frequency: float = Field(
        default=0.0, ge=0, le=1, description="The same along frequency, about the middle band."
    )
    gain: float = Field(
        default=0.0, ge=0, description="Largest change of loudness, in units of the standardised features."
    )
    time_mask: float = Field(default=0.0, ge=0, lt=1, description="Widest masked span of time, as a share.")
    time_masks: int = Field(default=1, ge=1, description="How many of them.")
    frequency_mask: float = Field(
        default=0.0, ge=0, lt=1, description="Widest masked span of frequency, as a share."
    )
    frequency_masks: int = Field(default=1, ge=1, description="How many of them.")
    mask_width: Literal["inclusive", "exclusive"] = Field(
        default="inclusive", description="Whether a mask may be as wide as the widest."
    )
    mask_fill: Literal["mean", "region"] | float = Field(
        default="mean",
        description="What is in a mask: the sample's `mean`, that of the `region`, or a number.",
    )
    erase: float = Field(
        default=0.0, ge=0, le=1, description="Share of samples with an erased rectangle, filled as masks are."
    )
    erase_side: float = Field(
        default=0.5, gt=0, le=1, description="Its longest sides, as shares of time and frequency."
    )
    flip: float = Field(
        default=0.0, ge=0, le=1, description="Images: share of them that are mirrored left to right."
    )
    crop: int = Field(
        default=0, ge=0, description="Images: largest shift in pixels, up or down and left or right."
    )
    crop_edge: Literal["zero", "reflect"] = Field(
        default="zero", description="What enters: the mean colour, or the image's own reflection."
    )
    cutout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Images: side of a hidden square, as a share of the shorter side.",
    )
    colour: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Images: strength of random brightness, contrast and saturation.",
    )
    freq_mixstyle: float = Field(
        default=0.0, ge=0, le=1, description="Share of batches with Freq-MixStyle, statistics of each band."
    )
    freq_mixstyle_alpha: float = Field(
        default=0.4, gt=0, description="Alpha of Freq-MixStyle's Beta distribution."
    )
    mixstyle: float = Field(
        default=0.0, ge=0, le=1, description="Share of batches with MixStyle, statistics of each channel."
    )
    mixstyle_alpha: float = Field(default=0.4, gt=0, description="Alpha of MixStyle's Beta distribution.")
    mixup: float = Field(default=0.0, ge=0, description="Alpha of mixup's Beta distribution.")
    mixup_probability: float = Field(default=1.0, ge=0, le=1, description="Share of batches with mixup.")
    mixup_per_sample: bool = Field(
        default=False, description="Whether mixup draws a weight for each sample, not one for the batch."
    )
    mixup_larger: bool = Field(
        default=False, description="Whether the larger of the two weights is always the sample's own."
    )
    copies: int = Field(default=0, ge=0, le=100, description="Augmented copies of each training item.")
    each_copy: Literal["all", "one"] = Field(
        default="all", description="Whether a copy has `all` of the changes below, or `one` of them in turn."
    )
    speed: Rates = Field(
        default=(1.0, 1.0), description="Copies: slowest and fastest playing, pitch and tempo together."
    )
    stretch: Rates = Field(default=(1.0, 1.0), description="Copies: slowest and fastest tempo, pitch kept.")
    pitch: float = Field(
        default=0.0, ge=0, le=24, description="Copies: largest change of pitch, in semitones."
    )
    time_shift: float = Field(default=0.0, ge=0, description="Copies: largest shift in time, in seconds.")
    time_shift_edge: Literal["roll", "discard"] = Field(
        default="roll", description="Whether what leaves re-enters, or silence does."
    )
    impulse_response: float = Field(
        default=0.0, ge=0, le=1, description="Copies: share of them heard through another microphone."
    )
    responses: str | None = Field(
        default=None, description="Folder of measured impulse responses; by default 66 synthetic ones."
    )
    devices: list[str] | None = Field(
        default=None, description="Devices whose recordings another one may stand in for; by default all."
    )
    device_column: str = Field(default="device", description="Where the data says an item's device.")
    wave_mask: float = Field(
        default=0.0, ge=0, lt=1, description="Copies: widest hidden span of the sound, as a share."
    )
    wave_mask_fill: Literal["zeros", "mean"] = Field(default="zeros", description="What is in it.")
    band_mask: float = Field(
        default=0.0, ge=0, lt=1, description="Copies: widest removed band of frequencies, as a share."
    )
    noise: tuple[float, float] | None = Field(
        default=None, description="Copies: lowest and highest signal-to-noise ratio of white noise, in dB."
    )
    wave_gain: float = Field(default=0.0, ge=0, description="Copies: largest change of level, in dB.")
    mel_jitter: float = Field(
        default=0.0, ge=0, description="Copies: largest change of the mel bands' upper edge, in Hz."
    )


class CalibrationSection(_Section):
    """What the exits' thresholds are fitted for, on the validation part; at most one goal."""

    temperature: bool = Field(default=True, description="Fit a temperature for each exit.")
    accuracy_drop: float | None = Field(
        default=None, ge=0, le=1, description="Goal: accuracy at most this much below the best exit's."
    )
    target_accuracy: float | None = Field(
        default=None, gt=0, le=1, description="Goal: this accuracy, as cheaply as possible."
    )
    mean_macs: float | None = Field(
        default=None, gt=0, description="Goal: the best accuracy at this mean number of MACs."
    )
    certainty: float = Field(default=0.5, ge=0.5, lt=1, description="That this holds on new data too.")
    ensemble: bool = Field(default=False, description="Exits answer together: the policy is `Ensemble`.")

    def goals(self) -> dict[str, float]:
        found = {name: getattr(self, name) for name in ("accuracy_drop", "target_accuracy", "mean_macs")}
        return {name: value for name, value in found.items() if value is not None}


class DevicesSection(_Section):
    """Passed to Lightning's `Trainer` as they are, but for `channels_last`."""

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
    channels_last: bool = Field(
        default=False,
        description="Lay images out with channels last, which convolutions in `bf16-mixed` are faster with.",
    )

    def for_trainer(self) -> dict[str, Any]:
        """What Lightning is given; the layout is set on the network itself."""
        return self.model_dump(exclude={"channels_last"})


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
    standardise: Literal["all", "band"] | None = Field(
        default=None,
        description="Mean and deviation of the training part, which features are scaled by: one for `all` "
        "values, or one for each frequency `band`. By default `all`, and a model that is fine-tuned keeps "
        "its own.",
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
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    schedule: ScheduleSection = ScheduleSection()
    averaging: AveragingSection = AveragingSection()
    augment: AugmentSection = AugmentSection()
    epochs: int = Field(default=60, ge=1, description="Epochs of each phase of the technique.")
    batch: int = Field(default=32, ge=1, description="Samples in a batch, on each device.")
    early_stopping: int | None = Field(
        default=None, ge=1, description="Epochs without a better validation loss after which a phase ends."
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="Which epoch's weights are kept, `best` by validation loss."
    )
    validate_every: int = Field(
        default=1,
        ge=1,
        description="Epochs from one look at the validation part to the next; the last epoch is always "
        "looked at.",
    )
    calibration: CalibrationSection = CalibrationSection(accuracy_drop=0.01)
    refit: bool = Field(
        default=False,
        description="After calibration, train once more from the start, on training and validation part "
        "together; temperatures and thresholds stay. Takes a training more; the last epoch is kept.",
    )
    devices: DevicesSection = DevicesSection()

    def dump(self) -> str:
        """As YAML, every default written out."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text

    def for_card(self) -> dict[str, Any]:
        """Plain values that name no place on this machine: of a path among the options only its end."""
        values = self.model_dump(mode="json", exclude={"data": {"path"}})
        if values["augment"]["responses"] is not None:
            values["augment"]["responses"] = Path(values["augment"]["responses"]).name
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
