"""From settings to what a distillation run works with: samples, data sets, short cuts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields

from lavic.distill.config import DistillSettings
from lavic.distill.samples import IMAGES_REMEDY, collect_samples, require_samples
from lavic.distill.teacher import TeacherStore, open_teacher
from lavic.errors import InputError
from lavic.files import open_regular
from lavic.formats import ItemImage, SkipLog, read_train_metadata, read_valid_metadata
from lavic.layout import require_images
from lavic.model.accelerations import Accelerations
from lavic.model.load import BaseModel
from lavic.model.prefix_cache import PrefixCache
from lavic.model.sequences import SequenceBuilder
from lavic.model.visual_tokens import FiveTokenModel
from lavic.prompts import load_prompts
from lavic.training.base_model import check_model
from lavic.training.loaders import MicroBatches, Sample
from lavic.training.picture_cache import PictureCache

_DATA_REMEDY = (
    "Give --train_data and --val_data, or make a small world to try: lavic toyshop --output_dir toyshop --items 600."
)


@dataclass(frozen=True)
class Described:
    """Described pictures as the metadata list them; the rest of each is read when it is asked for."""

    train: Iterator[ItemImage]
    valid: Iterator[ItemImage]


@dataclass(frozen=True)
class Data:
    """Samples of both sets, how sequences are built, and the teacher's probabilities if they are learnt from."""

    builder: SequenceBuilder
    train: list[Sample]
    valid: list[Sample]
    teacher: TeacherStore | None = None


def check_inputs(settings: DistillSettings) -> None:
    """See that what the flags name is there, before minutes are spent on loading a model.

    Raises:
        InputError: a metadata file cannot be opened, or a folder of pictures or the teacher's probabilities are not
            there.
        ConfigError: the prompts cannot be used, or the device, the number format or a short cut cannot be had.
        ModelError: the model is a folder that is not there, or not whole.
    """
    check_model(settings, compiles=settings.compile)
    load_prompts(settings.prompts)
    files, folders = [settings.val_data], [settings.val_images_dir]
    if not settings.validate_only:
        files, folders = [settings.train_data, *files], [settings.train_images_dir, *folders]
    for path in files:
        try:
            open_regular(path).close()
        except InputError as error:
            missing = isinstance(error.__cause__, FileNotFoundError) and not path.is_symlink()
            problem = "there is no such file" if missing else error.problem
            raise InputError(problem, where=str(path), remedy=_DATA_REMEDY) from error
    for folder in folders:
        require_images(folder, IMAGES_REMEDY)
    open_teacher(settings)


def read_metadata(settings: DistillSettings, skipped: SkipLog) -> Described:
    """The metadata, as much of them as the run will need: a file that is cut off is told of at once."""

    def ahead(images: Iterator[ItemImage], count: int | None) -> Iterator[ItemImage]:
        return itertools.chain(list(itertools.islice(images, count)), images)

    train: Iterator[ItemImage] = iter(())
    if not settings.validate_only:
        train = ahead(read_train_metadata(settings.train_data, skipped), settings.max_samples)
    return Described(train, ahead(read_valid_metadata(settings.val_data, skipped), None))


def collect_data(settings: DistillSettings, base: BaseModel, described: Described, skipped: SkipLog) -> Data:
    """Look for the pictures, and make sequences of what is to be said about them.

    Raises:
        NothingLeftError: no sample of a set can be used.
        InputError: the teacher's probabilities are none of this vocabulary, or of these tokens.
    """
    teacher = open_teacher(settings)
    if teacher is not None:
        teacher.check_vocabulary(int(base.model.lm_head.weight.shape[0]))
    builder = SequenceBuilder(base.tokenizer, load_prompts(settings.prompts), base.family.views)
    train_samples: list[Sample] = []
    if not settings.validate_only:
        train_samples = collect_samples(
            described.train,
            settings.train_images_dir,
            builder,
            skipped,
            max_length=settings.max_length,
            max_samples=settings.max_samples,
            teacher=teacher,
        )
        require_samples(train_samples, settings.train_data, settings.train_images_dir, skipped)
    valid_samples = collect_samples(
        described.valid,
        settings.val_images_dir,
        builder,
        skipped,
        max_length=settings.max_length,
    )
    require_samples(valid_samples, settings.val_data, settings.val_images_dir, skipped)
    return Data(builder, train_samples, valid_samples, teacher)


def open_cache(settings: DistillSettings, base: BaseModel, data: Data) -> PictureCache | None:
    """Where the cut pictures of both sets are kept, if a folder is given.

    Raises:
        ConfigError: the disk has no room for them.
        OutputError: the folder cannot be made.
    """
    if settings.picture_cache is None:
        return None
    cache = PictureCache(settings.picture_cache, base.view_size, base.family.views)
    cache.check_space(sample.path for sample in (*data.train, *data.valid))
    return cache


def make_dataset(
    samples: list[Sample], builder: SequenceBuilder, base: BaseModel, cache: PictureCache | None = None
) -> MicroBatches:
    """The samples as a data set of micro-batches."""
    return MicroBatches(samples, builder, view_size=base.view_size, views=base.family.views, cache=cache)


def make_prefix(model: FiveTokenModel, samples: Rows[Sample]) -> PrefixCache | None:
    """The cache of what all prompts of a set start with; the language model is frozen in stage 1.

    A set gets a cache of its own: the length decides the last bits of a loss, and a validation set must have the
    same loss whether there is a training set beside it or not. None as ``FiveTokenModel.prefix_of`` says.
    """
    return model.prefix_of([sample.sequence for sample in samples])


def make_accelerations(settings: DistillSettings) -> Accelerations:
    """The model's short cuts, as the settings switch them."""
    flags = type(settings).model_fields
    return Accelerations(
        **{each.name: getattr(settings, each.name) for each in fields(Accelerations) if each.name in flags}
    )
