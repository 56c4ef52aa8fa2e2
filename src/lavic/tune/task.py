"""Stage 2 as a task of the training loop: its steps, its validation, what it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from torch import Tensor

from lavic.files import write_atomic
from lavic.model.adapters import set_lora_dropout
from lavic.model.losses import target_loss
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import TokenBatch
from lavic.model.visual_tokens import FiveTokenModel
from lavic.training.loop import MicroStep
from lavic.training.sampler import epoch_batches, steps_per_epoch
from lavic.training.task import TrainTask
from lavic.tune.card import Recommender, recommender_card, write_recommender
from lavic.tune.conversations import Catalogue
from lavic.tune.samples import AskedRow, TuneSample, in_order
from lavic.tune.scoring import ChoiceQuality, quality, score_rows, visual_tokens_of

ADAPTER_FOLDER = "trained_lora_adapter"


@dataclass(frozen=True)
class TuneMicroStep:
    """Some samples, their candidates in the epoch's order, with the model that they go through."""

    task: TuneTask
    samples: tuple[TuneSample, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    batch: TokenBatch
    target_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        """Where the samples come from."""
        return tuple(sample.name for sample in self.samples)

    @property
    def tokens(self) -> int:
        """Tokens of the answers, EOS included."""
        return self.target_tokens

    def nats(self) -> Tensor:
        """Their summed loss, with gradient to the LoRA weights."""
        task = self.task
        visual_tokens = visual_tokens_of(self.candidates, task.catalogue, task.model)
        batch = self.batch.to(task.model.llava.device)
        with task.fabric.autocast():
            hidden = task.model.hidden_states(batch, visual_tokens)
            everywhere = not task.model.accelerations.target_logits
            loss = target_loss(hidden, task.model.lm_head, batch, everywhere=everywhere)
            task.judged = loss.detached()
            return loss.total


@dataclass(kw_only=True)
class TuneTask(TrainTask):
    """See ``lavic.training.loop.Task``.

    Attributes:
        train: samples; ``valid`` rows as they are given.
        shuffle: whether each epoch has another order of the candidates.
        eos: whether the end of the answer is taught.
        keep_last: whether every validation counts as the best so far.
        recommender: what is written beside the adapter for those who use it.
    """

    model: FiveTokenModel
    prompts: RecommendationPrompts
    catalogue: Catalogue
    train: Rows[TuneSample]
    valid: Rows[AskedRow]
    shuffle: bool
    eos: bool
    keep_last: bool
    recommender: Recommender
    last: ChoiceQuality | None = None
    best: ChoiceQuality | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last takes what is left."""
        return steps_per_epoch(len(self.train), self.batch_size, self.accumulation)

    def steps(self, epoch: int, first: int) -> Generator[list[MicroStep], None, None]:
        """The optimizer steps of an epoch from number ``first`` on."""
        batches = epoch_batches(
            [sample.length for sample in self.train],
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            by_length=self.group_by_length,
        )
        set_lora_dropout(self.wrapped, True)
        for start in range(first * self.accumulation, len(batches), self.accumulation):
            yield [self._micro_step(batch, epoch) for batch in batches[start : start + self.accumulation]]

    def _micro_step(self, indices: Rows[int], epoch: int) -> TuneMicroStep:
        samples = tuple(self.train[index] for index in indices)
        orders = tuple(in_order(sample, seed=self.seed, epoch=epoch, shuffle=self.shuffle) for sample in samples)
        sequences = [
            self.prompts.sequence(sample.context, order, sample.answer, eos=self.eos)
            for sample, order in zip(samples, orders, strict=True)
        ]
        tokens = sum(sequence.target_tokens for sequence in sequences)
        return TuneMicroStep(self, samples, orders, self.prompts.builder.collate(sequences), tokens)

    # -- validation ----------------------------------------------------------------------------------------

    def validate(self, step: int, between_batches: Callable[[], None] = lambda: None) -> float:
        """What the best adapter is chosen by: most hits, then the lower loss."""
        started = time.monotonic()
        self.last = found = self.measure(between_batches)
        judged_by = -float(step) if self.keep_last else found.order
        self.log.validation(
            step,
            val_loss=found.loss,
            val_perplexity=found.perplexity,
            hr_at_1=found.hr_at_1,
            ceiling=found.with_right / found.rows,
            judged_by=judged_by,
            samples=found.rows,
            seconds=round(time.monotonic() - started, 2),
        )
        self.console.info(
            f"Step {step}: hr@1={found.hr_at_1:.4f} of at most {found.with_right / found.rows:.4f}, "
            f"val_loss={found.loss:.4f} val_perplexity={found.perplexity:.4f}, {found.rows} conversations"
        )
        return judged_by

    def measure(self, between_batches: Callable[[], None] = lambda: None) -> ChoiceQuality:
        """Quality on the validation rows with the current weights, dropout off."""
        set_lora_dropout(self.wrapped, False)
        with self.fabric.autocast():
            scores = score_rows(
                self.model, self.valid, self.catalogue, self.prompts, on_batch=lambda _: between_batches()
            )
        set_lora_dropout(self.wrapped, True)
        return quality(self.valid, scores)

    def keep_best(self, step: int) -> None:
        """Save the adapter, its configuration, its card, and how it is to be used."""
        assert self.last is not None, "the best is chosen by a validation"
        self.best = self.last
        card = recommender_card(
            self.recommender,
            base_name=self.base_name,
            lora=self.lora,
            train_samples=len(self.train),
            step=step,
            trainable_parameters=self.trained,
            result=self.last,
        )
        write_recommender(self.output_dir / ADAPTER_FOLDER, self.recommender)
        self.save_best(ADAPTER_FOLDER, card)

    def epoch_done(self, epoch: int) -> None:
        """Record the epoch's validation."""
        assert self.last is not None, "an epoch ends with a validation"
        lines = [
            f"Val HR@1: {self.last.hr_at_1:.6f}",
            f"Val Loss: {self.last.loss:.6f}",
            f"Val PPL: {self.last.perplexity:.6f}",
            f"Rows: {self.last.rows}",
            f"Rows with a right candidate: {self.last.with_right}",
        ]
        write_atomic(self.output_dir / f"val_metrics_epoch_{epoch + 1}.txt", "\n".join(lines) + "\n")
