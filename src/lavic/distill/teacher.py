"""The teacher's probabilities beside the training samples: which samples have them, and their numbers for a step.

The teacher itself is never loaded: ``lavic describe --top_logits`` has asked it, and its answers lie on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Rows
from pathlib import Path

import numpy as np
import torch

from lavic.describe.top_logits import STORE_FILE, TopLogits, default_folder, shard_files, text_mark
from lavic.distill.config import DistillSettings
from lavic.errors import InputError
from lavic.formats import ItemImage
from lavic.model.losses import Objective, TeacherTokens
from lavic.model.sequences import Sequence
from lavic.prompts import Prompts
from lavic.training.loaders import Sample

#: Why a sample is left out.
NOT_STORED = "the teacher's probabilities do not hold it: run lavic describe with --top_logits again"
OTHER_TEXT = (
    "the teacher's probabilities are those of another title or description: run lavic describe with --top_logits again"
)
# Read of each file of numbers to tell two stores apart: a whole one may have tens of gigabytes.
_MARKED_BYTES = 4096


def objective_of(settings: DistillSettings) -> Objective:
    """What the settings ask to be minimised."""
    return {
        "nll": Objective(),
        "kl": Objective(nll=0.0, kl=1.0, temperature=settings.temperature),
        "nll+kl": Objective(kl=settings.kl_weight, temperature=settings.temperature),
    }[settings.objective]


def teacher_folder(settings: DistillSettings) -> Path:
    """Where the teacher's probabilities lie."""
    return settings.logits_dir or default_folder(settings.train_data)


def store_mark(folder: Path) -> str:
    """One value for a store: its index files, and the beginning of each file of numbers.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in (*shard_files(folder), folder / STORE_FILE):
            with path.open("rb") as stream:
                digest.update(path.name.encode() + stream.read(_MARKED_BYTES if path.suffix == ".bin" else -1))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(folder)) from error
    return digest.hexdigest()


class TeacherStore:
    """The store of one run.

    Raises:
        InputError: there is none in the folder, or a part of it is missing.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / STORE_FILE).is_file():
            raise InputError(
                "there are no probabilities of the teacher",
                where=str(folder),
                remedy="Make them with lavic describe --top_logits 32, give --logits_dir, or train with "
                "--objective nll.",
            )
        try:
            self._store = TopLogits(folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"an index of the teacher's probabilities is damaged ({type(error).__name__})",
                where=str(folder),
                remedy="Make them again with lavic describe --top_logits --overwrite.",
            ) from error
        self.folder = folder

    def __len__(self) -> int:
        return len(self._store)

    @property
    def k(self) -> int:
        """How many tokens are known at each place."""
        return int(self._store.about.get("k", 0))

    def check_vocabulary(self, vocabulary: int) -> None:
        """Refuse a student that has other tokens.

        Raises:
            InputError: another number of them; other ones of the same number show in the samples.
        """
        known = self._store.about.get("vocabulary")
        if known != vocabulary:
            raise InputError(
                f"the teacher chose among {known:,} tokens and --model has {vocabulary:,}"
                if isinstance(known, int)
                else "the store does not say among how many tokens the teacher chose",
                where=str(self.folder),
                remedy="Teacher and student need the same vocabulary: run lavic describe --top_logits with that of "
                "--model, or train with --objective nll.",
            )

    def has_other_prompt(self, prompts: Prompts) -> bool:
        """Whether the teacher was asked in other words than the student is."""
        identity = self._store.about.get("identity")
        known = identity.get("the prompt of distill") if isinstance(identity, dict) else None
        return known is not None and known != prompts.distill

    def problem(self, image: ItemImage, sequence: Sequence) -> str:
        """Why a picture cannot be learnt from the teacher, or "".

        Raises:
            InputError: the same text became other tokens, so every number would stand at a wrong one.
        """
        if image.image_name not in self._store:
            return NOT_STORED
        if self._store.text_of(image.image_name) != text_mark(image.title, image.description):
            return OTHER_TEXT
        self._store.get(image.image_name, sequence.input_ids[sequence.prompt_length :])
        return ""

    def tokens_of(self, samples: Rows[Sample]) -> TeacherTokens:
        """The teacher at the target tokens of some samples, one behind the other."""
        found = [self._store.get(sample.name) for sample in samples]
        return TeacherTokens(
            ids=torch.from_numpy(np.concatenate([each.ids for each in found]).astype(np.int64)),
            log_probs=torch.from_numpy(np.concatenate([each.log_probs for each in found]).astype(np.float32)),
            rest=torch.from_numpy(np.concatenate([each.rest for each in found]).astype(np.float32)),
        )


def open_teacher(settings: DistillSettings) -> TeacherStore | None:
    """The store that the settings ask for; None without one.

    Raises:
        InputError: as ``TeacherStore``.
    """
    if not settings.has_teacher or settings.validate_only:
        return None
    return TeacherStore(teacher_folder(settings))
