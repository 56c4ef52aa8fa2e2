"""The teacher in transformers: pictures in batches, padded on the left, greedy or drawn."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from itertools import takewhile

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lavic.describe.engines import Answer, Request, Speech
from lavic.describe.lengths import image_token_count
from lavic.model.full_tokens import FullTokenModel
from lavic.model.load import BaseModel
from lavic.model.sequences import Sequence
from lavic.training.identity import weights_mark


class TransformersEngine:
    """A loaded checkpoint with one prompt; see ``lavic.describe.engines.Engine``."""

    def __init__(self, base: BaseModel, prompt: Sequence, speech: Speech) -> None:
        self._base, self._prompt, self._speech = base, prompt, speech
        self._teacher = FullTokenModel(base)
        self._ends = _end_ids(base)
        pad = base.tokenizer.pad_token_id
        self._pad = self._ends[0] if pad is None else int(pad)

    @property
    def weights(self) -> str:
        """SHA-256 over all tensors' shapes and some of their values."""
        return weights_mark(self._base.model)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """See ``Engine``."""
        return image_token_count(self._base.model.config, size)

    @torch.no_grad()
    def describe(self, requests: Rows[Request]) -> list[Answer]:
        """See ``Engine``."""
        tokens = self._teacher.image_tokens([request.image for request in requests])
        prompts = [self._prompt] * len(requests)
        full = self._teacher.embed(prompts, tokens, self._pad, side="left")
        drawing = LogitsProcessorList()
        if self._speech.temperature > 0:
            seeds = [request.seed for request in requests]
            drawing.append(PerRowDrawing(seeds, self._speech.temperature, self._speech.top_p))
        ids = self._base.model.generate(
            inputs_embeds=full.embeds,
            attention_mask=full.batch.attention_mask.long(),
            max_new_tokens=self._speech.max_new_tokens,
            do_sample=False,  # drawing is done by the processor, which leaves one token to choose
            num_beams=1,
            logits_processor=drawing,
            pad_token_id=self._pad,
            eos_token_id=self._ends,
        )
        return [self._answer(row) for row in ids.tolist()]

    def _answer(self, ids: list[int]) -> Answer:
        said = list(takewhile(lambda token: token not in self._ends, ids))
        text = self._base.tokenizer.decode(said, skip_special_tokens=True)
        return Answer(text.strip(), len(said), cut_off=len(said) == len(ids))


def _end_ids(base: BaseModel) -> list[int]:
    """EOS, and what else ends a turn in the checkpoint's own words (Llama 3 has two such tokens)."""
    own = getattr(base.model.generation_config, "eos_token_id", None)
    more = own if isinstance(own, list) else [] if own is None else [own]
    return list(dict.fromkeys(int(token) for token in [base.tokenizer.eos_token_id, *more]))


class PerRowDrawing(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's token with the row's own generator and forbids all others.

    So what is drawn for a picture depends on its seed and its logits, not on what stands beside it.
    """

    def __init__(self, seeds: Rows[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, vocabulary] scores to scores of which one a row is finite."""
        probabilities, order = (
            (scores.double() / self._temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        # The first token always stays; the one that reaches top_p is the last that does.
        kept = probabilities.cumsum(-1) - probabilities < self._top_p
        sums = (probabilities * kept).cumsum(-1)
        # One number a row and step, drawn on the CPU, so that every device gets the same.
        drawn = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in self._generators])
        aim = drawn.to(sums.device)[:, None] * sums[:, -1:]
        place = (sums <= aim).sum(-1, keepdim=True).clamp_max(kept.sum(-1, keepdim=True) - 1)
        chosen = order.gather(-1, place)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)
