"""Settings of ``lavic distill``: the guide's and the authors' flags under their names, and lavic's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from lavic.config import setting
from lavic.errors import ConfigError
from lavic.training.settings import DATA, MACHINE, OUTPUT, SPEED, SUCCESS, TRAINING, TrainingSettings


class DistillSettings(TrainingSettings):
    """Everything that decides a distillation run."""

    train_data: Path = setting(
        Path("data/item2meta_train.json"),
        "Training items with their descriptions (one JSON object, plain, .zip or .gz).",
        panel=DATA,
    )
    val_data: Path = setting(
        Path("data/item2meta_valid.jsonl"), "Validation pictures with their descriptions.", panel=DATA
    )
    train_images_dir: Path = setting(Path("data/train_images"), "Folder with the training pictures.", panel=DATA)
    val_images_dir: Path = setting(Path("data/valid_images"), "Folder with the validation pictures.", panel=DATA)
    max_samples: int | None = setting(
        None,
        "Train on the first N pictures only; unset or `none` takes all. Validation is never cut.",
        panel=DATA,
        ge=1,
    )
    max_length: int = setting(
        2048,
        "Longest sample in tokens, prompt and description; longer ones are left out and listed.",
        panel=DATA,
        ge=16,
    )
    prompts: Path | None = setting(None, "YAML file with another wording of the prompt.", panel=DATA)
    logits_dir: Path | None = setting(
        None,
        "Folder of the teacher's probabilities (lavic describe --top_logits), for an --objective with kl; unset: "
        "item2meta_train.top_logits beside the training metadata.",
        panel=DATA,
    )

    objective: Literal["nll", "kl", "nll+kl"] = setting(
        "nll",
        "What is learnt: nll the description's tokens, kl the teacher's probabilities at them, or both.",
        panel=TRAINING,
    )
    kl_weight: float = setting(
        1.0, "With --objective nll+kl: the loss is nll + this times kl.", panel=TRAINING, gt=0, le=1000
    )
    temperature: float = setting(
        1.0,
        "With kl: what both sides' probabilities are flattened by before they are compared; 1 leaves them alone.",
        panel=TRAINING,
        gt=0,
        le=100,
    )

    output_dir: Path = setting(Path("out_distilled"), "Folder for the adapter, checkpoints and metrics.", panel=OUTPUT)
    validate_only: bool = setting(
        False, "Print the validation loss of --adapter (or of the bare model) and stop.", panel=OUTPUT
    )
    adapter: Path | None = setting(
        None, "Folder of an adapter, also one trained elsewhere: what --validate_only judges.", panel=OUTPUT
    )
    dry_run: int | None = setting(
        None,
        "Train this many steps on the longest samples, print memory and the whole run's hours, keep nothing.",
        panel=OUTPUT,
        saved=False,
        ge=1,
        le=10_000,
    )

    num_workers: int = setting(
        2, "Processes that read and decode pictures; 0 reads in the main one.", panel=MACHINE, ge=0, le=256
    )

    cls_only: bool = setting(True, "Compute only [CLS] in the last vision layer.", panel=SPEED)
    prefix_cache: bool = setting(True, "Compute the instruction's keys and values once.", panel=SPEED)
    frozen_start: bool = setting(
        True, "Leave out gradients through instruction and title, where nothing is trained.", panel=SPEED
    )
    lean_vision: bool = setting(
        True, "Compute LoRA layers in one go, and keep less of the vision side for the backward pass.", panel=SPEED
    )
    picture_cache: Path | None = setting(
        None,
        "Folder to keep cut pictures in, so that later epochs decode none; 1.7 MB a picture for the 7B.",
        panel=SPEED,
    )

    require_criteria: bool = setting(False, "End with exit code 1 if a criterion below is missed.", panel=SUCCESS)
    max_val_loss: float = setting(
        0.6, "The run succeeded below this validation loss (nats a token, without EOS).", panel=SUCCESS, gt=0
    )
    max_val_perplexity: float = setting(
        2.0, "The run succeeded below this perplexity (without EOS).", panel=SUCCESS, gt=1
    )
    adapter_size_mb: float | None = setting(
        None,
        "Expected size of the adapter file in MB, within 5 %; unset works it out from the model.",
        panel=SUCCESS,
        gt=0,
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for flag in ("resume", "overwrite", "validate_only"):
            if self.dry_run is not None and getattr(self, flag):
                raise ConfigError(
                    "they exclude each other",
                    where=f"--dry_run and --{flag}",
                    remedy="A dry run begins anew, neither reads nor writes --output_dir, and keeps nothing.",
                )
        if self.resume and self.validate_only:
            raise ConfigError("it trains nothing, so there is nothing to resume", where="--validate_only with --resume")
        if self.adapter is not None and not self.validate_only:
            raise ConfigError(
                "it needs --validate_only",
                where="--adapter",
                remedy="Training starts from fresh LoRA weights; --resume goes on from a checkpoint.",
            )
        self._check_objective()
        return self

    def _check_objective(self) -> None:
        """A setting that the objective makes no use of is refused: whoever gives it believes that it counts."""
        needed = {"kl_weight": "nll+kl", "temperature": "nll+kl or kl", "logits_dir": "nll+kl or kl"}
        for name, objectives in needed.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and self.objective not in objectives.split(" or "):
                raise ConfigError(
                    f"it does nothing with --objective {self.objective}",
                    where=f"--{name}",
                    remedy=f"Give --objective {objectives} too, or leave it away.",
                )

    @property
    def has_teacher(self) -> bool:
        """Whether the teacher's probabilities are learnt from."""
        return self.objective != "nll"
