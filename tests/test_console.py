"""Printing without a terminal: results and notices apart, plain lines, nothing that commands the terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from lavic.console import Console, LogFile
from lavic.rendering import duration, plain_table, printable, shown


def console(**options: object) -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(stdout=out, stderr=err, **options), out, err  # type: ignore[arg-type]


def test_results_and_notices_go_to_different_streams() -> None:
    to, out, err = console()
    to.print("the result")
    to.info("a notice")
    to.warn("look here")
    assert out.getvalue() == "the result\n"
    assert err.getvalue() == "a notice\nWarning: look here\n"


def test_with_json_stdout_is_one_document() -> None:
    to, out, err = console(json=True)
    to.table([["a", 1]])
    to.document({"loss": float("nan"), "path": Path("x"), "names": ("a", "b")})
    assert json.loads(out.getvalue()) == {"loss": None, "path": "x", "names": ["a", "b"]}
    assert err.getvalue() == "a  1\n"


def test_a_table_aligns_numbers_on_the_right() -> None:
    assert plain_table([["teacher", 0.166], ["after", 12]], ["row", "loss"]) == [
        "row        loss",
        "-------  ------",
        "teacher  0.1660",
        "after        12",
    ]


def test_a_summary_names_nested_values() -> None:
    to, out, _ = console()
    to.summary({"val_loss": {"before": 0.618}, "done": True, "steps": 1250, "best": None})
    expected = [
        "val loss.before  0.6180",
        "done             yes",
        "steps            1,250",
        "best             -",
    ]
    assert out.getvalue().splitlines() == expected


def test_a_summary_prints_reasons_and_flags_as_they_are() -> None:
    to, out, _ = console()
    to.summary({"left_out": {"host_down": 3}, "notes": {"run with --top_logits again": {"gpt_large": 1}}})
    assert out.getvalue().splitlines() == [
        "left out.host_down                           3",
        "notes.run with --top_logits again.gpt_large  1",
    ]


def test_progress_without_a_terminal_is_a_line_now_and_then_and_one_at_the_end() -> None:
    to, _, err = console(plain_interval_s=3600)
    with to.progress("Training", 4) as bar:
        for _ in range(4):
            bar.advance(loss=0.5)
    lines = err.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Training: 4/4, ")
    assert lines[0].endswith("/s, loss 0.5000")


def test_progress_shows_the_time_left() -> None:
    to, _, err = console(plain_interval_s=0)
    with to.progress("Training", 2) as bar:
        bar.advance()
        bar.advance()
    first, second = err.getvalue().splitlines()
    assert "1/2" in first
    assert first.endswith("left")
    assert "2/2" in second
    assert "left" not in second


def test_a_log_file_has_the_notices_with_the_time(tmp_path: Path) -> None:
    to, _, _ = console()
    path = tmp_path / "logs" / "run.log"
    log = LogFile(path)
    to.attach(log)
    to.warn("one\ntwo")
    # On disk at once, for `tail -f`.
    first, second = path.read_text(encoding="utf-8").splitlines()
    to.detach(log)
    log.close()
    to.info("after")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING one", first)
    assert second.endswith(" two")
    assert "after" not in path.read_text(encoding="utf-8")


def test_control_characters_from_data_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mred\x07 \N{SNOWMAN}") == "a\ufffd[31mred\ufffd \N{SNOWMAN}"
    to, out, _ = console()
    to.print("\x1b]0;title\x07")
    assert "\x1b" not in out.getvalue()


def test_values_are_shown_for_people() -> None:
    assert [shown(v) for v in (5e-5, 0.0, 123456.0, float("inf"), False, [1, 2], [])] == [
        "5e-05",
        "0.0000",
        "1.235e+05",
        "not finite",
        "no",
        "1, 2",
        "-",
    ]
    assert [duration(s) for s in (12.4, 250, 11100)] == ["12 s", "4 min 10 s", "3 h 05 min"]
