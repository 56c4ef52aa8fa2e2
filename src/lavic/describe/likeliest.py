"""The teacher's likeliest tokens at the very tokens that the student is trained on."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from PIL import Image
from torch import Tensor, nn

from lavic.describe.top_logits import TokenLogits, id_type
from lavic.model.full_tokens import FullTokenModel
from lavic.model.sequences import Sequence


@torch.no_grad()
def top_logits_of(
    teacher: FullTokenModel,
    lm_head: nn.Module,
    pad_id: int,
    sequences: Rows[Sequence],
    images: Rows[Image.Image],
    k: int,
) -> list[TokenLogits]:
    """The K likeliest tokens at every target position of each sequence, in one pass.

    Args:
        sequences: with their targets, as the student has them.
    """
    full = teacher.embed(sequences, teacher.image_tokens(images), pad_id)
    hidden = teacher.hidden_states(full)
    found = []
    for row, sequence in enumerate(sequences):
        end = int(full.batch.attention_mask[row].sum())
        # The state in front of a token predicts it.
        states = hidden[row, end - sequence.target_tokens - 1 : end - 1]
        found.append(_of_states(lm_head, states, sequence.input_ids[sequence.prompt_length :], k))
    return found


def _of_states(lm_head: nn.Module, states: Tensor, targets: Rows[int], k: int) -> TokenLogits:
    """[T, D] states and the T ids that they predict."""
    logits = lm_head(states).float()
    ids_type = id_type(logits.shape[-1])
    log_probs = logits.log_softmax(-1)
    top, ids = log_probs.topk(k, -1)
    # From the others themselves: 1 minus what the top holds would lose all digits where that is nearly 1.
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return TokenLogits(
        targets=torch.tensor(list(targets)).numpy().astype(ids_type),
        ids=ids.cpu().numpy().astype(ids_type),
        log_probs=top.half().cpu().numpy(),
        rest=rest.cpu().numpy(),
    )
