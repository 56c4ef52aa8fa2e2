"""Settings that every training command shares: how long, how fast, where to, on what.

A command's own settings are a subclass with its data and what is special to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from lavic.config import Settings, setting
from lavic.errors import ConfigError

DATA, TRAINING, OUTPUT, MACHINE = "Data", "Training", "Checking and saving", "Machine"
SPEED = "Speed and memory"
SUCCESS = "Success criteria"

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["bf16", "fp16", "fp32"]
Unit = Literal["steps", "epochs", "minutes"]
_UNITS: dict[str, Unit] = {"": "steps", "e": "epochs", "m": "minutes"}


@dataclass(frozen=True)
class Every:
    """How often something happens: every ``amount`` optimizer steps, epochs or minutes."""

    amount: float
    unit: Unit


def parse_every(text: str, units: tuple[Unit, ...]) -> Every:
    """``200`` (steps), ``1e`` or ``0.5e`` (epochs), ``10m`` (minutes).

    Raises:
        ValueError: the text is none of these, its unit is not among ``units``, or it is not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([em]?)", text.strip().lower())
    unit = _UNITS[match[2]] if match else None
    examples = {"steps": "200 (steps)", "epochs": "1e (epochs)", "minutes": "10m (minutes)"}
    if match is None or unit not in units:
        raise ValueError(f"{text!r} is not an interval; write {' or '.join(examples[u] for u in units)}")
    amount = float(match[1])
    if amount <= 0 or (unit == "steps" and not amount.is_integer()):
        raise ValueError(f"{text!r} is not an interval; it must be {'a whole number' if amount else 'above zero'}")
    return Every(amount, unit)


def _as_text(value: Any) -> Any:
    # `val_every: 200` in YAML is a number.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


IntervalText = Annotated[str, BeforeValidator(_as_text)]


class TrainingSettings(Settings):
    """What decides a training run, whatever is trained."""

    panels: ClassVar[tuple[str, ...]] = (DATA, TRAINING, OUTPUT, MACHINE, SPEED, SUCCESS)

    model: str = setting(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        "LLaVA checkpoint: a folder, a name on the hub, or `tiny` for the small one that comes with lavic.",
        panel=DATA,
        aliases=["model_name"],
        min_length=1,
    )

    batch_size: int = setting(
        1, "Samples per device and forward pass; more needs more GPU memory.", panel=TRAINING, ge=1
    )
    gradient_accumulation: int = setting(
        1,
        "Forward passes per optimizer step; the step's batch is this many times --batch_size.",
        panel=TRAINING,
        aliases=["gradient_accumulation_steps"],
        ge=1,
    )
    num_epochs: int = setting(1, "Passes over the training data.", panel=TRAINING, ge=1)
    max_steps: int | None = setting(
        None, "Stop after this many optimizer steps, even inside an epoch.", panel=TRAINING, ge=1
    )
    lr: float = setting(5e-5, "Learning rate of AdamW.", panel=TRAINING, gt=0, le=10)
    weight_decay: float = setting(1e-5, "Weight decay of AdamW.", panel=TRAINING, ge=0, lt=1)
    gradient_clip: float = setting(1.0, "Longest gradient (L2 norm); 0 leaves it alone.", panel=TRAINING, ge=0)
    warmup: int = setting(0, "Optimizer steps over which the learning rate rises from 0.", panel=TRAINING, ge=0)
    schedule: Literal["constant", "cosine"] = setting(
        "constant",
        "Learning rate after the warm-up: as it is, or falling to 0 along a cosine.",
        panel=TRAINING,
    )
    early_stopping: int | None = setting(
        None,
        "Stop after this many validations without a better loss; unset never stops early.",
        panel=TRAINING,
        ge=1,
    )
    lora_r: int = setting(8, "Rank of the LoRA matrices.", panel=TRAINING, ge=1, le=1024)
    lora_alpha: int = setting(32, "LoRA scale: the update counts alpha / r times.", panel=TRAINING, ge=1)
    lora_dropout: float = setting(0.1, "Dropout in front of the LoRA matrices.", panel=TRAINING, ge=0, lt=1)
    seed: int = setting(42, "Seed of sample order, dropout and LoRA's start values.", panel=TRAINING, ge=0, lt=2**32)

    output_dir: Path = setting(Path("out"), "Folder for the adapter, checkpoints and metrics.", panel=OUTPUT)
    log_dir: Path = setting(Path("logs"), "Folder for the text log training_YYYYMMDD_HHMMSS.log.", panel=OUTPUT)
    val_every: IntervalText | None = setting(
        None, "Validate every `200` steps or `0.5e` epochs, and always at the end of an epoch.", panel=OUTPUT
    )
    checkpoint_every: IntervalText = setting(
        "10m",
        "Save a checkpoint to resume from every `200` steps or `10m` minutes, and at each validation.",
        panel=OUTPUT,
    )
    validate_before_training: bool = setting(
        False, "Print the validation loss before the first step too.", panel=OUTPUT
    )
    resume: bool = setting(False, "Go on from the last checkpoint in --output_dir.", panel=OUTPUT, saved=False)
    overwrite: bool = setting(False, "Replace the run that --output_dir holds.", panel=OUTPUT, saved=False)

    device: Device = setting("auto", "Where to compute; auto takes a GPU if there is one.", panel=MACHINE)
    precision: Precision | None = setting(
        None, "Number format; unset takes bf16 (or fp16) on a GPU and fp32 on a CPU.", panel=MACHINE
    )
    devices: int = setting(1, "Number of GPUs; one so far.", panel=MACHINE, hidden=True, ge=1)
    strategy: str = setting(
        "auto",
        "Taken for the guide's scripts' sake; with one device it changes nothing.",
        panel=MACHINE,
        hidden=True,
    )
    skip_gpu_check: bool = setting(
        False, "Taken for the guide's scripts' sake; lavic makes no such check.", panel=MACHINE, hidden=True
    )

    target_logits: bool = setting(True, "Make logits for the target's tokens only, in chunks.", panel=SPEED)
    lean_language: bool = setting(
        True, "Keep less of the language model's gates and norms for the backward pass.", panel=SPEED
    )
    group_by_length: bool = setting(
        True, "Put samples of similar length in a batch, so that little is padding.", panel=SPEED
    )
    activation_checkpointing: bool = setting(
        False, "Compute each layer again for the backward pass: less memory, more time.", panel=SPEED
    )
    quantize: Literal["none", "nf4"] = setting(
        "none", "The language model's weights in 4 bits: 15 GB of a 7B become 5; needs bitsandbytes.", panel=SPEED
    )
    compile: bool = setting(False, "torch.compile for each layer: pays on a GPU, after a minute.", panel=SPEED)

    @field_validator("val_every")
    @classmethod
    def _check_val_every(cls, value: str | None) -> str | None:
        if value is not None:
            parse_every(value, ("steps", "epochs"))
        return value

    @field_validator("checkpoint_every")
    @classmethod
    def _check_checkpoint_every(cls, value: str) -> str:
        parse_every(value, ("steps", "minutes"))
        return value

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.resume and self.overwrite:
            raise ConfigError(
                "they exclude each other",
                where="--resume and --overwrite",
                remedy="--resume goes on with the run in --output_dir, --overwrite starts it again.",
            )
        if self.max_steps is not None and self.warmup >= self.max_steps > 0:
            raise ConfigError(
                f"{self.warmup} steps of warm-up leave none of --max_steps {self.max_steps} at the full rate",
                where="--warmup",
            )
        if self.devices > 1:
            raise ConfigError(f"lavic trains on one device, not on {self.devices}", where="--devices")
        return self

    @property
    def validation_interval(self) -> Every:
        """``val_every`` parsed; the end of each epoch if it is unset."""
        return parse_every(self.val_every or "1e", ("steps", "epochs"))

    @property
    def checkpoint_interval(self) -> Every:
        """``checkpoint_every`` parsed."""
        return parse_every(self.checkpoint_every, ("steps", "minutes"))
