"""Reading pictures in rows as words are read, so that the tiny language model can choose among them.

Choosing among words is known (``text_training``). What pictures lack is that they look like words to the layers that
compare: from the answer's loss, and from labels at the pictures' places, that did not come in hundreds of steps. So it
is asked for directly (``reading_loss``): behind the first layer, the state at each of a picture's five places is to be
what it is when a word stands there: of background, colour, pattern, kind, detail. In the same way a pattern's second
wording, "with checks", is to be read as the first, "checked", which is a picture's word. ``joint_training`` teaches it
to projector and first layer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as Rows

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import LlavaNextForConditionalGeneration, MistralModel

from lavic.toyshop.picture_rows import PLACES, PictureRows, RowsExercise
from lavic.toyshop.text_training import Batch, pad

#: What the squared error of all states counts beside the cosine of what tells the words of a place apart.
ERROR_WEIGHT = 3.0
#: The mark of a place at which a pattern is worded in the second way.
SYNONYM = PLACES + 1
#: Standard deviations of what is changed about a view's token, as shares of its length.
_LENGTHS, _DIRECTIONS = 0.15, 0.1


def view_tokens(model: LlavaNextForConditionalGeneration, features: Tensor, *, vary: bool = True) -> Tensor:
    """[N, 5, P, W] features to [N, 5, D]: per view the mean of its image tokens; five tokens that say all.

    Args:
        vary: take the mean over a part of them, drawn anew for each picture, and change its length and direction
            somewhat. Five distilled tokens are to be read as these are, and are not quite the same; [CLS] itself is
            never shown.
    """
    tokens: Tensor = model.model.multi_modal_projector(features)
    if not vary:
        return tokens.mean(2)
    kept = (torch.rand(tokens.shape[:3]) < 0.1 + 0.9 * torch.rand(len(tokens), 1, 1)).to(tokens.dtype)
    kept[..., kept.shape[-1] // 2] = 1.0
    means = (tokens * kept[..., None]).sum(2) / kept.sum(2)[..., None]
    means = means * (1 + _LENGTHS * torch.randn(len(means), means.shape[1], 1))
    length = means.detach().norm(dim=-1, keepdim=True) / means.shape[-1] ** 0.5
    varied: Tensor = means + _DIRECTIONS * length * torch.randn_like(means)
    return varied


def first_states(language_model: MistralModel, embeds: Tensor) -> Tensor:
    """[B, T, D] states behind the first layer; the others are not computed."""
    seen: list[Tensor] = []
    layers = language_model.layers
    hook = layers[0].register_forward_hook(lambda module, given, output: seen.append(output))
    language_model.layers = layers[:1]
    try:
        language_model(inputs_embeds=embeds, use_cache=False)
    finally:
        language_model.layers = layers
        hook.remove()
    return seen[0]


class PictureLessons:
    """Batches of rows in which pictures stand for words.

    Args:
        features: [N, 5, P, W] of the frozen tower, one per look of ``rows``.
    """

    def __init__(
        self, model: LlavaNextForConditionalGeneration, rows: PictureRows, features: Tensor, seed: int
    ) -> None:
        self.model, self.rows, self.features = model, rows, features
        self.rng = random.Random(seed)

    def draw(self, batch: int, candidates: int) -> list[RowsExercise]:
        """Fresh exercises."""
        return [self.rows.exercise(self.rng, candidates) for _ in range(batch)]

    def batch(self, exercises: Rows[RowsExercise]) -> Batch:
        """Them, padded, in words."""
        return pad([one.exercise for one in exercises], self.rows.tokenizer.pad_token_id)

    def meant(self, ids: Tensor, exercises: Rows[RowsExercise]) -> Tensor:
        """[B, T] input_ids with the first wording of each pattern where the second one ends."""
        meant = ids.clone()
        for row, exercise in enumerate(exercises):
            for place, token in exercise.synonyms:
                meant[row, place] = token
        return meant

    def shown(
        self, words: Tensor, exercises: Rows[RowsExercise], share: float, *, vary: bool = True
    ) -> tuple[Tensor, Tensor]:
        """[B, T, D] embeddings of the words with pictures in a share of the rows; [B, T] which place shows one.

        The number in the mask is the place within the row, 1 to 5; 0 is no picture.
        """
        places = torch.tensor([one.places for one in exercises])
        pictures = torch.tensor([one.pictures for one in exercises])
        chosen = (torch.rand(pictures.shape) < share).repeat_interleave(PLACES, 1)
        tokens = view_tokens(self.model, self.features[pictures.flatten()].float(), vary=vary)
        tokens = tokens.reshape(*places.shape, -1)[chosen]
        row = torch.arange(len(places))[:, None].expand_as(places)[chosen]
        column = places[chosen]
        mask = torch.zeros(words.shape[:2], dtype=torch.int64)
        mask[row, column] = (torch.arange(places.shape[1]) % PLACES + 1).expand_as(places)[chosen]
        return words.index_put((row, column), tokens.to(words.dtype)), mask


def reading_loss(got: Tensor, wanted: Tensor, places: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """How far the states with pictures are from those with words.

    Args:
        got, wanted: [B, T, D] states behind the first layer.
        places: [B, T], 1 to 5 where a picture's token stands, ``SYNONYM`` where a second wording ends, else 0.
        real: [B, T], False at padding.

    Returns:
        per place that occurs, the mean of 1 - cosine of what is left of both without the words' mean: 0 is the
        same word, 1 no relation; and the squared error of all states as a share of their squared length.
    """
    apart = []
    for place in places[places > 0].unique().tolist():
        here, there = got[places == place], wanted[places == place]
        mean = there.mean(0)
        apart.append(1 - cosine_similarity(here - mean, there - mean, dim=-1).mean())
    error = ((got - wanted).square().sum(-1) / wanted.square().sum(-1)[real].mean())[real].mean()
    return torch.stack(apart), error


@torch.no_grad()
def picture_choice_accuracy(lessons: PictureLessons, cases: int, *, candidates: int = 10, share: float = 1.0) -> float:
    """Share of fresh cases in which the greedy answer is the right ID, exactly; ``share`` of the rows are pictures."""
    model, right = lessons.model, 0
    for first in range(0, cases, 20):
        exercises = lessons.draw(min(20, cases - first), candidates)
        ids, targets, *_ = lessons.batch(exercises)
        embeds, _ = lessons.shown(model.get_input_embeddings()(ids), exercises, share, vary=False)
        hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        asked = targets >= 0
        right += int(((model.lm_head(hidden).argmax(-1) == targets) | ~asked).all(1).sum())
    return right / cases
