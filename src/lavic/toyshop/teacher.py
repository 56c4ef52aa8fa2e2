"""Trains the tiny teacher that comes with the package; hours of one machine, once.

    python -m lavic.toyshop.teacher --work build/teacher --output src/lavic/toyshop/assets/tiny-llava-next

Lessons: copying, comparing, carrying and choosing on text; [CLS] against descriptions; describing from image tokens,
with the contrastive loss and the text lessons going on; then reading pictures in rows as words are read, and, with that
and all before going on, choosing among them. Each lesson leaves its weights in the work folder, and a run that is
started again goes on behind the last one. ``--start CHECKPOINT`` takes a model that describes and chooses among words,
and goes on with the last lesson. docs/experiments.md tells what was tried.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration

from lavic.toyshop.conditioning import shorten_language_stream
from lavic.toyshop.joint_training import JointTraining
from lavic.toyshop.optimizers import Optimizers
from lavic.toyshop.picture_pool import PicturePool, make_pool
from lavic.toyshop.picture_training import (
    Contrast,
    DescribingLessons,
    assemble,
    bags_of_words,
    describing_loss,
    packed_image_tokens,
    tower_states,
)
from lavic.toyshop.text_training import Schooling, choice_accuracy, choosing, cosine_rate, pad, text_loss
from lavic.toyshop.tiny_model import build_tiny_model, save_checkpoint, tiny_processor
from lavic.toyshop.tokenizer import train_tokenizer

CONTRAST_WEIGHT = 0.3
#: Every other step repeats choosing, or describing would overwrite it.
TEXT_SHARE = 0.5

#: How much shorter the residual stream becomes that Muon has left: about as long as AdamW would have made it.
STREAM_FACTOR = 10.0

Report = Callable[[str], None]


class Teacher:
    """The model in training, with its tokenizer, pictures and work folder."""

    def __init__(self, work: Path, *, pictures: int, workers: int, report: Report, start: Path | None = None) -> None:
        self.work, self.report = work, report
        self.tokenizer: LlamaTokenizer
        self.model: LlavaNextForConditionalGeneration
        if start is None:
            self.tokenizer = train_tokenizer()
            self.model = build_tiny_model(self.tokenizer)
        else:
            # Not trained anew: its corpus holds Python's own documentation, which changes with Python.
            self.tokenizer = LlamaTokenizer.from_pretrained(start)
            self.model = LlavaNextForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
        self.contrast = Contrast(len(self.tokenizer))
        self.train: PicturePool = make_pool(work / "train", pictures, 7, held_out=False, workers=workers)
        self.valid: PicturePool = make_pool(work / "valid", 1000, 11, held_out=True, workers=workers)

    # -- lessons -------------------------------------------------------------------------------------------

    def text(self, steps: int) -> None:
        """Copying, comparing, carrying, then choosing among ten."""
        schooling = Schooling(self.model, self.tokenizer, seed=0)
        schooling.learn_copying(self.report)
        schooling.learn_comparing(self.report)
        schooling.learn_carrying(self.report)
        for step in schooling.learn_choosing(steps, self.report):
            if step % 200 == 0 or step == steps:
                accuracy = choice_accuracy(self.model, self.tokenizer, 200, seed=step)
                self.report(f"choosing step={step} right of ten={accuracy:.3f}")

    def see(self, steps: int, *, batch: int = 96) -> None:
        """[CLS] against descriptions, tower only."""
        lessons = DescribingLessons(self.tokenizer, self.train, seed=1)
        fresh = DescribingLessons(self.tokenizer, self.valid, seed=2)
        optimizers = Optimizers(
            [*self.model.model.vision_tower.named_parameters(), *self.contrast.named_parameters()],
            matrix_rate=5e-3,
            other_rate=2e-3,
        )
        states = torch.compile(tower_states)
        for step in range(steps):
            optimizers.step(self._contrast_loss(states, lessons, batch), cosine_rate(step, steps, hold=0.5))
            if (step + 1) % 50 == 0:
                with torch.no_grad():
                    loss = self._contrast_loss(states, fresh, batch)
                self.report(f"seeing step={step + 1} of {steps} contrastive loss on new pictures={loss:.3f}")

    def _contrast_loss(
        self, states: Callable[..., tuple[Tensor, Tensor]], lessons: DescribingLessons, batch: int
    ) -> Tensor:
        indices, texts = lessons.draw(batch)
        pixels = lessons.pixels(indices)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, cls = states(self.model, pixels)
        loss: Tensor = self.contrast(cls.float(), *bags_of_words(self.tokenizer, texts))
        return loss

    def describe(self, steps: int, *, batch: int = 48) -> None:
        """Describing from image tokens; contrast (unless the tower is frozen) and choosing go on."""
        rng = random.Random(3)
        lessons = DescribingLessons(self.tokenizer, self.train, seed=4)
        learning = [
            *((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad),
            *(() if self.tower_is_frozen else self.contrast.named_parameters()),
        ]
        optimizers = Optimizers(learning, matrix_rate=None, other_rate=1.2e-3)
        states = torch.compile(tower_states)
        text = torch.compile(text_loss, dynamic=True)
        describing = torch.compile(describing_loss, dynamic=True)
        average = 3.0
        for step in range(1, steps + 1):
            factor = cosine_rate(step, steps)
            if rng.random() < TEXT_SHARE:
                exercises = choosing(self.tokenizer, rng, 1.0)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = text(self.model, *pad(exercises, self.tokenizer.pad_token_id))
                optimizers.step(loss, factor)
            else:
                indices, texts = lessons.draw(batch)
                pixels = lessons.pixels(indices)
                sequences = [lessons.prompt(one, chat=rng.random() < 0.3) for one in texts]
                keep = sorted(rng.sample(range(135), rng.randint(20, 110))) if rng.random() < 0.6 else None
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    features, cls = states(self.model, pixels)
                    image_tokens = packed_image_tokens(self.model, features)
                    loss = describing(self.model, *assemble(self.model, image_tokens, sequences, keep))
                average = 0.98 * average + 0.02 * float(loss.detach())
                if not self.tower_is_frozen:
                    contrast = self.contrast(cls.float(), *bags_of_words(self.tokenizer, texts))
                    loss = loss + CONTRAST_WEIGHT * contrast
                optimizers.step(loss, factor)
            if step % 25 == 0:
                self.report(f"describing step={step} of {steps} loss={average:.3f}")
            if step % 200 == 0:
                self.report(f"describing step={step}: {self.examine()}")
                self.save("describe-part")

    def join(self, reading: int, choosing: int) -> None:
        """A stream of the usual length; then to read pictures in rows as words are read, and to choose among them.

        No steps of reading: the model has had this lesson, and practises choosing further.
        """
        if reading:
            shorten_language_stream(self.model, STREAM_FACTOR)
        training = JointTraining(self.model, self.tokenizer, self.train, self.valid, seed=5)
        if not reading:
            training.revise(self.report)
        for step in training.learn(reading, choosing, self.report):
            if step % 200 == 0 or step == reading + choosing:
                self.report(f"joint step={step}: {training.examine()}")
                self.save("join-part")

    @torch.no_grad()
    def examine(self) -> str:
        """Loss on held-out pictures with all image tokens, and the choosing that is left."""
        lessons = DescribingLessons(self.tokenizer, self.valid, seed=5)
        losses = []
        for _ in range(4):
            indices, texts = lessons.draw(50)
            features, _ = tower_states(self.model, lessons.pixels(indices))
            sequences = [lessons.prompt(text, chat=False) for text in texts]
            batch = assemble(self.model, packed_image_tokens(self.model, features), sequences, None)
            losses.append(float(describing_loss(self.model, *batch)))
        accuracy = choice_accuracy(self.model, self.tokenizer, 100, seed=9)
        return f"loss on held-out pictures={sum(losses) / 4:.3f} right of ten={accuracy:.2f}"

    @property
    def tower_is_frozen(self) -> bool:
        """Whether it was taken over."""
        return not next(self.model.model.vision_tower.parameters()).requires_grad

    def take_over_tower(self, checkpoint: Path) -> None:
        """Tower, projector and line break of a finished checkpoint; the tower stays as it is."""
        finished = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).model
        mine = self.model.model
        for part in ("vision_tower", "multi_modal_projector"):
            getattr(mine, part).load_state_dict(getattr(finished, part).state_dict())
        mine.image_newline.data.copy_(finished.image_newline.data)
        mine.vision_tower.requires_grad_(False)

    # -- work folder ---------------------------------------------------------------------------------------

    def lesson(self, name: str, teach: Callable[[], None]) -> None:
        """Teach, or take over what an earlier run learnt."""
        path = self.work / f"{name}.safetensors"
        if path.exists():
            stored = load_file(path)
            self.model.load_state_dict({k[6:]: v for k, v in stored.items() if k.startswith("model.")})
            self.contrast.load_state_dict({k[9:]: v for k, v in stored.items() if k.startswith("contrast.")})
            self.report(f"{name}: taken over from {path}")
            return
        teach()
        self.save(name)

    def save(self, name: str) -> None:
        """Keep model and contrastive heads in the work folder."""
        tensors = {f"model.{k}": v.contiguous().clone() for k, v in self.model.state_dict().items()}
        tensors |= {f"contrast.{k}": v.contiguous().clone() for k, v in self.contrast.state_dict().items()}
        save_file(tensors, self.work / f"{name}.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and half-trained weights")
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--tower", type=Path, help="take over the tower of this checkpoint, and freeze it")
    parser.add_argument("--start", type=Path, help="begin with this checkpoint, behind describing")
    parser.add_argument("--text-steps", type=int, default=1200)
    parser.add_argument("--see-steps", type=int, default=600)
    parser.add_argument("--describe-steps", type=int, default=2800)
    parser.add_argument("--read-steps", type=int, default=2500)
    parser.add_argument("--choose-steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {line}", file=sys.stderr, flush=True)

    teacher = Teacher(
        arguments.work,
        pictures=arguments.pictures,
        workers=arguments.threads,
        report=report,
        start=arguments.start,
    )
    if arguments.start is None:
        teacher.lesson("text", lambda: teacher.text(arguments.text_steps))
        if arguments.tower is None:
            teacher.lesson("see", lambda: teacher.see(arguments.see_steps))
        else:
            teacher.take_over_tower(arguments.tower)
        teacher.lesson("describe", lambda: teacher.describe(arguments.describe_steps))
    teacher.lesson("join", lambda: teacher.join(arguments.read_steps, arguments.choose_steps))
    save_checkpoint(arguments.output, teacher.model, tiny_processor(teacher.tokenizer))
    accuracy = choice_accuracy(teacher.model, teacher.tokenizer, 1000, seed=77)
    print(json.dumps({"right_of_ten": accuracy, "examined": teacher.examine()}))


if __name__ == "__main__":
    main()
