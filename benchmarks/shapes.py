"""Models of the real classes with random weights, by shape, and samples with the real data's averages.

==========  =============  ================  =======================================================================
shape       tower          language model    what for
==========  =============  ================  =======================================================================
``7b``      24 x 1024      32 x 4096         llava-v1.6-mistral-7b's sizes; needs a GPU
``small``   4 x 192        12 x 640          the 7B's proportions on a CPU: 577 tokens a view, the same share of the
                                             arithmetic in the tower, in attention (nearly) and in ``lm_head``
``tiny``    2 x 32         2 x 64            tests
==========  =============  ================  =======================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerBase,
)

from lavic.model.families import FAMILIES
from lavic.model.load import TINY_FOLDER, BaseModel
from lavic.model.sequences import SequenceBuilder
from lavic.toyshop import grammar
from lavic.toyshop.drawing import draw
from lavic.toyshop.kinds import Look, looks
from lavic.training.loaders import Sample

#: Words, counted in the public validation file: descriptions 88.0 +- 9.0 (56 to 110), titles 16.6 +- 9.0 (2 to 44).
DESCRIPTION_WORDS, DESCRIPTION_SPREAD, DESCRIPTION_RANGE = 88, 9, (56, 110)
TITLE_WORDS, TITLE_SPREAD, TITLE_RANGE = 17, 9, (2, 44)
#: Share of a description's words that are made-up names of several tokens: the shipped tokenizer learned the shop's
#: language and takes one token for most of its words; with these a sample has some 240 tokens.
NAMES_SHARE = 0.4
#: The longest side of the pictures that ``large`` leads to.
PICTURE_SIZE = 500
#: CLIP's, for pixels from 0 to 1.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA-NeXT model; heads are those of attention, ``kv_heads`` of keys and values."""

    name: str
    view_size: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int

    @property
    def view_tokens(self) -> int:
        """Tokens of a view in the tower, [CLS] included."""
        return (self.view_size // self.patch) ** 2 + 1

    def with_layers(self, vision_layers: int, layers: int) -> Shape:
        """The same widths, another depth."""
        return replace(self, vision_layers=vision_layers, layers=layers)


SHAPES = {
    "7b": Shape("7b", 336, 14, 1024, 24, 16, 4096, 32, 32, 8, 14336, 32064),
    "small": Shape("small", 336, 14, 192, 4, 3, 640, 12, 10, 2, 2240, 2048),
    "tiny": Shape("tiny", 40, 8, 32, 2, 2, 64, 2, 4, 2, 192, 2048),
}


def make_config(shape: Shape) -> LlavaNextConfig:
    """The library's configuration of a shape."""
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.view_size,
        patch_size=shape.patch,
        projection_dim=shape.vision_width,
    )
    text = MistralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        sliding_window=None,
    )
    return LlavaNextConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)


def make_base(shape: Shape, *, dtype: torch.dtype, device: torch.device, seed: int) -> BaseModel:
    """A frozen model with random weights, made on the device in ``dtype``; LoRA may be attached to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), device:
            torch.manual_seed(seed)
            model = LlavaNextForConditionalGeneration(make_config(shape))
    finally:
        torch.set_default_dtype(before)
    model = model.to(dtype).requires_grad_(False).eval()
    return BaseModel(
        name=f"random-{shape.name}",
        source=f"random-{shape.name}",
        model=model,
        tokenizer=toy_tokenizer(),
        family=FAMILIES["llava_next"],
        view_size=shape.view_size,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def toy_tokenizer() -> PreTrainedTokenizerBase:
    """The shipped tokenizer; for shop language its tokens are about as long as Mistral's."""
    return AutoTokenizer.from_pretrained(TINY_FOLDER)


# -- samples -------------------------------------------------------------------------------------------------


def make_samples(folder: Path, builder: SequenceBuilder, count: int, seed: int) -> list[Sample]:
    """Drawn pictures of 500 pixels with texts as long as the real ones."""
    rng = random.Random(f"benchmark/{seed}")
    samples = []
    for number, look in enumerate(looks(rng, count, held_out=False)):
        path = folder / f"{number:05d}_0.jpg"
        if not path.exists():
            draw(look, random.Random(f"benchmark/{seed}/{number}"), PICTURE_SIZE).save(path, "JPEG", quality=92)
        sequence = builder.distill(long_title(rng), long_description(look, rng))
        samples.append(Sample(path.name, path, sequence))
    return samples


def long_title(rng: random.Random) -> str:
    """A title of some 17 words."""
    return " ".join(_words(rng, TITLE_WORDS, TITLE_SPREAD, TITLE_RANGE, lambda: grammar.title(rng)))


def long_description(look: Look, rng: random.Random) -> str:
    """A description of some 88 words."""
    words = _words(rng, DESCRIPTION_WORDS, DESCRIPTION_SPREAD, DESCRIPTION_RANGE, lambda: grammar.describe(look, rng))
    return " ".join(grammar.title(rng).split()[0] if rng.random() < NAMES_SHARE else word for word in words)


def _words(
    rng: random.Random, mean: float, spread: float, limits: tuple[int, int], make: Callable[[], str]
) -> list[str]:
    """As many words of made text as a bell curve between limits says."""
    wanted = min(max(round(rng.gauss(mean, spread)), limits[0]), limits[1])
    words: list[str] = []
    while len(words) < wanted:
        words += make().split()
    return words[:wanted]
