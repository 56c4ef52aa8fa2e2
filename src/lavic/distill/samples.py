"""(title, picture, description) becomes a sample of stage 1, or a line in ``skipped.jsonl``."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from collections.abc import Sequence as Rows
from pathlib import Path

from lavic.distill.teacher import TeacherStore
from lavic.errors import InputError, NothingLeftError
from lavic.files import safe_join
from lavic.formats import ItemImage, SkipLog
from lavic.model.accelerations import Accelerations
from lavic.model.sequences import SequenceBuilder
from lavic.training.loaders import Sample


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
        if problem or path is None:
            skipped.add(file=path or images_dir, where=image.where, key=image.image_name, reason=problem)
            continue
        there += 1
        sequence = builder.distill(image.title, image.description)
        if len(sequence.input_ids) > max_length:
            skipped.note(f"descriptions too long for --max-length {max_length}")
            skipped.add(
                file=path,
                where=image.where,
                key=image.image_name,
                reason=f"{len(sequence.input_ids)} tokens, more than --max-length {max_length}",
            )
            continue
        problem = teacher.problem(image, sequence) if teacher is not None else ""
        if problem:
            skipped.add(file=path, where=image.where, key=image.image_name, reason=problem)
            continue
        samples.append(Sample(image.image_name, path, sequence, image.where))
    return samples


def find_picture(folder: Path, name: str) -> tuple[Path | None, str]:
    """Where a picture lies, or why it cannot be used; decoding comes later, in the workers."""
    try:
        path = safe_join(folder, name)
    except InputError as error:
        return None, error.problem
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path, "the link leads nowhere" if path.is_symlink() else "there is no such picture"
    except OSError as error:
        return path, f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return path, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not an ordinary file"
    if found.st_size == 0:
        return path, "the file is empty (0 bytes)"
    return path, ""


def require_samples(samples: list[Sample], path: Path, images_dir: Path, skipped: SkipLog) -> None:
    """Stop if nothing is left to work on.

    Raises:
        NothingLeftError: with the most frequent reason.
    """
    if samples:
        return
    if not images_dir.is_dir():
        raise NothingLeftError(
            "the folder with the pictures does not exist" if not images_dir.exists() else "is not a folder",
            where=str(images_dir),
            remedy="Check --train_images_dir and --val_images_dir.",
        )
    frequent = skipped.by_reason.most_common(1)
    because = f"; most frequent reason, {frequent[0][1]} times: {frequent[0][0]}" if frequent else ""
    lists = f"{skipped.path} lists them all." if skipped.path else "Check the pictures' folder and the descriptions."
    raise NothingLeftError(f"no sample is left{because}", where=str(path), remedy=lists)


def costs(samples: Rows[Sample], accelerations: Accelerations) -> list[int]:
    """What makes samples alike in cost, for batches: the tokens that gradients go through, or all."""
    sequences = [sample.sequence for sample in samples]
    if accelerations.frozen_start:
        return [sequence.tokens_from_image_on for sequence in sequences]
    return [len(sequence.input_ids) for sequence in sequences]
