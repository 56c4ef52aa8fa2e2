"""The page of an evaluation: shares with intervals, conversations with their candidates' pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from small_world import refused
from tune_world import evaluate_flags, make_shop, rows_of, write_rows

from lavic.cli.main import run_command_line
from lavic.conversations import Conversation
from lavic.evaluate.metrics import RankedRow, measure
from lavic.evaluate.page import choose_rows, report_page, show, turns
from lavic.evaluate.results import SystemResult
from lavic.layout import data_paths
from lavic.model.load import load_base
from lavic.model.recommendation import Candidate, RecommendationPrompts
from lavic.model.sequences import SequenceBuilder
from lavic.prompts import DEFAULT_PROMPTS
from lavic.report import Bar, bars_svg
from lavic.tune.samples import AskedRow

EVIL = '"><script>alert(1)</script>'


def asked(*ids: str, right: str = "A", context: str = "Hello.", title: str = "A mug") -> AskedRow:
    conversation = Conversation(
        context=context, context_items=(), answer="", gt_items=(right,), candidates={"st": ids}, where="f, line 1"
    )
    return AskedRow(conversation, context, tuple(Candidate(each, title, True) for each in ids), 10)


def result(name: str, *rows: tuple[str, str]) -> SystemResult:
    """Of (recommended, right) pairs among A and B."""
    ranked = [RankedRow((first, "B" if first == "A" else "A"), ("A", "B"), (right,), 2) for first, right in rows]
    return SystemResult(name, ranked, measure(ranked, seed=0, resamples=100))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    Image.new("RGB", (400, 300), "red").save(tmp_path / "A_0.jpg", "JPEG")
    (tmp_path / "B_0.jpg").write_bytes(b"no picture")
    return tmp_path


def test_the_right_candidate_is_outlined_and_choices_stand_below(pictures: Path) -> None:
    row = asked("A", "B", "C")
    html = report_page(
        [result("lavic", ("A", "A"), ("B", "A"))],
        [show(row, [pictures], {"lavic": "A", "text_only": "B", "lavic_greedy": None})],
        {"model": "tiny"},
    )
    assert html.count('<figure class="right">') == 1
    assert '<span class="chosen hit">lavic</span>' in html
    assert '<span class="chosen miss">text_only</span>' in html
    assert "No candidate named by: lavic_greedy." in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert html.count('<div class="none">no picture</div>') == 2  # a broken one and a missing one
    assert "50.0% [" in html


def test_nothing_from_data_becomes_markup_and_nothing_is_loaded(pictures: Path) -> None:
    row = asked("A", EVIL, context=f"<submission>{EVIL}</submission>", title=EVIL)
    html = report_page([result(EVIL, ("A", "A"))], [show(row, [pictures], {EVIL: EVIL})], {EVIL: EVIL})
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_posts_are_told_apart() -> None:
    assert turns("<submission>One.\n\nTwo.</submission>\n<comment>Three.</comment>\n") == ["One.\n\nTwo.", "Three."]
    assert turns("just text") == ["just text"]
    assert turns(" ") == []


def test_rows_are_drawn_by_lot_of_those_that_can_be_answered() -> None:
    rows = [asked("A", "B", right="A" if number % 2 else "Z") for number in range(40)]
    chosen = choose_rows(rows, 6, seed=1)
    assert chosen == choose_rows(rows, 6, seed=1) == sorted(chosen)
    assert all(number % 2 for number in chosen)
    assert chosen != choose_rows(rows, 6, seed=2)
    assert len(choose_rows(rows, 30, seed=1)) == 30
    assert choose_rows(rows, 0, seed=1) == []


def test_bars_are_as_long_as_their_shares() -> None:
    svg = bars_svg([Bar("a", 0.5, 0.4, 0.6), Bar("b", 0.25, 0.2, 0.3)], low=0.1, high=1.0)
    widths = [float(width) for width in re.findall(r'<rect x="150" y="[^"]*" width="([^"]*)"', svg)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert "50.0% [40.0%, 60.0%]" in svg


def test_a_run_writes_the_page_with_as_many_conversations_as_wanted(tmp_path: Path) -> None:
    world = make_shop(tmp_path / "shop")
    images = {"train_images_dir": world / "shop" / "train_images", "val_images_dir": world / "shop" / "valid_images"}
    assert run_command_line(evaluate_flags(world, tmp_path / "out", sample=3, **images)) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<article>") == 3
    assert html.count("data:image/jpeg") == 3 * 4
    assert run_command_line(evaluate_flags(world, tmp_path / "none", sample=0)) == 0
    assert "<article>" not in (tmp_path / "none" / "report.html").read_text()


def test_systems_that_have_no_room_for_the_same_rows_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without pictures a prompt may fit that does not with them: that would be another test set."""
    world = make_shop(tmp_path / "shop")
    few, many = rows_of(world, "test")[:2]
    write_rows(world, "test", [{**few, "candidates_st": few["candidates_st"][:1]}, many])
    base = load_base("tiny")
    prompts = RecommendationPrompts(SequenceBuilder(base.tokenizer, DEFAULT_PROMPTS, base.family.views), 2048)
    titles = json.loads(data_paths(world / "shop")["train_data"].read_text())
    lines = [Candidate(each, titles.get(each, {}).get("title", "No Title"), True) for each in many["candidates_st"]]
    with_pictures = len(prompts.sequence("", lines, many["candidates_st"][0]).input_ids)
    sentence = refused(capsys, evaluate_flags(world, tmp_path / "out", val_data=None, max_length=with_pictures))
    assert sentence.startswith(f"--max_length {with_pictures}: 1 of 2 conversations are too long for zero_shot_text")
