"""The store's files: what stock safetensors reads, what the reader gives back, and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from lavic.embed.ledger import LEDGER_FILE
from lavic.embed.store import HEADER_BYTES, STORE_FILE, TOKENS_FILE, ItemStore, header_bytes
from lavic.embed.writer import Entry, StoreWriter
from lavic.errors import InputError, OutputError

V, D = 5, 8


def about(dtype: str = "bf16", **more: Any) -> dict[str, Any]:
    return {
        "kind": "lavic item store",
        "format": 1,
        "views": V,
        "dim": D,
        "dtype": dtype,
        "precision": "fp32",
        "view_size": 40,
        "pixel_mean": [0.5],
        "pixel_std": [0.5],
        "model": {"name": "m", "mark": "00"},
        "adapter": None,
        "versions": {},
        **more,
    }


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, V, D, generator=torch.Generator().manual_seed(seed))


def entries(*names: str, image: int = 0) -> list[Entry]:
    return [Entry(name, image, 10, "aa") for name in names]


def make(folder: Path, dtype: str = "bf16") -> Path:
    """Three items, of which the second has two pictures, and one without."""
    folder.mkdir()
    with StoreWriter(folder, about(dtype)) as writer:
        writer.begin({"batch_size": 2})
        writer.append(entries("A", "B"), drawn(2))
        writer.append([*entries("B", image=1), *entries("Ü 名")], drawn(2, 1))
        writer.finish({("gone", 0): "there is no such picture"})
    return folder


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_what_was_stored_comes_back_rounded_once_in_any_order(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    store = ItemStore(make(tmp_path / "s", name))
    assert (store.views, store.dim, store.dtype) == (V, D, dtype)
    assert list(store) == ["A", "B", "Ü 名"]
    assert len(store) == 3
    assert "A" in store
    assert "gone" not in store
    assert dict(store.missing) == {"gone": "there is no such picture"}
    assert [store.images_of(item_id) for item_id in store] == [1, 2, 1]
    expected = torch.stack([drawn(2, 1)[1], drawn(2)[0], drawn(2, 1)[1]]).to(dtype)
    assert torch.equal(store.tokens(["Ü 名", "A", "Ü 名"]), expected)
    assert torch.equal(store.tokens(["B"], image=1), drawn(2, 1)[:1].to(dtype))
    assert store.tokens([]).shape == (0, V, D)
    assert not store.unfinished


def test_an_unknown_item_or_picture_is_a_key_error(tmp_path: Path) -> None:
    store = ItemStore(make(tmp_path / "s"))
    for item_id, image in (("C", 0), ("gone", 0), ("A", 1), ("A", -1)):
        with pytest.raises(KeyError):
            store.tokens([item_id], image=image)
    with pytest.raises(KeyError):
        store.images_of("C")


def test_tokens_are_a_copy(tmp_path: Path) -> None:
    store = ItemStore(make(tmp_path / "s"))
    store.tokens(["A"]).zero_()
    assert torch.equal(store.tokens(["A"])[0], drawn(2)[0].bfloat16())


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_stock_safetensors_reads_a_store(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "s", name)
    with safe_open(folder / TOKENS_FILE, "pt") as stream:
        assert list(stream.keys()) == ["tokens"]
        assert stream.metadata() == {"format": "pt", "kind": "lavic item store"}
        tokens = stream.get_tensor("tokens")
    assert torch.equal(tokens, torch.cat([drawn(2), drawn(2, 1)]).to(tokens.dtype))
    assert tokens.dtype == ItemStore(folder).dtype


def test_stock_safetensors_reads_a_store_without_rows(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, about()):
        pass
    with safe_open(tmp_path / TOKENS_FILE, "pt") as stream:
        assert stream.get_slice("tokens").get_shape() == [0, V, D]
    store = ItemStore(tmp_path)
    assert (len(store), store.tokens([]).shape) == (0, (0, V, D))
    assert store.unfinished


def test_the_header_has_room_for_any_number_of_rows() -> None:
    large = about(dim=10**9, views=10**9)
    assert {len(header_bytes(large, rows)) for rows in (0, 10**18)} == {HEADER_BYTES}


def test_added_rows_leave_the_others_and_the_newest_of_a_picture_counts(tmp_path: Path) -> None:
    folder = make(tmp_path / "s")
    old = ItemStore(folder)
    before = (folder / TOKENS_FILE).read_bytes()[HEADER_BYTES:]
    with StoreWriter(folder, about()) as writer:
        writer.begin({})
        writer.append([*entries("gone"), Entry("A", 0, 11, "bb")], drawn(2, 2))
        writer.finish({})
    store = ItemStore(folder)
    assert list(store) == ["A", "B", "Ü 名", "gone"]
    assert torch.equal(store.tokens(["gone", "A"]), drawn(2, 2).bfloat16())
    assert torch.equal(store.tokens(["B"])[0], drawn(2)[1].bfloat16())
    assert dict(store.missing) == {}
    assert (folder / TOKENS_FILE).read_bytes()[HEADER_BYTES:].startswith(before)
    assert torch.equal(old.tokens(["A"])[0], drawn(2)[0].bfloat16()), "one that was open sees what it saw"
    assert store.mark_of(["A"]) != old.mark_of(["A"])
    assert store.mark_of(["gone"]) != old.mark_of(["gone"])
    assert store.mark_of(["Ü 名", "B"], 2) == old.mark_of(["B", "Ü 名"], 2)
    with safe_open(folder / TOKENS_FILE, "pt") as stream:
        assert stream.get_slice("tokens").get_shape() == [6, V, D]


def test_pictures_count_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, about("fp32")) as writer:
        for seed, number in enumerate((7, 2, 0)):
            writer.append(entries("A", image=number), drawn(1, seed))
    store = ItemStore(tmp_path)
    assert store.images_of("A") == 3
    for image, seed in enumerate((2, 1, 0)):
        assert torch.equal(store.tokens(["A"], image), drawn(1, seed))


def test_opening_and_closing_changes_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path / "s")
    names = (TOKENS_FILE, LEDGER_FILE, STORE_FILE)
    before = [((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names]
    with StoreWriter(folder, about()) as writer:
        writer.finish({("gone", 0): "there is no such picture"})
    assert [((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names] == before


def test_the_mark_tells_what_made_a_store(tmp_path: Path) -> None:
    marks = set()
    for number, other in enumerate(({}, {"adapter": {"name": "a", "fingerprint": "12"}}, {"precision": "bf16"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        with StoreWriter(folder, about(**other)) as writer:
            writer.append(entries("A"), drawn(1))
        marks.add(ItemStore(folder).mark_of(["A"]))
    assert len(marks) == 3


def test_the_mark_of_some_items_tells_which_of_their_pictures_are_stored(tmp_path: Path) -> None:
    store = ItemStore(make(tmp_path / "s"))
    assert store.mark_of(["B", "A"]) == store.mark_of(["A", "B", "A"])
    marks = [store.mark_of(ids, images) for ids, images in ((["A"], 1), (["B"], 1), (["B"], 2), (["A", "B"], 1))]
    assert len({*marks, store.mark_of([]), store.mark_of(["gone"])}) == 6


# -- what a kill leaves --------------------------------------------------------------------------------------


def test_half_a_line_and_rows_without_a_line_do_not_count(tmp_path: Path) -> None:
    folder = make(tmp_path / "s")
    whole = {name: (folder / name).read_bytes() for name in (TOKENS_FILE, LEDGER_FILE)}
    mark = ItemStore(folder).mark_of(["A", "C"])
    with (folder / TOKENS_FILE).open("ab") as stream:
        stream.write(bytes(2 * V * D + 3))
    with (folder / LEDGER_FILE).open("ab") as stream:
        stream.write(b'{"item": "C", "image": 0, "row": 4, "bytes": 1, "mark": "a"}')  # its end did not get there
    store = ItemStore(folder)
    assert (len(store), store.mark_of(["A", "C"])) == (3, mark)
    with StoreWriter(folder, about()):
        pass
    assert {name: (folder / name).read_bytes() for name in whole} == whole


def test_a_run_that_was_not_finished_is_gone_on_with(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, about()) as writer:
        writer.append(entries("old"), drawn(1))
        writer.begin({"batch_size": 2})
        writer.append(entries("A"), drawn(1))
    assert ItemStore(tmp_path).unfinished
    with StoreWriter(tmp_path, about()) as writer:
        assert writer.ledger.run == {"run": "begun", "batch_size": 2}
        assert [writer.ledger.stored_by_this_run((name, 0)) for name in ("old", "A", "B")] == [False, True, False]
        writer.begin({"batch_size": 3})
        writer.finish({})
    assert not ItemStore(tmp_path).unfinished
    assert (tmp_path / LEDGER_FILE).read_text().count("begun") == 1


# -- what is refused -----------------------------------------------------------------------------------------


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder") as caught:
        ItemStore(tmp_path / "nowhere")
    assert "lavic embed --output_dir" in caught.value.sentence
    with pytest.raises(InputError, match="there is no item store here"):
        ItemStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no such folder"):
        ItemStore(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "another"}, "this is not what describes an item store"),
        ({"format": 2}, "has the format 2, this lavic reads 1"),
        ({"views": None}, "is damaged"),
        ({"dtype": "int4"}, "is damaged"),
        ({"dim": 0}, "is damaged"),
        ({"model": 7}, "is damaged"),
        ({"adapter": {"name": "a"}}, "is damaged"),
    ],
)
def test_a_wrong_description_of_a_store_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = make(tmp_path / "s")
    (folder / STORE_FILE).write_text(json.dumps(about(**change)))
    with pytest.raises(InputError, match=said):
        ItemStore(folder)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"item": "C", "image": 0, "row": 9, "bytes": 1, "mark": "a"}',
        '{"item": 7, "image": 0, "row": 1, "bytes": 1, "mark": "a"}',
        '{"item": "C"}',
        "3",
        "[" * 100_000,
    ],
)
def test_a_damaged_line_of_the_ledger_is_named(tmp_path: Path, line: str) -> None:
    folder = make(tmp_path / "s")
    lines = (folder / LEDGER_FILE).read_text().splitlines()
    lines[2] = line
    (folder / LEDGER_FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="damaged") as caught:
        ItemStore(folder)
    if not line.startswith("[["):
        assert f"{LEDGER_FILE}, line 3" in caught.value.where


def test_a_ledger_that_is_no_text_is_damaged(tmp_path: Path) -> None:
    folder = make(tmp_path / "s")
    data = (folder / LEDGER_FILE).read_bytes()
    (folder / LEDGER_FILE).write_bytes(data.replace(b'"B"', b'"\xff"'))
    with pytest.raises(InputError, match="damaged") as caught:
        ItemStore(folder)
    assert caught.value.where.endswith("line 3")


@pytest.mark.parametrize("left", [0, HEADER_BYTES + 3 * 2 * V * D])
def test_tokens_that_were_half_copied_are_refused_by_reader_and_writer(tmp_path: Path, left: int) -> None:
    folder = make(tmp_path / "s")
    os.truncate(folder / TOKENS_FILE, left)
    with pytest.raises(InputError, match="holds fewer than the 4 rows of the ledger"):
        ItemStore(folder)
    with pytest.raises(OutputError, match="holds fewer than the 4 rows of the ledger"):
        StoreWriter(folder, about())
    (folder / TOKENS_FILE).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        ItemStore(folder)
    with pytest.raises(OutputError, match="holds fewer"):
        StoreWriter(folder, about())


# -- cost ----------------------------------------------------------------------------------------------------


def test_a_store_goes_to_another_process_as_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "s")
    store = ItemStore(folder)
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    other = pickle.loads(packed)
    assert torch.equal(other.tokens(["A"]), store.tokens(["A"]))
    assert other.mark_of(other) == store.mark_of(store)


def test_opening_reads_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 40 GB with holes: opening it would not end if tokens were read, or need them all in memory."""
    with StoreWriter(tmp_path, about(dim=2**20)) as writer:
        writer.append([Entry("A", 0, 1, "a")], torch.ones(1, V, 2**20))
    lines = [json.dumps({"item": f"I{row}", "image": 0, "row": row, "bytes": 1, "mark": "a"}) for row in range(1, 4000)]
    with (tmp_path / LEDGER_FILE).open("a") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    os.truncate(tmp_path / TOKENS_FILE, HEADER_BYTES + 4000 * 2 * V * 2**20)
    store = ItemStore(tmp_path)
    assert len(store) == 4000
    assert store.tokens(["A", "I3999"]).float().mean(dim=(1, 2)).tolist() == [1, 0]
