"""Result files byte by byte, a summary that others tore, and IDs found in generated text."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lavic.console import Console
from lavic.conversations import Conversation, read_conversations
from lavic.errors import InputError, OutputError
from lavic.evaluate.metrics import RankedRow, differences, measure
from lavic.evaluate.naming import named_candidate
from lavic.evaluate.results import (
    SUMMARY_COLUMNS,
    TABLE_HEADER,
    SystemResult,
    append_summary,
    measures_table,
    results_document,
    write_results,
    write_test_results,
)
from lavic.files import read_json
from lavic.formats import SkipLog

HEADER = b"model_dir,candidate_type,lr,weight_decay,num_epochs,recall@1,validity@1,output_file\r\n"
LINE = b"out_tuned,candidates_st,5e-05,1e-05,1,0.25,1.0,test_results_candidates_st.jsonl\r\n"
SUMMARY = {
    "model_dir": "out_tuned",
    "candidate_type": "candidates_st",
    "lr": 5e-5,
    "weight_decay": 1e-5,
    "num_epochs": 1,
    "recall@1": 0.25,
    "validity@1": 1.0,
    "output_file": "test_results_candidates_st.jsonl",
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- the answer in a text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(
            "B00000000B",
            " B00000000B\n",
            "B00000000B.",
            "B00000000B</s>",
            "**B00000000B**",
            "_B00000000B_",
            "`B00000000B`",
        ),
        *("[B00000000B](https://a.b/dp/)", "(B00000000B)", '"B00000000B"', "“B00000000B”", "ID: B00000000B, a mug"),
        *("B00000000B: Red mug", "B00000000B-good", "https://a.b/dp/B00000000B/ref=1", "<B00000000B>", "#B00000000B!"),
        *("我推荐B00000000B。", "B00000000Bがおすすめ", "B00000000B을 추천"),
        "B00000000B, not 0545010225",
        "xB00000000A and B00000000B1 are none, B00000000B is",
    ],
)
def test_an_id_is_found_whatever_stands_around_it(text: str) -> None:
    assert named_candidate(text, ["B00000000A", "0545010225", "B00000000B"]) == "B00000000B"


@pytest.mark.parametrize(
    "text",
    ["", "I do not know.", "B00000000BX", "XB00000000B", "1B00000000B", "éB00000000B", "b00000000b", "B0000 0000B"],
)
def test_what_is_no_candidate_is_not_taken_for_one(text: str) -> None:
    assert named_candidate(text, ["B00000000A", "0545010225", "B00000000B"]) is None


@pytest.mark.parametrize("item_id", ["0545010225", "039480001X", "mug-1", "red mug", "杯子", "a.b_c", "(1)", "x+", "A"])
def test_any_safe_name_can_be_an_id(item_id: str) -> None:
    assert named_candidate(f"Take {item_id}, please.", ["B00000000A", item_id]) == item_id
    assert named_candidate(item_id, [item_id, "B00000000A"]) == item_id


def test_the_first_in_the_text_is_meant_and_at_one_place_the_longest() -> None:
    candidates = ["mug", "mug-1", "mug-12", "mug-1 red"]
    assert named_candidate("mug-12 or mug-1", candidates) == "mug-12"
    assert named_candidate("mug-1 or mug-12", candidates) == "mug-1"
    assert named_candidate("mug-1 red", candidates) == "mug-1 red"
    assert named_candidate("mug-1 redder", candidates) == "mug-1"
    assert named_candidate("a mug, not mug-1", candidates) == "mug"


def test_a_sign_that_ids_hold_may_go_on_with_one() -> None:
    assert named_candidate("mug-1-red", ["mug-1", "mug-2"]) is None
    assert named_candidate("old-mug-1", ["mug-1", "mug-2"]) is None
    assert named_candidate("old-mug-1, mug-1- well", ["mug-1", "mug-2"]) == "mug-1"
    assert named_candidate("mug.1.", ["mug.1"]) == "mug.1"
    assert named_candidate("B1-red", ["B1", "B2"]) == "B1"  # no ID has a hyphen, so it is a dash


def test_no_candidates_and_empty_ones_name_nothing() -> None:
    assert named_candidate("A", []) is None
    assert named_candidate("A", [""]) is None


# -- answers per conversation --------------------------------------------------------------------------------


def conversation_file(path: Path) -> list[Conversation]:
    """Two rows as published: escaped, keys in their own order, a key that lavic does not know."""
    lines = [
        r'{"context": "<submission>caf\u00e9 \ud83d\ude00</submission>\n", "context_items": [], "gt": "B1 \ud83d", '
        r'"gt_items": ["B1", "B1"], "candidates_st": ["B1", "B2"], "odd": {"x": 1.50}, "candidates_gpt_large": ["B3"]}',
        r'{"gt_items": ["B4"], "context": "x", "candidates_st": ["B2", "B3"]}',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return list(read_conversations(path, SkipLog()))


def test_test_results_are_the_rows_as_read_with_the_answers_behind(tmp_path: Path) -> None:
    conversations = conversation_file(tmp_path / "test.jsonl")
    rows = [RankedRow(("B1", "B2"), ("B1", "B2"), ("B1", "B1")), RankedRow((), ("B2", "B3"), ("B4",))]
    path = tmp_path / "test_results_candidates_st.jsonl"
    write_test_results(path, conversations, "candidates_st", rows, [" B1", "keine Ahnung, schöne Grüße"])
    expected = [
        # Half a surrogate pair (in gt) has no UTF-8 form, so the first row stays escaped.
        r'{"context": "<submission>caf\u00e9 \ud83d\ude00</submission>\n", "context_items": [], "gt": "B1 \ud83d", '
        r'"gt_items": ["B1", "B1"], "candidates_st": ["B1", "B2"], "odd": {"x": 1.5}, "candidates_gpt_large": ["B3"], '
        r'"recommended_st": "B1", "response_st": " B1"}',
        '{"gt_items": ["B4"], "context": "x", "candidates_st": ["B2", "B3"], '
        '"recommended_st": null, "response_st": "keine Ahnung, schöne Grüße"}',
    ]
    assert path.read_bytes() == ("\n".join(expected) + "\n").encode()
    assert conversations[0].raw is not None
    assert "recommended_st" not in conversations[0].raw


def test_test_results_are_not_escaped(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "reddit-amazon" / "all_beauty" / "test.jsonl"
    conversations = list(read_conversations(source, SkipLog()))
    rows = [RankedRow(each.candidates["st"], each.candidates["st"], each.gt_items) for each in conversations]
    path = tmp_path / "test_results_candidates_st.jsonl"
    write_test_results(path, conversations, "st", rows, [each.recommended or "" for each in rows])
    # What the published code does: json.dump(entry, ensure_ascii=False) of the row with the two keys.
    expected = b""
    for line in source.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        entry["recommended_st"] = entry["response_st"] = entry["candidates_st"][0]
        expected += json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    assert path.read_bytes() == expected
    assert not expected.isascii()


def test_candidates_made_since_are_written_too(tmp_path: Path) -> None:
    read = conversation_file(tmp_path / "test.jsonl")[1]
    made = Conversation("new", ("B4",), {"own": ("B5", "B4")}, answer="see B4")
    rows = [RankedRow(("B6",), ("B6",), ("B4",)), RankedRow(("B4", "B5"), ("B5", "B4"), ("B4",))]
    write_test_results(tmp_path / "out.jsonl", [read, made], "candidates_own", rows, ["B6", "B4"])
    first, second = (json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines())
    assert list(first)[-4:] == ["candidates_st", "candidates_own", "recommended_own", "response_own"]
    assert first["candidates_own"] == ["B6"]
    assert second == {
        **{"context": "new", "context_items": [], "gt": "see B4", "gt_items": ["B4"], "candidates_own": ["B5", "B4"]},
        **{"recommended_own": "B4", "response_own": "B4"},
    }


def test_answers_to_other_conversations_leave_no_file(tmp_path: Path) -> None:
    conversations = conversation_file(tmp_path / "test.jsonl")
    good = [RankedRow((), ("B1", "B2"), ("B1", "B1")), RankedRow((), ("B2", "B3"), ("B4",))]
    for rows, responses, problem in (
        (good[::-1], ["", ""], "test.jsonl, line 1: the answer belongs to another conversation"),
        (good[:1], [""], "shorter"),
        (good, [""], "shorter"),
    ):
        with pytest.raises(ValueError, match=problem):
            write_test_results(tmp_path / "out.jsonl", conversations, "st", rows, responses)
    assert names(tmp_path) == ["test.jsonl"]


# -- the summary ---------------------------------------------------------------------------------------------


def test_the_header_stands_once_and_rows_below_it(tmp_path: Path) -> None:
    path = tmp_path / "results_summary.csv"
    append_summary(path, SUMMARY)
    append_summary(path, {**SUMMARY, "model_dir": 'a, "b"', "lr": None, "recall@1": 1 / 3})
    second = b'"a, ""b""",candidates_st,,1e-05,1,0.3333333333333333,1.0,test_results_candidates_st.jsonl\r\n'
    assert path.read_bytes() == HEADER + LINE + second
    assert names(tmp_path) == ["results_summary.csv"]
    with path.open(newline="", encoding="utf-8") as stream:
        assert [row["model_dir"] for row in csv.DictReader(stream)] == ["out_tuned", 'a, "b"']


OTHER = b"elsewhere,candidates_gpt_large,0.1,0.0,2,0.5,0.99,r.jsonl"


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", HEADER),
        (b"model_dir,candid", HEADER),  # half a header
        (HEADER[:-2], HEADER),
        (HEADER[:-1], HEADER),
        (HEADER, HEADER),
        (HEADER + OTHER, HEADER + OTHER + b"\r\n"),  # a whole row without its line end
        (HEADER + OTHER + b"\r", HEADER + OTHER + b"\r\n"),
        (HEADER + OTHER + b"\r\n" + OTHER[:20], HEADER + OTHER + b"\r\n"),  # half a row
        (HEADER + OTHER[:-7], HEADER),  # all cells, the last one empty
        (HEADER + b'"elsewhere, candid', HEADER),  # a quotation mark that stays open
        (HEADER + "möbel".encode()[:2], HEADER),  # half a character
        # Another program's line ends and byte order mark stay, and so do rows that are short in the middle.
        (HEADER.replace(b"\r", b"") + OTHER + b"\n", HEADER.replace(b"\r", b"") + OTHER + b"\n"),
        (b"\xef\xbb\xbf" + HEADER + b"short\r\n" + OTHER, b"\xef\xbb\xbf" + HEADER + b"short\r\n" + OTHER + b"\r\n"),
    ],
)
def test_a_torn_summary_is_mended(tmp_path: Path, before: bytes, kept: bytes) -> None:
    path = tmp_path / "results_summary.csv"
    path.write_bytes(before)
    append_summary(path, SUMMARY)
    assert path.read_bytes() == kept + LINE


@pytest.mark.parametrize(
    ("before", "start"),
    [
        (b"name,value\r\na,1\r\n", "'name,value'"),
        (
            HEADER.replace(b"lr", b"rate"),
            "'model_dir,candidate_type,rate,weight_decay,num_epochs,recall@1,validity@1,out...'",
        ),
        (b"\xef\xbb\xbf", "''"),
        (b"\n", "''"),
        (b"\xff\xfe\x00", r"'��\x00'"),
    ],
)
def test_another_header_is_refused_and_the_file_left_alone(tmp_path: Path, before: bytes, start: str) -> None:
    path = tmp_path / "results_summary.csv"
    path.write_bytes(before)
    with pytest.raises(OutputError) as caught:
        append_summary(path, SUMMARY)
    assert caught.value.sentence == (
        f"{path}: the file starts with {start}, not with the columns {','.join(SUMMARY_COLUMNS)}. "
        "Move it away, or choose another --output-dir."
    )
    assert path.read_bytes() == before


def test_places_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        append_summary(tmp_path / "none" / "results_summary.csv", SUMMARY)
    expected = f"{tmp_path}/none/results_summary.csv: cannot be written (No such file or directory)."
    assert caught.value.sentence == expected
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="this is a folder, not a file"):
        append_summary(tmp_path / "folder", SUMMARY)


def test_other_columns_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    row = {name: value for name, value in SUMMARY.items() if name != "lr"}
    for wrong in (row, {**SUMMARY, "seed": 1}):
        with pytest.raises(ValueError, match=r"columns (lr|seed): too many or missing"):
            append_summary(tmp_path / "results_summary.csv", wrong)
    assert names(tmp_path) == []


def test_a_folder_name_that_is_no_utf_8_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results_summary.csv"
    append_summary(path, {**SUMMARY, "model_dir": os.fsdecode(b"out_\xff")})
    append_summary(path, SUMMARY)
    assert path.read_bytes() == HEADER + LINE.replace(b"out_tuned", b"out_\xff") + LINE


@pytest.mark.parametrize("operation", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_while_adding_leaves_the_summary_as_it_was(tmp_path: Path, operation: str) -> None:
    path = tmp_path / "results_summary.csv"
    append_summary(path, SUMMARY)
    other = {**SUMMARY, "model_dir": "elsewhere"}
    code = (
        "import json, os, pathlib, signal, sys\n"
        "from lavic.evaluate.results import append_summary\n"
        f"{operation} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        "append_summary(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, path, json.dumps(other)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == HEADER + LINE
    append_summary(path, other)
    assert path.read_bytes() == HEADER + LINE + LINE.replace(b"out_tuned", b"elsewhere")


def test_the_same_row_is_not_added_twice(tmp_path: Path) -> None:
    path = tmp_path / "results_summary.csv"
    for row in (SUMMARY, {**SUMMARY, "model_dir": "elsewhere"}, SUMMARY):
        append_summary(path, row)
    assert path.read_bytes() == HEADER + LINE + LINE.replace(b"out_tuned", b"elsewhere")


def test_rows_added_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "results_summary.csv"
    rows = [{**SUMMARY, "num_epochs": number} for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: append_summary(path, row), rows))
    with path.open(newline="", encoding="utf-8") as stream:
        assert sorted(int(row["num_epochs"]) for row in csv.DictReader(stream)) == list(range(40))


# -- all figures ---------------------------------------------------------------------------------------------


FULLY_RANKED = ("candidate_order", "lavic")


def system(name: str, rankings: list[str], gt_items: str = "A A B", **options: Any) -> SystemResult:
    rows = [RankedRow(tuple(ranking), tuple("ABCD"), tuple(gt_items.split()), with_picture=3) for ranking in rankings]
    return SystemResult(name, rows, measure(rows, resamples=200), **options)


def test_results_hold_every_figure_and_the_distance_to_the_first_system(tmp_path: Path) -> None:
    systems = [
        system("random", ["CDAB", "DACB"], seconds=0.12345),
        system("lavic", ["ABCD", "CABD"], seconds=2.0),
        system("greedy", ["", "B"]),
    ]
    path = tmp_path / "results.json"
    document = write_results(path, systems, about={"test_file": "test.jsonl"}, resamples=200)
    assert read_json(path) == document == results_document(systems, about={"test_file": "test.jsonl"}, resamples=200)
    assert document["about"] == {"test_file": "test.jsonl"}
    assert document["bootstrap"] == {"confidence": 0.95, "resamples": 200, "seed": 0}
    assert list(document["systems"]) == ["random", "lavic", "greedy"]
    first = document["systems"]["random"]
    assert {name: value for name, value in first.items() if name != "values"} == {
        **{"rows": 2, "rows_without_right_item": 0, "ceiling": 1.0, "chance": 0.5},
        **{"picture_share": 0.75, "seconds": 0.123},
    }
    assert first["values"]["mrr"] == {
        **{"value": pytest.approx(5 / 12), "low": pytest.approx(1 / 3), "high": 0.5},
        # Two right items of four: the first at 1 in 3 of 6 pairs of places, at 2 in 2 of them, at 3 in one.
        **{"chance": pytest.approx((3 + 2 / 2 + 1 / 3) / 6), "ceiling": 1.0},
    }
    assert first["values"]["recall@1"]["chance"] == pytest.approx(1 / 4)
    assert first["values"]["recall@1"]["ceiling"] == pytest.approx(2 / 3)
    assert document["systems"]["lavic"]["values"]["recall@1"]["value"] == pytest.approx(2 / 6)
    assert document["differences"]["from"] == "random"
    assert list(document["differences"]["systems"]) == ["lavic", "greedy"]
    found = document["differences"]["systems"]["lavic"]["hr@1"]
    expected = differences(systems[1].rows, systems[0].rows, resamples=200)["hr@1"]
    assert (
        found == {"value": 0.5, "low": expected.low, "high": expected.high} == {"value": 0.5, "low": 0.0, "high": 1.0}
    )
    assert document["differences"]["systems"]["greedy"]["validity@1"]["value"] == -0.5


def test_systems_must_be_different_and_have_answered_the_same(tmp_path: Path) -> None:
    one = system("a", ["ABCD"])
    for systems in ([], [one, one]):
        with pytest.raises(ValueError, match="different names"):
            results_document(systems)
    with pytest.raises(ValueError, match="the same rows"):
        write_results(tmp_path / "results.json", [one, system("b", ["ABCD"], gt_items="D")])
    assert names(tmp_path) == []


def test_the_table_has_a_line_per_figure_and_system_and_fits_into_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = system("candidate_order", ["CDAB"], looks=False)
    systems = [first, system("lavic", ["BCDA"]), system("lavic_greedy", ["A"])]
    Console().table(measures_table(systems), header=TABLE_HEADER)
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    lines = [" ".join(line.split()) for line in shown]
    # By hand: right items A (listed twice) and B. NDCG of places 1 and 4: (1 + 1/log2 5) / (1 + 1/log2 3) = 0.8772;
    # of 3 and 4: (1/2 + 1/log2 5) / (1 + 1/log2 3) = 0.5706; by lot 1/2 of all four places' 2.5616, over 1.6309. The
    # first right one is expected at 1/place = (3 + 2/2 + 1/3) / 6.
    assert lines[2:] == [
        "HR@1 candidate_order 0.0000 [0.0000, 0.0000] 0.5000 1.0000",
        "HR@1 lavic 1.0000 [1.0000, 1.0000] 0.5000 1.0000",
        "HR@1 lavic_greedy 1.0000 [1.0000, 1.0000] 0.5000 1.0000",
        "Recall@1 candidate_order 0.0000 [0.0000, 0.0000] 0.2500 0.6667",
        "Recall@1 lavic 0.3333 [0.3333, 0.3333] 0.2500 0.6667",
        "Recall@1 lavic_greedy 0.6667 [0.6667, 0.6667] 0.2500 0.6667",
        *(f"HR@{k} {name} 1.0000 [1.0000, 1.0000] 1.0000 1.0000" for k in (3, 5, 10) for name in FULLY_RANKED),
        "MRR candidate_order 0.3333 [0.3333, 0.3333] 0.7222 1.0000",
        "MRR lavic 1.0000 [1.0000, 1.0000] 0.7222 1.0000",
        "NDCG@10 candidate_order 0.5706 [0.5706, 0.5706] 0.7853 1.0000",
        "NDCG@10 lavic 0.8772 [0.8772, 0.8772] 0.7853 1.0000",
        *(f"validity {name} 1.0000 [1.0000, 1.0000] 1.0000 1.0000" for name in (*FULLY_RANKED, "lavic_greedy")),
        "pictures candidate_order - - - -",
        *(f"pictures {name} 0.7500 - - -" for name in ("lavic", "lavic_greedy")),
    ]


def test_on_a_terminal_of_80_columns_no_line_of_the_table_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    table, stream = measures_table([system("candidate_order", ["CDAB"])]), Terminal()
    Console(stdout=stream).table(table, header=TABLE_HEADER)
    assert stream.getvalue().count("candidate_order") == len(table)


def test_other_candidates_have_bounds_of_their_own() -> None:
    table = measures_table([system("st", ["ABCD"]), system("gpt", ["ABCD"], gt_items="D X")])
    assert [line[-2:] for line in table[:4]] == [[0.5, 1.0], [0.25, 1.0], [0.25, pytest.approx(2 / 3)], [0.125, 0.5]]
    assert {len(line) for line in table} == {len(TABLE_HEADER)}
