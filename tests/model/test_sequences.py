"""Prompt + target -> ids and labels: one joined string, loss by position, data that is never a special token."""

from __future__ import annotations

import copy
import json
import pickle

import oracles
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from lavic.model.sequences import IGNORE_INDEX, Sequence, SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS, Prompts
from lavic.toyshop.tokenizer import train_tokenizer

PLACEHOLDERS = "".join(f"<ItemImageEmb{view}>" for view in range(1, 6))


def with_placeholders(tokenizer):
    """The stock tokenizer, with the placeholders as added tokens: the reference."""
    reference = copy.deepcopy(tokenizer)
    names = [f"<ItemImageEmb{view}>" for view in range(1, 6)]
    reference.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    return reference


def prompt_for(title: str) -> str:
    """The default wording, filled without the code under test; the title last, for it may hold braces."""
    return DEFAULT_PROMPTS.distill.replace("{visual_tokens}", PLACEHOLDERS).replace("{title}", title)


def joined_ids(reference, title: str, description: str) -> list[int]:
    text = prompt_for(title) + description
    ids = reference(text, add_special_tokens=False)["input_ids"]
    return [reference.bos_token_id, *ids, reference.eos_token_id]


# -- tokenizers of other kinds -------------------------------------------------------------------------------

_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_LETTERS = ["▁", "\n", *map(chr, range(33, 127))]


def straddling_tokenizer() -> LlamaTokenizer:
    """One whose only merges join a colon with what follows it: quote, and the byte of an accent."""
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, *_LETTERS, ':"', ":▁"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return LlamaTokenizer(vocab=vocabulary, merges=[(":", '"'), (":", "▁")], legacy=False)


def normalising_tokenizer() -> PreTrainedTokenizerFast:
    """Llama's older form: the word mark is put in by a normalizer, before every piece of text."""
    tokens = ["<unk>", "<s>", "</s>", *_BYTES, *_LETTERS, "▁r", "▁T", "ed"]
    merges = [("▁", "r"), ("▁", "T"), ("e", "d")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's kind: bytes from the start, special tokens outside of the vocabulary."""
    inner = Tokenizer(models.BPE(ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([DEFAULT_PROMPTS.distill, DEFAULT_PROMPTS.recommend], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


KINDS = {
    "llama": train_tokenizer,
    "straddling": straddling_tokenizer,
    "normalising": normalising_tokenizer,
    "byte level": byte_level_tokenizer,
}

TEXTS = {
    "plain": ("Blue Mug", "A round blue mug."),
    "empty title": ("", "A round blue mug."),
    "empty description": ("Mug", ""),
    "spaces around": ("  Mug  ", "  two spaces first\n"),
    "quote first": ("Mug", '"Hello" is printed on it.'),
    "line break first": ("Mug\n\nTwo", "\nred"),
    "mojibake": ("CrÃ¨me brÃ»lÃ©e â€“ torch", "â€œsilverâ€ nozzle"),
    "byte fallback": ("鍋 🔥", "🔥鍋é: black"),
    "combining accent first": ("Mug", "\u0301 accent"),
    "braces": ("{visual_tokens} {title} {0}", "{description}"),
    "null character": ("Mug\x00", "\x00red"),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def kind(request):
    """A tokenizer, the reference, and a builder."""
    tokenizer = request.param()
    return with_placeholders(tokenizer), SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)


# -- ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "description"), TEXTS.values(), ids=TEXTS)
def test_ids_are_those_of_the_joined_string(kind, title, description):
    reference, builder = kind
    sequence = builder.distill(title, description)
    wanted = joined_ids(reference, title, description)
    assert list(sequence.input_ids) == wanted
    names = [reference.convert_tokens_to_ids(f"<ItemImageEmb{view}>") for view in range(1, 6)]
    assert [wanted[position] for position in sequence.placeholders] == names
    # The prompt's own ids, as far as joining has not changed them, carry no loss; all others do.
    alone = [reference.bos_token_id, *reference(prompt_for(title), add_special_tokens=False)["input_ids"]]
    assert sequence.prompt_length == oracles.common_start(alone, wanted)


def test_ids_are_those_of_the_joined_string_for_every_row_of_the_real_data(shared_data, tokenizer, builder):
    reference, rows = with_placeholders(tokenizer), 0
    with (shared_data / "reddit-amazon" / "item2meta_valid.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            title, description = row["title"] or "", row["image_description_llava_cleaned"] or ""
            sequence = builder.distill(title, description)
            wanted = joined_ids(reference, title, description)
            assert list(sequence.input_ids) == wanted, row["image_name"]
            alone = reference(prompt_for(title))["input_ids"]
            assert sequence.prompt_length == oracles.common_start(alone, wanted), row["image_name"]
            rows += 1
    assert rows > 0


def test_a_token_across_the_border_belongs_to_the_target():
    tokenizer = straddling_tokenizer()
    builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)
    sequence = builder.distill("Mug", '"Hi"')
    tokens = tokenizer.convert_ids_to_tokens(list(sequence.input_ids[sequence.prompt_length - 1 :]))
    assert tokens == ["t", ':"', "H", "i", '"', "</s>"]  # ... "Assistant" + ":\"" + ...
    assert sequence.target_tokens == 5


def test_generation_starts_from_the_prompt_that_was_trained(kind):
    _, builder = kind
    prompt, whole = builder.distill("Blue Mug"), builder.distill("Blue Mug", "round")
    assert prompt.input_ids == whole.input_ids[: whole.prompt_length]
    assert prompt.target_tokens == 0
    assert prompt.placeholders == whole.placeholders


@pytest.mark.parametrize(
    "spelled", ["<image>", "</s>", "<s>", "<pad>", "<unk>", "<ItemImageEmb3>", "<|end_of_text|>", "<0x0A>"]
)
def test_special_tokens_spelled_in_data_stay_text(kind, spelled):
    reference, builder = kind
    sequence = builder.distill(f"a {spelled} b", f"c {spelled} d{spelled}")
    ids = list(sequence.input_ids)
    assert ids.count(builder.bos_id) == 1
    assert ids.count(builder.eos_id) == 1
    assert (ids[0], ids[-1]) == (builder.bos_id, builder.eos_id)
    assert sum(token in builder.placeholder_ids for token in ids) == 5
    assert not set(reference.all_special_ids) & set(ids[1:-1])
    before, after = ids[1 : sequence.placeholders[0]], ids[sequence.placeholders[-1] + 1 : -1]
    assert f"a {spelled} b" in reference.decode(before)
    assert f"c {spelled} d{spelled}" in reference.decode(after)


def test_the_text_comes_back_from_the_ids(kind):
    reference, builder = kind
    for title, description in TEXTS.values():
        sequence = builder.distill(title, description)
        after = reference.decode(sequence.input_ids[sequence.placeholders[-1] + 1 : -1])
        assert after.strip() == f"\nAssistant:{description}".strip()


def test_ids_do_not_change_from_run_to_run_or_in_a_worker_process(tokenizer, builder):
    # A resumed run has another builder; a worker may get a pickled one.
    again = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5)
    sent = pickle.loads(pickle.dumps(builder))
    for title in ("Mug", "a </s> <image> <ItemImageEmb3> b"):
        wanted = builder.distill(title, "red </s>")
        assert again.distill(title, "red </s>") == wanted
        assert sent.distill(title, "red </s>") == wanted


def test_building_leaves_the_users_tokenizer_as_it_was():
    tokenizer = train_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 5).distill("a <image>", "b")
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer("<image>", add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids("<image>")]


def test_the_tokenizers_own_padding_and_truncation_do_not_reach_the_ids(tokenizer, builder):
    changed = copy.deepcopy(tokenizer)
    changed.backend_tokenizer.enable_padding(length=400)
    changed.backend_tokenizer.enable_truncation(20)
    found = SequenceBuilder(changed, DEFAULT_PROMPTS, 5).distill("Mug", "A red mug.")
    assert found == builder.distill("Mug", "A red mug.")


def test_added_tokens_that_are_not_special_stay_text_too(tokenizer, builder):
    # Some checkpoints add their pad or image token as an ordinary added token.
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens([AddedToken("<extra>", special=False, normalized=False)])
    (added,) = changed("<extra>", add_special_tokens=False)["input_ids"]
    sequence = SequenceBuilder(changed, DEFAULT_PROMPTS, 5).distill("a <extra> b", "c <extra>")
    assert added not in sequence.input_ids
    wanted = builder.distill("a <extra> b", "c <extra>")
    assert sequence.input_ids[sequence.prompt_length :] == wanted.input_ids[wanted.prompt_length :]


@pytest.mark.parametrize("wording", ["{title}", "{visual_tokens}{visual_tokens}{title}"])
def test_a_wording_must_hold_each_placeholder_once(tokenizer, wording):
    builder = SequenceBuilder(tokenizer, Prompts(distill=wording), 5)
    with pytest.raises(ValueError, match="each placeholder once, in order"):
        builder.distill("Mug", "red")


# -- batches -------------------------------------------------------------------------------------------------


def toy(*ids: int, prompt: int) -> Sequence:
    return Sequence(ids, prompt_length=prompt, placeholders=(1,))


@pytest.mark.parametrize("pad", [0, 2], ids=["own pad token", "pad is eos"])
def test_labels_go_by_position_on_either_side(pad):
    tokenizer = train_tokenizer()
    tokenizer.pad_token = "<unk>" if pad == 0 else "</s>"
    builder = SequenceBuilder(tokenizer, DEFAULT_PROMPTS, 1)
    rows = [toy(1, 99, 5, 6, 2, prompt=3), toy(1, 99, 2, prompt=2)]  # 2 is EOS
    no = IGNORE_INDEX

    right = builder.collate(rows)
    assert right.input_ids.tolist() == [[1, 99, 5, 6, 2], [1, 99, 2, pad, pad]]
    assert right.labels.tolist() == [[no, no, no, 6, 2], [no, no, 2, no, no]]
    assert right.attention_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert right.is_eos.nonzero().tolist() == [[0, 4], [1, 2]]
    assert right.placeholder_positions.tolist() == [[1], [1]]
    assert not right.left_padded

    left = builder.collate(rows, side="left")
    assert left.input_ids.tolist() == [[1, 99, 5, 6, 2], [pad, pad, 1, 99, 2]]
    assert left.labels.tolist() == [[no, no, no, 6, 2], [no, no, no, no, 2]]
    assert left.attention_mask.tolist() == [[True] * 5, [False] * 2 + [True] * 3]
    assert left.is_eos.nonzero().tolist() == [[0, 4], [1, 4]]
    assert left.placeholder_positions.tolist() == [[1], [3]]
    assert left.left_padded


def test_eos_carries_loss_and_the_prompt_none(tokenizer, builder):
    sequence = builder.distill("Blue Mug", "A round blue mug.")
    labels = builder.collate([sequence]).labels[0]
    with_loss = (labels != IGNORE_INDEX).nonzero()[:, 0]
    text = tokenizer.decode(labels[with_loss][:-1].tolist())
    assert text == "A round blue mug."
    assert int(labels[-1]) == builder.eos_id
    assert with_loss.tolist() == list(range(sequence.prompt_length, len(labels)))


def test_prompts_without_target_carry_no_loss(builder):
    batch = builder.collate([builder.distill("a"), builder.distill("A longer title")], side="left")
    assert bool((batch.labels == IGNORE_INDEX).all())
    assert not bool(batch.is_eos.any())


def test_a_missing_pad_token_becomes_eos():
    builder = SequenceBuilder(straddling_tokenizer(), DEFAULT_PROMPTS, 5)
    assert builder.pad_id == builder.eos_id == 2
    batch = builder.collate([builder.distill("a", "red"), builder.distill("Mug", "green")])
    assert int((batch.labels == 2).sum()) == 2, "the EOS labels survive, padding gets none"


def test_a_batch_keeps_its_values_on_another_device(builder):
    batch = builder.collate([builder.distill("a", "b"), builder.distill("abc", "b")], side="left")
    moved = batch.to(torch.device("meta"))
    assert {moved.input_ids.device.type, moved.labels.device.type, moved.is_eos.device.type} == {"meta"}
    assert moved.left_padded
    assert torch.equal(batch.to(torch.device("cpu")).input_ids, batch.input_ids)
