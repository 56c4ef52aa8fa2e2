"""Prompt and target become input_ids, with labels by position.

One rule holds for training, scoring, generation and stored teacher logits: the ids are those of the
*joined* string prompt + target, tokenised once. Text that comes from data is never read as a special
token, however it is spelled; the placeholders are tokens of a private copy of the tokenizer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from tokenizers import AddedToken, Encoding, Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from lavic.prompts import Prompts, fill, placeholder_names

IGNORE_INDEX = -100
#: In ``placeholder_positions``: this row has no such picture.
ABSENT = -1


@dataclass(frozen=True)
class Sequence:
    """One prompt and its target.

    Attributes:
        input_ids: prompt, then target, then EOS; ``prompt_length`` of them carry no loss.
        ends: whether EOS closes the target.
        placeholders: positions of the visual tokens: V for each picture in the prompt, global view first.
    """

    input_ids: tuple[int, ...]
    prompt_length: int
    placeholders: tuple[int, ...]
    ends: bool = True

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens in front of the target."""
        return self.input_ids[: self.prompt_length]

    @property
    def target_tokens(self) -> int:
        """How many tokens carry loss, EOS among them."""
        return len(self.input_ids) - self.prompt_length

    def spread(self, counts: Rows[int]) -> Sequence:
        """The same with so many visual tokens for each picture, instead of the same number V for each."""
        views = len(self.placeholders) // max(1, len(counts))
        if all(count == views for count in counts):
            return self
        ids: list[int] = []
        placeholders: list[int] = []
        end = 0
        for count, start in zip(counts, self.placeholders[::views], strict=True):
            ids += self.input_ids[end:start]
            placeholders += range(len(ids), len(ids) + count)
            end = start + views
            ids += [self.input_ids[start]] * count
        ids += self.input_ids[end:]
        # All pictures stand in the prompt.
        prompt_length = self.prompt_length + len(ids) - len(self.input_ids)
        return replace(self, input_ids=tuple(ids), prompt_length=prompt_length, placeholders=tuple(placeholders))

    @property
    def tokens_from_image_on(self) -> int:
        """How many tokens stand at and behind the first visual token: those that gradients go through."""
        return len(self.input_ids) - min(self.placeholders, default=0)


@dataclass(frozen=True)
class TokenBatch:
    """Padded sequences.

    Attributes:
        input_ids: [B, T] int64; at padding the pad id, at placeholders an id above the vocabulary.
        attention_mask: [B, T] bool, False at padding.
        placeholder_positions: [B, P] int64, columns of the visual tokens, V for each picture; where a row has fewer
            pictures than another, the rest is ABSENT.
        labels: [B, T] int64, the id itself where it carries loss, IGNORE_INDEX elsewhere.
        is_eos: [B, T] bool, where a label is the closing EOS.
        left_padded: whether a row starts with padding.
        ragged: whether a placeholder position is ABSENT.
    """

    input_ids: Tensor
    attention_mask: Tensor
    placeholder_positions: Tensor
    labels: Tensor
    is_eos: Tensor
    left_padded: bool = False
    ragged: bool = False

    @property
    def predicting(self) -> Tensor:
        """[B, T] bool, the positions whose state predicts a label: that of the next one."""
        return functional.pad(self.labels[:, 1:] != IGNORE_INDEX, (0, 1))

    def pin_memory(self) -> TokenBatch:
        """The same batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


class SequenceBuilder:
    """Builds sequences for one tokenizer, one set of prompts and V views."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, views: int) -> None:
        self.prompts = prompts
        self.views = views
        self.bos_id = tokenizer.bos_token_id
        self.eos_id = int(tokenizer.eos_token_id)
        self.pad_id = self.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        # A name that no data can spell: the placeholders are ordinary added tokens, and those match in text.
        secret = secrets.token_hex(8)
        self.spellings = tuple(f"<{secret}:{name}>" for name in placeholder_names(views))
        self._tokenizer = _private_copy(tokenizer, self.spellings)
        self.placeholder_ids = tuple(self._id_of(spelling) for spelling in self.spellings)

    def __setstate__(self, state: dict[str, object]) -> None:
        # A worker process may get a pickled copy, and the switch is no part of a pickled tokenizer.
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = True

    def _id_of(self, spelling: str) -> int:
        token_id = self._tokenizer.token_to_id(spelling)
        assert token_id is not None, "added tokens always have an id"
        return int(token_id)

    def distill(self, title: str, description: str | None = None) -> Sequence:
        """Stage 1: the prompt for a product and, unless None, its description and EOS."""
        prompt = fill(self.prompts.distill, title=title, visual_tokens="".join(self.spellings))
        return self.join(prompt, description)

    def encode(self, text: str) -> Encoding:
        """A text's tokens and their places; placeholders are tokens, no other spelling is special, BOS is not added."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def join(self, prompt: str, target: str | None, *, pictures: int = 1, eos: bool = True) -> Sequence:
        """Tokenise prompt + target as one string; a token that reaches into the target belongs to it.

        Args:
            pictures: how often the prompt holds the V placeholders.
            eos: whether EOS closes the target.
        """
        encoding = self.encode(prompt + (target or ""))
        ids: list[int] = ([] if self.bos_id is None else [self.bos_id]) + list(encoding.ids)
        shift = len(ids) - len(encoding.ids)
        if target is None:
            prompt_length = len(ids)
        else:
            prompt_length = shift + _first_token_past(encoding, len(prompt))
            ids += [self.eos_id] if eos else []
        known = frozenset(self.placeholder_ids)
        placeholders = tuple(position for position, token in enumerate(ids) if token in known)
        if tuple(ids[position] for position in placeholders) != self.placeholder_ids * pictures:
            raise ValueError(f"the prompt must hold each placeholder once, in order, for each of {pictures} pictures")
        return Sequence(tuple(ids), prompt_length, placeholders, eos)

    def collate(self, sequences: Rows[Sequence], *, side: str = "right") -> TokenBatch:
        """Pad to the longest on the given side."""
        width = max(len(sequence.input_ids) for sequence in sequences)
        shape = (len(sequences), width)
        input_ids = torch.full(shape, self.pad_id)
        attention_mask = torch.zeros(shape, dtype=torch.bool)
        labels = torch.full(shape, IGNORE_INDEX)
        is_eos = torch.zeros(shape, dtype=torch.bool)
        places = max(len(sequence.placeholders) for sequence in sequences)
        positions = torch.full((len(sequences), places), ABSENT)
        for row, sequence in enumerate(sequences):
            length = len(sequence.input_ids)
            start = width - length if side == "left" else 0
            ids = torch.tensor(sequence.input_ids)
            input_ids[row, start : start + length] = ids
            attention_mask[row, start : start + length] = True
            labels[row, start + sequence.prompt_length : start + length] = ids[sequence.prompt_length :]
            is_eos[row, start + length - 1] = sequence.ends and sequence.prompt_length < length
            columns = torch.tensor(sequence.placeholders, dtype=torch.int64) + start
            positions[row, : len(columns)] = columns
        left_padded = side == "left" and bool((~attention_mask).any())
        ragged = bool((positions == ABSENT).any())
        return TokenBatch(input_ids, attention_mask, positions, labels, is_eos, left_padded, ragged)


def text_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy to which all is text, the spellings of special tokens too; it adds neither BOS nor EOS if asked not to."""
    return _private_copy(tokenizer, ())


def _private_copy(tokenizer: PreTrainedTokenizerBase, placeholders: Rows[str]) -> Tokenizer:
    """A copy that reads the placeholders as tokens, and every other added token's spelling as text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = True  # only special tokens are switched off by encode_special_tokens
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    copy.no_padding()
    copy.no_truncation()
    copy.add_tokens([AddedToken(name, normalized=False, special=False) for name in placeholders])
    return copy


def _first_token_past(encoding: Encoding, characters: int) -> int:
    """Index of the first token that covers a character at or behind ``characters``."""
    for index, (_, end) in enumerate(encoding.offsets):
        if end > characters:
            return index
    return len(encoding.ids)
