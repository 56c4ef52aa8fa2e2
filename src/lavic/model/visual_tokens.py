"""THE five-token model: views -> [CLS] states -> projector -> their places among the input embeddings.

    views [N, V, 3, s, s] uint8
      | PixelNorm, vision tower: state of [CLS] after the last layer, without the final layer norm
    cls_states [N, V, W]
      | projector
    visual_tokens [N, V, D]
      | put at the placeholders' positions, out of place
    inputs_embeds [B, T, D] -> language model -> hidden_states [B, T, D]

Source: LaViC (arXiv 2503.23312), section 4.1; 2,885 tokens of a picture become V = 5.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor, nn

from lavic.model.accelerations import Accelerations, arrange_layers, arrange_modules
from lavic.model.cls_only import last_layer_of_cls
from lavic.model.frozen_start import hidden_from_image_on
from lavic.model.last_layer import states_at
from lavic.model.load import BaseModel
from lavic.model.past import Past, run_behind
from lavic.model.prefix_cache import PrefixCache, Prompt, shared_length
from lavic.model.sequences import ABSENT, TokenBatch
from lavic.model.views import PixelNorm

DEFAULT_ACCELERATIONS = Accelerations()


class FiveTokenModel(nn.Module):
    """The student: a LLaVA checkpoint (with or without LoRA) that sees a picture in V tokens.

    Args:
        base: the loaded checkpoint; LoRA may be attached to ``base.model`` before or after.
        accelerations: the short cuts; the base's layers are arranged for them.
    """

    def __init__(self, base: BaseModel, accelerations: Accelerations = DEFAULT_ACCELERATIONS) -> None:
        super().__init__()
        self.llava = base.model
        self.views = base.family.views
        self.accelerate(accelerations)
        self.pixel_norm = PixelNorm(base.pixel_mean, base.pixel_std).to(base.model.device)

    def accelerate(self, accelerations: Accelerations) -> None:
        """Take these short cuts from now on."""
        self.accelerations = accelerations
        parts = [self.vision_tower, self.llava.model.multi_modal_projector, self.llava.model.language_model]
        arrange_modules([*parts, self.lm_head], accelerations)
        towers = (self.vision_tower.encoder, self.llava.model.language_model)
        arrange_layers([layer for tower in towers for layer in tower.layers], accelerations)  # type: ignore[union-attr]

    @property
    def vision_tower(self) -> nn.Module:
        """The CLIP tower; LoRA layers sit inside it."""
        tower: nn.Module = self.llava.model.vision_tower
        return tower

    @property
    def lm_head(self) -> nn.Module:
        """The output embeddings, never resized."""
        head: nn.Module = self.llava.lm_head
        return head

    @property
    def width(self) -> int:
        """D, numbers of a visual token and of every other input embedding."""
        return int(self.llava.get_input_embeddings().embedding_dim)

    def prefix_of(self, prompts: Rows[Prompt]) -> PrefixCache | None:
        """The cache of what all prompts begin with, for the language model's weights as they are now.

        None where that is too little, or where ``prefix_cache`` is off.
        """
        length = shared_length(prompts) if self.accelerations.prefix_cache else 0
        if length < 2:
            return None
        ids = prompts[0].prompt_ids[:length]
        return PrefixCache(self.llava.model.language_model, self.llava.get_input_embeddings(), ids)

    def cls_states(self, views: Tensor) -> Tensor:
        """[N, V, 3, s, s] uint8 to [N, V, W]: last layer's [CLS], before the final layer norm."""
        tower = self.vision_tower
        pixels = self.pixel_norm(views.flatten(0, 1), self.llava.dtype)
        if self.accelerations.cls_only:
            states = last_layer_of_cls(tower, pixels)
        else:
            states = tower(pixel_values=pixels).last_hidden_state[:, 0]
        return states.reshape(*views.shape[:2], -1)

    def visual_tokens(self, views: Tensor) -> Tensor:
        """[N, V, 3, s, s] uint8 to [N, V, D], in the order of the placeholders."""
        tokens: Tensor = self.llava.model.multi_modal_projector(self.cls_states(views))
        return tokens

    def inputs_embeds(self, batch: TokenBatch, visual_tokens: Tensor) -> Tensor:
        """[B, T, D]: embeddings of the ids, with visual tokens at their placeholders.

        Args:
            visual_tokens: [N, V, D], the N pictures of all rows behind each other; one a row in stage 1.
        """
        positions = batch.placeholder_positions
        rows = torch.arange(len(positions), device=positions.device)[:, None].expand_as(positions)
        if batch.ragged:
            there = positions != ABSENT
            rows, positions = rows[there], positions[there]
        # Placeholder ids lie above the vocabulary: look up a safe id there, it is replaced anyway.
        safe_ids = batch.input_ids.index_put((rows, positions), torch.zeros_like(positions))
        embeds: Tensor = self.llava.get_input_embeddings()(safe_ids)
        tokens = visual_tokens.reshape(*positions.shape, embeds.shape[-1])
        return embeds.index_put((rows, positions), tokens.to(embeds.dtype))

    def hidden_states(self, batch: TokenBatch, visual_tokens: Tensor, prefix: PrefixCache | None = None) -> Tensor:
        """[B, T', D] after the language model.

        T' is T, or less where a constant beginning is left out; the last position is the last of the batch in
        any case. In training, states that no loss needs may be zeros: with ``frozen_start``, for which every row must
        hold a picture, those left of a row's first visual token; with ``answer_states`` those that predict nothing.

        Args:
            prefix: the cache of what every row starts with; padding must then be on the right.

        Raises:
            ValueError: the prefix is not what every row starts with.
        """
        embeds = self.inputs_embeds(batch, visual_tokens)
        language_model = self.llava.model.language_model
        if prefix is not None:
            prefix.check(batch)
        before = Past([]) if prefix is None else prefix.past
        if self.accelerations.frozen_start and torch.is_grad_enabled() and not batch.left_padded:
            first = batch.placeholder_positions[:, 0] - before.length
            lengths = batch.attention_mask.sum(dim=1) - before.length
            return hidden_from_image_on(language_model, embeds[:, before.length :], first, lengths, before)
        if prefix is not None:
            return run_behind(language_model, embeds[:, before.length :], before)
        if batch.left_padded:
            position_ids = (batch.attention_mask.long().cumsum(-1) - 1).clamp_min(0)
            output = language_model(
                inputs_embeds=embeds,
                attention_mask=batch.attention_mask.long(),
                position_ids=position_ids,
                use_cache=False,
            )
        elif self.accelerations.answer_states and torch.is_grad_enabled():
            return states_at(language_model, embeds, batch.predicting)
        else:
            # Padding on the right is behind every real token: the causal mask alone hides it.
            output = language_model(inputs_embeds=embeds, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden
