"""The teacher's way of seeing: the checkpoint's own grids, all image tokens of every view.

The teacher answers the student's prompt, with its image tokens where the student has placeholders;
so both are measured on the same target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from lavic.model.load import BaseModel, image_processor
from lavic.model.sequences import IGNORE_INDEX, Sequence, TokenBatch


@dataclass(frozen=True)
class FullTokens:
    """Embedded sequences with all image tokens.

    Attributes:
        embeds: [B, T, D] input embeddings, padded on the right or the left.
        batch: ids, mask and labels of the same T; the placeholder position is the first image token's.
    """

    embeds: Tensor
    batch: TokenBatch


@dataclass(frozen=True)
class PixelInputs:
    """What a checkpoint's image processor makes of some pictures.

    Attributes:
        pixel_values: [n, views, 3, s, s], views that a picture has not are zeros; of LLaVA-1.5 [n, 3, s, s].
        image_sizes: [n, 2]; None for LLaVA-1.5, which has one view of a fixed size.
    """

    pixel_values: Tensor
    image_sizes: Tensor | None

    def pin_memory(self) -> PixelInputs:
        """The same in page-locked memory."""
        sizes = None if self.image_sizes is None else self.image_sizes.pin_memory()
        return PixelInputs(self.pixel_values.pin_memory(), sizes)


def pixel_inputs(processor: BaseImageProcessor, images: Rows[Image.Image]) -> PixelInputs:
    """Pictures as the checkpoint's own processor cuts them."""
    inputs = processor(images=list(images), return_tensors="pt")
    return PixelInputs(inputs["pixel_values"], inputs.get("image_sizes"))


class FullTokenModel:
    """A LLaVA-NeXT checkpoint as it was published: the teacher."""

    def __init__(self, base: BaseModel) -> None:
        self.llava = base.model
        self.processor = image_processor(base.source)

    def image_tokens(self, images: Rows[Image.Image]) -> list[Tensor]:
        """Per picture [n, D]: base view, tiles without padding, line breaks (n depends on the shape)."""
        return self.tokens_of(pixel_inputs(self.processor, images))

    @torch.no_grad()
    def tokens_of(self, inputs: PixelInputs) -> list[Tensor]:
        """The same, of pictures that the processor has seen."""
        device = self.llava.device
        sizes = {} if inputs.image_sizes is None else {"image_sizes": inputs.image_sizes.to(device)}
        pixels = inputs.pixel_values.to(device, self.llava.dtype)
        return list(self.llava.get_image_features(pixel_values=pixels, **sizes).pooler_output)

    @torch.no_grad()
    def embed(
        self, sequences: Rows[Sequence], image_tokens: Rows[Tensor], pad_id: int, *, side: str = "right"
    ) -> FullTokens:
        """Put each picture's tokens where the sequence has its V placeholders."""
        pairs = zip(sequences, image_tokens, strict=True)
        rows = [self._expanded(sequence, len(tokens)) for sequence, tokens in pairs]
        width = max(len(ids) for ids, _, _ in rows)
        shape = (len(rows), width)
        device = self.llava.device
        ids = torch.full(shape, pad_id, device=device)
        mask = torch.zeros(shape, dtype=torch.bool, device=device)
        labels = torch.full(shape, IGNORE_INDEX, device=device)
        is_eos = torch.zeros(shape, dtype=torch.bool, device=device)
        positions = torch.zeros((len(rows), 1), dtype=torch.int64, device=device)
        for row, (row_ids, prompt_length, first) in enumerate(rows):
            start = width - len(row_ids) if side == "left" else 0
            end = start + len(row_ids)
            ids[row, start:end] = torch.tensor(row_ids, device=device)
            mask[row, start:end] = True
            labels[row, start + prompt_length : end] = ids[row, start + prompt_length : end]
            is_eos[row, end - 1] = prompt_length < len(row_ids)
            positions[row] = start + first
        embeds = self.llava.get_input_embeddings()(ids)
        for row, tokens in enumerate(image_tokens):
            first = int(positions[row])
            embeds[row, first : first + len(tokens)] = tokens.to(embeds.dtype)
        left = side == "left" and bool((~mask).any())
        return FullTokens(embeds, TokenBatch(ids, mask, positions, labels, is_eos, left))

    def hidden_states(self, full: FullTokens) -> Tensor:
        """[B, T, D] after the language model.

        Raises:
            ValueError: padded on the left; only generation needs that, and does its own forward passes.
        """
        if full.batch.left_padded:
            raise ValueError("padding must be on the right")
        output = self.llava.model.language_model(inputs_embeds=full.embeds, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @staticmethod
    def _expanded(sequence: Sequence, count: int) -> tuple[list[int], int, int]:
        """ids, prompt length and first image position, with ``count`` image tokens for the placeholders."""
        spread = sequence.spread([count])
        ids, first = list(spread.input_ids), spread.placeholders[0]
        # An id that can be looked up: what stands there is replaced.
        ids[first : first + count] = [0] * count
        return ids, spread.prompt_length, first
