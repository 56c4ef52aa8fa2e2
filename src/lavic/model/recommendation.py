"""The recommendation prompt (stage 2): a conversation, its candidates, and the answer, as tokens.

    instruction
    Conversation: ...
    Candidates:
    ID: title<V visual tokens>        one line a candidate; without picture: ID: title
    Assistant:ID

Source: LaViC (arXiv 2503.23312), section 4.2. Too long a prompt loses words of the conversation, never a candidate,
a placeholder, the instruction or the answer.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from lavic.model.choices import ChoiceRow, choice_row
from lavic.model.contexts import shorten
from lavic.model.sequences import Sequence, SequenceBuilder
from lavic.prompts import fill

_TRIES = 6


@dataclass(frozen=True)
class Candidate:
    """One line of the candidates.

    Attributes:
        has_picture: whether its visual tokens stand behind the title; otherwise nothing does.
        tokens: how many they are where not V: of several pictures, or all image tokens of one.
    """

    item_id: str
    title: str
    has_picture: bool
    tokens: int | None = None


class RecommendationPrompts:
    """Builds prompts for one tokenizer, one set of wordings and V views.

    Args:
        builder: of the tokenizer, the wordings and V.
        max_length: of prompt and answer together, in tokens.
    """

    def __init__(self, builder: SequenceBuilder, max_length: int) -> None:
        self.builder = builder
        self.max_length = max_length
        self._slot = "".join(builder.spellings)

    def prompt(self, context: str, candidates: Rows[Candidate]) -> str:
        """The text in front of the answer, placeholders in the builder's private spelling."""
        lines = [
            fill(
                self.builder.prompts.candidate,
                item_id=candidate.item_id,
                # A line break in a title would look like a further candidate.
                title=" ".join(candidate.title.split()),
                visual_tokens=self._slot if candidate.has_picture else "",
            )
            for candidate in candidates
        ]
        return fill(self.builder.prompts.recommend, context=context, candidates="".join(lines))

    def sequence(self, context: str, candidates: Rows[Candidate], answer: str | None, *, eos: bool = True) -> Sequence:
        """Prompt and answer as tokens; nothing is shortened here.

        Args:
            answer: the ID, or None for a prompt to generate from.
            eos: whether the end of the answer is taught too.
        """
        counts = self.visual_tokens_of(candidates)
        return self.builder.join(self.prompt(context, candidates), answer, pictures=len(counts), eos=eos).spread(counts)

    def visual_tokens_of(self, candidates: Rows[Candidate]) -> list[int]:
        """How many each candidate has, of those with a picture."""
        views = self.builder.views
        return [views if each.tokens is None else each.tokens for each in candidates if each.has_picture]

    def longest_answer(self, candidates: Rows[Candidate]) -> str:
        """The ID of the most tokens; that of the most characters may take fewer."""
        # Behind the prompt without conversation and candidates: short, and it ends as the whole one does.
        return max(
            (candidate.item_id for candidate in candidates),
            key=lambda item_id: len(self.sequence("", (), item_id).input_ids),
        )

    def fit(self, context: str, candidates: Rows[Candidate]) -> str | None:
        """The context, shortened as far as needed for any of the candidates as the answer; None if it is no use.

        A few tokens are left free: in another order of the candidates the same lines may take some more.
        """
        answer = self.longest_answer(candidates)
        room = self.max_length - len(candidates)
        length = len(self.sequence(context, candidates, answer).input_ids)
        if length <= room:
            return context
        own = len(self.builder.encode(context).ids)
        for _ in range(_TRIES):
            own -= length - room
            shorter = shorten(context, own, self.builder.encode) if own > 0 else ""
            if not shorter:
                return None
            length = len(self.sequence(shorter, candidates, answer).input_ids)
            if length <= room:
                return shorter
        return None

    def choices(self, context: str, candidates: Rows[Candidate]) -> ChoiceRow:
        """The prompt once, and behind it every candidate's ID, as a tree of tokens.

        Each candidate's tokens are those of its own joined string. Only the text from the last picture on is tokenised
        again for each: an added token ends whatever could be joined across it.
        """
        prompt = self.prompt(context, candidates)
        counts = self.visual_tokens_of(candidates)
        whole = self.builder.join(prompt, None, pictures=len(counts)).spread(counts)
        bos = 0 if self.builder.bos_id is None else 1
        start, beginning, last = 0, whole.input_ids[:bos], counts[-1:]
        if last:
            start = prompt.rindex(self._slot)
            beginning = whole.input_ids[: whole.placeholders[-last[0]]]
        answers = []
        for candidate in candidates:
            # BOS stands before every joined string; here it is in the beginning already.
            own = self.builder.join(prompt[start:], candidate.item_id, pictures=len(last)).spread(last)
            answers.append(((*beginning, *own.input_ids[bos:]), len(beginning) + own.prompt_length - bos))
        return choice_row(answers, whole.placeholders)
