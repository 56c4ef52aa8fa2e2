"""The tiny model learns to see: [CLS] contrastively, as CLIP's was, then describing from image tokens.

The teacher never sees five [CLS] vectors: in every step it gets all image tokens or a random subset of
them (any-resolution training varies their number in the real family too). Its features come from the last
layer but one, so without the contrastive loss the last layer, and with it [CLS], would say nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import LlamaTokenizer, LlavaNextForConditionalGeneration
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lavic.model.sequences import IGNORE_INDEX, SequenceBuilder
from lavic.model.sequences import Sequence as TokenSequence
from lavic.model.views import PixelNorm
from lavic.prompts import DEFAULT_PROMPTS
from lavic.toyshop import grammar
from lavic.toyshop.picture_pool import PicturePool
from lavic.toyshop.tokenizer import IMAGE_TOKEN

WIDTH = 96
_TEXT_DIM = 64
_GRID = 5  # patches along one side of a view: 40 / 8


class Contrast(nn.Module):
    """[CLS] against descriptions: both sides of the batch are the other's negatives (CLIP's loss).

    Two picture vectors per picture, that of the global view and the mean of its tiles, so that the [CLS] of
    every view has to speak. Everything in here but the tower is thrown away after training.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(vocabulary, 128, mode="mean")
        self.text = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, _TEXT_DIM))
        self.whole = nn.Linear(WIDTH, _TEXT_DIM)
        self.tiles = nn.Linear(WIDTH, _TEXT_DIM)
        self.scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, cls: Tensor, token_ids: Tensor, offsets: Tensor) -> Tensor:
        """[B, 5, W] [CLS] states and the bags of words of B descriptions to the mean loss."""
        text = normalize(self.text(self.words(token_ids, offsets)), dim=-1)
        targets = torch.arange(len(cls))
        loss = cls.new_zeros(())
        for picture in (self.whole(cls[:, 0]), self.tiles(cls[:, 1:]).mean(1)):
            scores = self.scale.exp().clamp(max=100) * normalize(picture, dim=-1) @ text.T
            loss = loss + cross_entropy(scores, targets) + cross_entropy(scores.T, targets)
        return loss / 4


def bags_of_words(tokenizer: LlamaTokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Flat token ids and where each text's begin, as ``EmbeddingBag`` wants them."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    offsets = torch.tensor([0, *(len(row) for row in ids[:-1])]).cumsum(0)
    return torch.tensor([token for row in ids for token in row]), offsets


def tower_states(model: LlavaNextForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 5, 3, s, s] normalised pixels to features [B, 5, P, W] of the last layer but one, and [CLS] [B, 5, W]."""
    output = model.model.vision_tower(pixel_values=pixels.flatten(0, 1), output_hidden_states=True)
    features = output.hidden_states[-2][:, 1:].unflatten(0, pixels.shape[:2])
    return features, output.last_hidden_state[:, 0].unflatten(0, pixels.shape[:2])


def packed_image_tokens(model: LlavaNextForConditionalGeneration, features: Tensor) -> Tensor:
    """[B, 5, 25, W] features of square pictures to [B, 135, D], as the checkpoint packs them.

    Base view, then the 10 x 10 grid of the tiles row by row, each row closed by a line break.
    """
    tokens = model.model.multi_modal_projector(features)
    rows, _, _, width = tokens.shape
    grid = tokens[:, 1:].reshape(rows, 2, 2, _GRID, _GRID, width).permute(0, 1, 3, 2, 4, 5)
    grid = grid.reshape(rows, 2 * _GRID, 2 * _GRID, width)
    breaks = model.model.image_newline.to(grid.dtype).expand(rows, 2 * _GRID, 1, width)
    return torch.cat([tokens[:, 0], torch.cat([grid, breaks], 2).flatten(1, 2)], 1)


class DescribingLessons:
    """Makes batches of (picture, prompt, description) from a pool."""

    def __init__(self, tokenizer: LlamaTokenizer, pool: PicturePool, seed: int) -> None:
        self.tokenizer, self.pool = tokenizer, pool
        self.rng = random.Random(seed)
        self.builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, views=1)
        self.norm = PixelNorm(tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD))
        self._deck: list[int] = []

    def draw(self, count: int) -> tuple[list[int], list[str]]:
        """Indices of pictures, and a fresh description of each; the deck is dealt out before it is shuffled."""
        if len(self._deck) < count:
            self._deck = self.rng.sample(range(len(self.pool)), len(self.pool))
        indices = [self._deck.pop() for _ in range(count)]
        return indices, [grammar.describe(self.pool.looks[index], self.rng) for index in indices]

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Normalised pixels [B, 5, 3, s, s]."""
        views = torch.from_numpy(self.pool.views[sorted(indices)])
        order = {index: place for place, index in enumerate(sorted(indices))}
        pixels: Tensor = self.norm(views[[order[index] for index in indices]], torch.float32)
        return pixels

    def prompt(self, text: str, *, chat: bool) -> TokenSequence:
        """The student's prompt, or the checkpoint's chat format; one placeholder for the picture."""
        if not chat:
            return self.builder.distill(grammar.title(self.rng), text)
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DEFAULT_PROMPTS.describe}]}
        ]
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.builder.join(prompt.replace(IMAGE_TOKEN, self.builder.spellings[0]), f" {text}")


def assemble(
    model: LlavaNextForConditionalGeneration,
    image_tokens: Tensor,
    sequences: list[TokenSequence],
    keep: list[int] | None,
) -> tuple[Tensor, Tensor]:
    """[B, T, D] input embeddings with the image tokens (or the kept ones) at the placeholder, [B, T] targets."""
    if keep is not None:
        image_tokens = image_tokens[:, keep]
    rows, count, _ = image_tokens.shape
    width = max(len(sequence.input_ids) for sequence in sequences) + count - 1
    ids = torch.zeros((rows, width), dtype=torch.int64)
    targets = torch.full((rows, width), IGNORE_INDEX)
    firsts = []
    for row, sequence in enumerate(sequences):
        first = sequence.placeholders[0]
        expanded = [*sequence.input_ids[:first], *([0] * count), *sequence.input_ids[first + 1 :]]
        ids[row, : len(expanded)] = torch.tensor(expanded)
        start = sequence.prompt_length + count - 1
        targets[row, start - 1 : len(expanded) - 1] = ids[row, start : len(expanded)]
        firsts.append(first)
    embeds = model.get_input_embeddings()(ids)
    places = torch.tensor(firsts)[:, None] + torch.arange(count)
    return embeds.index_put((torch.arange(rows)[:, None].expand_as(places), places), image_tokens.to(embeds)), targets


def describing_loss(model: LlavaNextForConditionalGeneration, embeds: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over the positions that have a target."""
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    wanted = targets != IGNORE_INDEX
    return cross_entropy(model.lm_head(hidden[wanted]).float(), targets[wanted])
