"""Log-likelihood of every candidate's ID behind one prompt, which is computed once.

The IDs are a tree of tokens: what several begin with is computed once too. One forward pass over the prompt records
keys and values, in the last layer nothing else; a second one over the tree looks at them, each token at its own
ancestors only. An ID's score is the sum over its tokens and EOS, as training weighs them: what ranks is a probability,
so every answer is a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lavic.model.last_layer import prompt_past
from lavic.model.losses import token_nats
from lavic.model.past import Past, run_behind
from lavic.model.prefix_cache import PrefixCache, common_start
from lavic.model.sequences import ABSENT, IGNORE_INDEX, TokenBatch
from lavic.model.visual_tokens import FiveTokenModel


@dataclass(frozen=True)
class ChoiceRow:
    """A prompt and the tree of its answers.

    Attributes:
        prompt_ids: what all answers' sequences begin with; the tree's root is the last of them.
        nodes: tokens of the tree without its root and without EOS, parents before children.
        parents: of each node, as an index of ``nodes``; -1 is the root.
        edges: (parent, token) of every token to be scored, EOS among them; each once.
        paths: of each answer, the edges whose sum it is.
        placeholders: columns of the prompt's visual tokens.
    """

    prompt_ids: tuple[int, ...]
    nodes: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]
    placeholders: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return len(self.prompt_ids) + len(self.nodes)


def choice_row(answers: Rows[tuple[Rows[int], int]], placeholders: tuple[int, ...]) -> ChoiceRow:
    """The tree of (ids with EOS, how many of them are the prompt's), one for each candidate.

    A prompt may end otherwise in front of another ID, where a token reaches across the seam: such tokens are part of
    the tree and are not scored.
    """
    shared = common_start([ids for ids, _ in answers], min(length for _, length in answers))
    nodes: list[int] = []
    parents: list[int] = []
    children: dict[tuple[int, int], int] = {}
    edges: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for ids, prompt_length in answers:
        at, path = -1, []
        for place in range(shared, len(ids)):
            step = (at, ids[place])
            if place >= prompt_length:
                path.append(edges.setdefault(step, len(edges)))
            if place < len(ids) - 1:
                if step not in children:
                    children[step] = len(nodes)
                    nodes.append(ids[place])
                    parents.append(at)
                at = children[step]
        paths.append(tuple(path))
    prompt_ids = tuple(answers[0][0][:shared])
    return ChoiceRow(prompt_ids, tuple(nodes), tuple(parents), tuple(edges), tuple(paths), placeholders)


@dataclass(frozen=True)
class ChoiceBatch:
    """Padded rows; all tensors on one device.

    Attributes:
        prompts: the prompts without their last token, padded on the right.
        tree_ids: [B, n] the roots, then the nodes; padding repeats an id.
        tree_mask: [B, n, n] bool, which of the tree a node sees: its ancestors and itself.
        depths: [B, n] int64, how far a node is behind the root.
        lengths: [B] int64, tokens of each prompt without its last.
        edges: [E, 3] int64: row, place in the tree, token.
        paths: [S, 2] int64: place in the flat list of all candidates, edge.
        counts: candidates of each row.
    """

    prompts: TokenBatch
    tree_ids: Tensor
    tree_mask: Tensor
    depths: Tensor
    lengths: Tensor
    edges: Tensor
    paths: Tensor
    counts: tuple[int, ...]

    def to(self, device: torch.device) -> ChoiceBatch:
        """The same on another device."""
        names = ("prompts", "tree_ids", "tree_mask", "depths", "lengths", "edges", "paths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def collate_choices(rows: Rows[ChoiceRow], pad_id: int) -> ChoiceBatch:
    """Rows side by side."""
    width = max(1 + len(row.nodes) for row in rows)
    tree_ids = torch.full((len(rows), width), pad_id)
    mask = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    depths = torch.zeros((len(rows), width), dtype=torch.int64)
    edges: list[tuple[int, int, int]] = []
    paths: list[tuple[int, int]] = []
    candidates = 0
    for number, row in enumerate(rows):
        tree_ids[number, : 1 + len(row.nodes)] = torch.tensor([row.prompt_ids[-1], *row.nodes])
        for node, parent in enumerate(row.parents, start=1):
            mask[number, node] |= mask[number, parent + 1]
            depths[number, node] = depths[number, parent + 1] + 1
        for path in row.paths:
            paths += [(candidates, len(edges) + edge) for edge in path]
            candidates += 1
        edges += [(number, parent + 1, token) for parent, token in row.edges]
    lengths = torch.tensor([len(row.prompt_ids) - 1 for row in rows])
    return ChoiceBatch(
        prompts=_prompts(rows, pad_id),
        tree_ids=tree_ids,
        tree_mask=mask,
        depths=depths,
        lengths=lengths,
        edges=torch.tensor(edges),
        paths=torch.tensor(paths),
        counts=tuple(len(row.paths) for row in rows),
    )


def _prompts(rows: Rows[ChoiceRow], pad_id: int) -> TokenBatch:
    width = max(len(row.prompt_ids) for row in rows) - 1
    places = max(len(row.placeholders) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    positions = torch.full((len(rows), places), ABSENT)
    for number, row in enumerate(rows):
        length = len(row.prompt_ids) - 1
        input_ids[number, :length] = torch.tensor(row.prompt_ids[:-1])
        attention_mask[number, :length] = True
        positions[number, : len(row.placeholders)] = torch.tensor(row.placeholders, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    nowhere = torch.zeros_like(attention_mask)
    return TokenBatch(input_ids, attention_mask, positions, labels, nowhere, ragged=bool((positions == ABSENT).any()))


@dataclass(frozen=True)
class ChoiceScores:
    """What the model thinks of each candidate of each row, in their order.

    Attributes:
        log_probs: per row, one number per candidate: nats, summed over its tokens and EOS.
        tokens: per row, how many tokens each is the sum of.
    """

    log_probs: list[list[float]]
    tokens: list[list[int]]


@torch.no_grad()
def score_choices(
    model: FiveTokenModel, batch: ChoiceBatch, visual_tokens: Tensor, *, prefix: PrefixCache | None = None
) -> ChoiceScores:
    """Scores of all candidates of a batch, in two forward passes.

    Args:
        batch: on the model's device.
        visual_tokens: [N, V, D] of all pictures, row after row.
        prefix: the cache of what every prompt starts with.

    Raises:
        ValueError: the prefix is not what every row starts with.
    """
    language_model = model.llava.model.language_model
    embeds = model.inputs_embeds(batch.prompts, visual_tokens)
    before = Past([])
    if prefix is not None:
        prefix.check(batch.prompts)
        before = prefix.past
    past = prompt_past(language_model, embeds[:, before.length :], before)
    places = torch.arange(past.length, device=embeds.device)
    seen = (places < batch.lengths[:, None])[:, None].expand(-1, batch.tree_ids.shape[1], -1)
    hidden = run_behind(
        language_model,
        model.llava.get_input_embeddings()(batch.tree_ids),
        past,
        mask=torch.cat([seen, batch.tree_mask], dim=2)[:, None],
        position_ids=batch.lengths[:, None] + batch.depths,
    )
    rows, nodes, tokens = batch.edges.unbind(1)
    nats = token_nats(hidden[rows, nodes], model.lm_head, tokens).double()
    answers, edges = batch.paths.unbind(1)
    total = torch.zeros(sum(batch.counts), dtype=torch.float64, device=nats.device)
    sums = total.index_add(0, answers, -nats[edges])
    counts = torch.zeros_like(sums).index_add(0, answers, torch.ones_like(nats[edges]))
    return ChoiceScores(
        [part.tolist() for part in sums.split(batch.counts)],
        [part.long().tolist() for part in counts.split(batch.counts)],
    )
