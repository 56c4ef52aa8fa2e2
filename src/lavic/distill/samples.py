"""(title, picture, description) becomes a sample of stage 1, or a line in ``skipped.jsonl``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from pathlib import Path

from lavic.distill.teacher import TeacherStore
from lavic.errors import NothingLeftError
from lavic.formats import ItemImage
from lavic.layout import find_picture, require_images
from lavic.model.sequences import SequenceBuilder
from lavic.skipped import SkipLog, most_frequent
from lavic.training.identity import names_mark
from lavic.training.loaders import Sample

TOO_LONG = "tokens, more than --max-length"
IMAGES_REMEDY = "Give --train_images_dir and --val_images_dir."


def collect_samples(
    images: Iterable[ItemImage],
    images_dir: Path,
    builder: SequenceBuilder,
    skipped: SkipLog,
    *,
    max_length: int,
    max_samples: int | None = None,
    teacher: TeacherStore | None = None,
) -> list[Sample]:
    """Samples in file order; pictures are looked for, not yet decoded.

    Args:
        images: described pictures, as read from the metadata.
        max_length: longest prompt + description in tokens; longer ones are left out, never cut.
        max_samples: stop after this many whose picture is there. One of them that is too long is not replaced by
            a later one: which pictures a run may see must not depend on ``max_length``.
        teacher: what is to be learnt from; a picture that it does not know is left out, and not replaced either.

    Raises:
        InputError: the teacher's probabilities stand at other tokens than the samples'.
    """
    samples: list[Sample] = []
    there = 0
    for image in images:
        if max_samples is not None and there >= max_samples:
            break
        path, problem = find_picture(images_dir, image.image_name)
        if problem:
            skipped.add(file=path, where=image.where, key=image.image_name, reason=problem)
            continue
        there += 1
        sequence = builder.distill(image.title, image.description)
        if len(sequence.input_ids) > max_length:
            skipped.note(f"descriptions too long for --max-length {max_length}")
            skipped.add(
                file=path,
                where=image.where,
                key=image.image_name,
                reason=f"{len(sequence.input_ids)} {TOO_LONG} {max_length}",
            )
            continue
        problem = teacher.problem(image, sequence) if teacher is not None else ""
        if problem:
            skipped.add(file=path, where=image.where, key=image.image_name, reason=problem)
            continue
        samples.append(Sample(image.image_name, path, sequence, image.where))
    return samples


def require_samples(samples: list[Sample], path: Path, images_dir: Path, skipped: SkipLog) -> None:
    """Stop if nothing is left to work on.

    Raises:
        InputError: the folder with the pictures is not there.
        NothingLeftError: with the most frequent reason.
    """
    if samples:
        return
    require_images(images_dir, IMAGES_REMEDY)
    because = f"; {most_frequent(skipped.by_reason)}" if skipped.by_reason else ""
    lists = f"{skipped.path} lists them all." if skipped.path else "Check the pictures' folder and the descriptions."
    raise NothingLeftError(f"no sample is left{because}", where=str(path), remedy=lists)


def pictures_there(samples: Iterable[Sample]) -> list[str]:
    """Name and size of each picture: reading all only to compare them would take as long as an epoch."""
    found = []
    for sample in samples:
        with contextlib.suppress(OSError):  # gone since it was looked for
            found.append(f"{sample.name} {sample.path.stat().st_size}")
    return found


def pictures_identity(there: Rows[str]) -> dict[str, str]:
    """What ``pictures_there``, of training and validation, adds to what must be the same for a resumed run."""
    return {"number of pictures": str(len(there)), "pictures that are there": names_mark(there)}


def costs(samples: Rows[Sample]) -> list[int]:
    """What makes samples alike in cost, for batches: the tokens from the first visual token on.

    Gradients go through these; with ``frozen_start`` off through all. That is no matter here: switching a short cut off
    shall not put other samples into a batch.
    """
    return [sample.sequence.tokens_from_image_on for sample in samples]
