"""Both stages as they were published, plainly: the side that lavic is measured against.

Written from what the algorithm does, for equal mathematics and all of its costs:

- pictures are decoded, cut and normalised in the main process, inside the step, by transformers' own processor;
- the whole vision tower runs over all five views, its last layer over every patch; then [CLS] is taken;
- prompt and target go through the language model in one pass, with gradient from the input embeddings on;
- logits over the whole vocabulary at every position, then the shifted cross entropy with labels;
- batches in random order, padded to their longest; nothing is cached, nothing is read ahead.

Stage 2 (``PublishedRecommendation``) does the same for the ten candidates of each conversation, 50 views, although the
tower is frozen: at every step, and for every answer, which is generated, not scored.

Defects of the published scripts that are *not* copied, because two sides with different losses cannot be compared:
the label mask came from the padded prompt's length (here labels follow the position), no end of sequence was taught
(here it is), rows were padded on the left under labels made for the right, and a picture that cannot be read became
a white one (here it is an error). Also left out, in favour of the published side: the keys and values that
``use_cache`` would keep, checkpoints of the whole model, and tokenising the text anew at each step.

Source: LaViC (arXiv 2503.23312).
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from lavic.model.load import BaseModel
from lavic.model.sequences import IGNORE_INDEX, Sequence, SequenceBuilder, TokenBatch


class PublishedDistillation:
    """Loss of a batch, from picture files and token ids.

    Args:
        base: the checkpoint, with LoRA attached; nothing in it is changed.
        builder: pads sequences and sets their labels.
    """

    def __init__(self, base: BaseModel, builder: SequenceBuilder) -> None:
        self.llava = base.model
        self.builder = builder
        side = base.view_size
        self.processor = LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=[[2 * side, 2 * side]],
            image_mean=list(base.pixel_mean),
            image_std=list(base.pixel_std),
        )

    def read_pictures(self, paths: Rows[Path]) -> Tensor:
        """[B, 5, 3, s, s] normalised pixels in fp32."""
        pictures = []
        for path in paths:
            with Image.open(path) as picture:
                pictures.append(picture.convert("RGB"))
        pixels: Tensor = self.processor(pictures, return_tensors="pt")["pixel_values"]
        return pixels

    def loss(self, paths: Rows[Path], sequences: Rows[Sequence]) -> Tensor:
        """Mean loss of a batch's target tokens, in nats, with gradient to the LoRA weights."""
        return self.loss_of(self.read_pictures(paths), self.builder.collate(sequences))

    def loss_of(self, pixel_values: Tensor, batch: TokenBatch) -> Tensor:
        """The same from [B, V, 3, s, s] pixels and padded ids."""
        batch = batch.to(self.llava.device)
        embeds = self.inputs_embeds(batch, self.visual_tokens(pixel_values))
        output = self.llava(inputs_embeds=embeds, attention_mask=batch.attention_mask.long(), use_cache=False)
        # [B, T, vocabulary], upcast as the library's own loss does (which would round fp64 down).
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        predicted = logits[:, :-1].flatten(0, 1)
        return functional.cross_entropy(predicted, batch.labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)

    def visual_tokens(self, pixel_values: Tensor) -> Tensor:
        """[B, V, 3, s, s] to [B, V, D]: the whole tower, then [CLS], then the projector."""
        pixels = pixel_values.flatten(0, 1).to(self.llava.device, self.llava.dtype)
        states = self.llava.model.vision_tower(pixel_values=pixels).last_hidden_state  # [B V, 1 + patches, W]
        tokens: Tensor = self.llava.model.multi_modal_projector(states[:, 0])
        return tokens.reshape(*pixel_values.shape[:2], -1)

    def inputs_embeds(self, batch: TokenBatch, visual_tokens: Tensor) -> Tensor:
        """[B, T, D]: embeddings of the ids, the visual tokens in their places."""
        places = torch.zeros_like(batch.attention_mask).scatter(1, batch.placeholder_positions, True)
        embeds: Tensor = self.llava.get_input_embeddings()(batch.input_ids.masked_fill(places, 0))
        return embeds.masked_scatter(places[..., None], visual_tokens.to(embeds.dtype))


#: ``max_new_tokens`` of the published evaluation. As the end was not taught, it is always reached.
ANSWER_TOKENS = 10


class PublishedRecommendation(PublishedDistillation):
    """Stage 2: the loss of a batch of conversations, with every candidate's picture in ``paths``, and greedy answers.

    Every candidate has a picture: the published algorithm knows no other ones.
    """

    def visual_tokens(self, pixel_values: Tensor) -> Tensor:
        """[N, V, 3, s, s] to [N, V, D], the N pictures of all candidates; nothing of it is trained."""
        with torch.no_grad():
            return super().visual_tokens(pixel_values)

    @torch.no_grad()
    def answer(self, pixel_values: Tensor, prompt: Sequence) -> Tensor:
        """[n] ids that follow one conversation's prompt, each the likeliest, with keys and values kept."""
        batch = self.builder.collate([prompt]).to(self.llava.device)
        embeds = self.inputs_embeds(batch, self.visual_tokens(pixel_values))
        ids: Tensor = self.llava.generate(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask.long(),
            min_new_tokens=ANSWER_TOKENS,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            use_cache=True,
            eos_token_id=self.builder.eos_id,
            pad_token_id=self.builder.pad_id,
        )
        return ids[0]
