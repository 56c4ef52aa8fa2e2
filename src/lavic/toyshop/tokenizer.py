"""The tiny model's tokenizer: a BPE of the Llama kind, with word-start marks and byte fallback.

Any text passes (bytes stand in for unknown characters), and joining behaves as in the real family:
a word directly after ``Assistant:`` has other ids than the same word after a space.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pydoc_data import topics

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer

from lavic.prompts import DEFAULT_PROMPTS, Prompts
from lavic.toyshop import grammar
from lavic.toyshop.kinds import looks

#: Learnt pieces, with specials and bytes.
LEARNT_SIZE = 2046
ID_CHARACTERS = string.digits + string.ascii_uppercase
IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
_SPECIALS = ("<unk>", "<s>", "</s>")
_BYTES = tuple(f"<0x{value:02X}>" for value in range(256))

#: LLaVA-v1.6-Mistral's chat format, told from its documentation: user turn, picture first, answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'assistant' %}[INST] "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    " [/INST]{% else %}{% for part in message['content'] %} {{ part['text'] }}{% endfor %}</s>"
    "{% endif %}{% endfor %}"
)


def _corpus(rng: random.Random) -> Iterator[str]:
    """Shop language, prompts, and general English from the documentation that comes with Python."""
    for look in looks(rng, 4000, held_out=False):
        yield grammar.describe(look, rng)
        yield f"I would like {grammar.short_description(look, rng)}, please."
        yield grammar.title(rng)
    for _ in range(400):
        for field in fields(Prompts):
            yield str(getattr(DEFAULT_PROMPTS, field.name))
    for topic in sorted(topics.topics):
        # All-capital words would become tokens of several capitals and split item IDs unevenly.
        yield re.sub(r"\b[A-Z]{2,}\b", lambda match: match.group().lower(), topics.topics[topic])


def train_tokenizer(seed: int = 0) -> LlamaTokenizer:
    """Learn the merges and wrap them in the class that the real checkpoints use.

    The corpus holds Python's own documentation, so another release of Python learns other pieces: what goes with a
    finished checkpoint is the tokenizer in its folder, never one learnt anew.
    """
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=LEARNT_SIZE,
        special_tokens=[*_SPECIALS, *_BYTES],
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["▁", "\n"],
        limit_alphabet=110,
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(random.Random(seed)), trainer)
    return _wrap(learner.to_str())


def _id_pairs() -> Iterator[tuple[str, str]]:
    """Pieces of two characters for item IDs, in the order in which they are merged.

    IDs of single characters are alike everywhere: all 36 stand in any ten of them, so that nothing but a place tells
    one row's from another's, and looking them up is not learnt (docs/experiments.md).
    """
    yield "B", "0"
    yield from product(ID_CHARACTERS, repeat=2)


def _wrap(learned: str) -> LlamaTokenizer:
    model = json.loads(learned)["model"]
    vocabulary, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    for first, second in _id_pairs():
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            merges.append((first, second))
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=False, pad_token=None, add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
