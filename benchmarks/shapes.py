"""Models of the real classes with random weights, by shape; samples and conversations with the real data's averages.

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

import math
import random
import string
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

from lavic.conversations import Conversation
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
#: Tokens of a conversation. In the public files the median is 636 to 745 characters (about 170 tokens), the logarithm's
#: standard deviation 0.92 to 0.99, the 5th percentile about 130 characters and the 95th about 2,800.
CONTEXT_MEDIAN, CONTEXT_SPREAD, CONTEXT_RANGE = 170, 0.95, (30, 700)
#: Conversations are the middle ones by length of so many: a public file has 758 to 826, and a batch holds neighbours.
DRAWN_CONVERSATIONS = 256
#: Of 14 characters the shipped tokenizer makes about eight tokens: what Mistral's, which splits digits, is taken to
#: make of the ten of a published ID.
ID_CHARACTERS = 14
POSTS = "<submission>{}</submission>\n<comment>{}</comment>"
CANDIDATES = 10
CANDIDATE_TYPE = "st"
#: Different products; each conversation takes ten of them.
PRODUCTS = 40
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
    "small": Shape("small", 336, 14, 192, 4, 3, 640, 12, 10, 2, 2240, 3344),
    "tiny": Shape("tiny", 40, 8, 32, 2, 2, 64, 2, 4, 2, 192, 3344),
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


# -- conversations (stage 2) ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shop:
    """Conversations about drawn products.

    Attributes:
        conversations: each with ten candidates, one of them the right item.
        titles: by item ID.
        pictures: the file of each item's one picture.
    """

    conversations: list[Conversation]
    titles: dict[str, str]
    pictures: dict[str, Path]


def make_shop(folder: Path, count: int, seed: int) -> Shop:
    """``count`` conversations of usual length about products with drawn pictures and long titles."""
    rng, tokenizer = random.Random(f"benchmark/shop/{seed}"), toy_tokenizer()
    titles: dict[str, str] = {}
    pictures: dict[str, Path] = {}
    shown = list(looks(rng, PRODUCTS, held_out=False))
    for look in shown:
        item_id = "B0" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=ID_CHARACTERS - 2))
        titles[item_id], pictures[item_id] = long_title(rng), folder / f"{item_id}_0.jpg"
        if not pictures[item_id].exists():
            draw(look, random.Random(f"benchmark/{item_id}"), PICTURE_SIZE).save(pictures[item_id], "JPEG", quality=92)
    conversations = []
    for number, (tokens, candidates) in enumerate(_middle(count, titles, rng, tokenizer)):
        context = _context(tokens, shown, rng, tokenizer)
        right = (rng.choice(candidates),)
        lists = {CANDIDATE_TYPE: candidates}
        conversations.append(Conversation(context, right, lists, where=f"benchmark, line {number + 1}"))
    return Shop(conversations, titles, pictures)


def _middle(
    count: int, titles: dict[str, str], rng: random.Random, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, tuple[str, ...]]]:
    """Tokens of the context and candidates of ``count`` conversations: the middle ones of many, by their prompts."""
    own = {item_id: len(tokenizer(title, add_special_tokens=False).input_ids) for item_id, title in titles.items()}
    drawn = []
    for _ in range(max(DRAWN_CONVERSATIONS, count)):
        length = round(math.exp(rng.gauss(math.log(CONTEXT_MEDIAN), CONTEXT_SPREAD)))
        drawn.append((min(max(length, CONTEXT_RANGE[0]), CONTEXT_RANGE[1]), tuple(rng.sample(list(own), CANDIDATES))))
    drawn.sort(key=lambda one: one[0] + sum(own[item_id] for item_id in one[1]))
    start = (len(drawn) - count) // 2
    chosen = drawn[start : start + count]
    rng.shuffle(chosen)
    return chosen


def _context(tokens: int, shown: list[Look], rng: random.Random, tokenizer: PreTrainedTokenizerBase) -> str:
    """Made text that takes about so many tokens together with its marks: a submission and a comment of equal length."""

    def offsets(text: str) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return found

    words: list[str] = []
    while len(words) < tokens:
        words += long_description(rng.choice(shown), rng).split()
    own = max(tokens - len(offsets(POSTS.format("", ""))), 2)
    text = " ".join(words)[: offsets(" ".join(words))[own - 1][1]]
    return POSTS.format(text[: len(text) // 2], text[len(text) // 2 :])
