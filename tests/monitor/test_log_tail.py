"""The text log: which one, what of it is a warning, and what happens when it goes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavic.monitor.log_tail import LogTail, log_of
from lavic.training.run_view import RunView

LINES = """\
2025-01-01 00:00:01 step step=1 train_loss=0.7000 lr=5.000e-05
2025-01-01 00:00:02 WARNING the disk is nearly full
2025-01-01 00:00:03 criterion: no WARNING or ERROR expected
2025-01-01 00:00:04 ERROR cannot be written
2025-01-01 00:00:05 end step=1 status=failed reason=OutputError
"""


def view_of(folder: Path, log_file: str | None = None) -> RunView:
    return RunView(folder / "out", "running", log_file=log_file)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "logs" / "training_20250101_000000.log"
    path.parent.mkdir()
    path.write_text(LINES, encoding="utf-8")
    return path


def test_warnings_errors_and_a_bad_end_are_told_from_the_rest(log: Path, tmp_path: Path) -> None:
    tail = LogTail(log.parent)
    assert len(tail.look(view_of(tmp_path))) == 5
    assert tail.path == log
    assert tail.alert_count == 3
    assert [line[20:27] for line in tail.alerts] == ["WARNING", "ERROR c", "end ste"]


def test_only_new_lines_come_and_no_terminal_commands(log: Path, tmp_path: Path) -> None:
    tail = LogTail(log.parent)
    tail.look(view_of(tmp_path))
    with log.open("a", encoding="utf-8") as file:
        file.write("2025-01-01 00:00:06 WARNING a title\x1b]0;evil\x07\n2025-01-01 00:00:07 half")
    assert tail.look(view_of(tmp_path)) == ["2025-01-01 00:00:06 WARNING a title\ufffd]0;evil\ufffd"]
    assert tail.alert_count == 4


def test_a_log_that_is_cut_or_deleted_begins_anew(log: Path, tmp_path: Path) -> None:
    tail = LogTail(log.parent)
    tail.look(view_of(tmp_path))
    log.write_text("2025-01-01 00:00:08 after the rotation\n", encoding="utf-8")
    assert tail.look(view_of(tmp_path)) == ["2025-01-01 00:00:08 after the rotation"]
    assert (list(tail.lines), tail.alert_count) == (["2025-01-01 00:00:08 after the rotation"], 0)
    log.unlink()
    assert tail.look(view_of(tmp_path)) == []
    assert list(tail.lines) == []


def test_another_run_has_another_log(log: Path, tmp_path: Path) -> None:
    tail = LogTail(log.parent)
    tail.look(view_of(tmp_path, str(log)))
    other = log.with_name("training_20250101_000100.log")
    other.write_text("2025-01-01 00:01:00 start step=0\n", encoding="utf-8")
    assert tail.look(view_of(tmp_path, str(other))) == ["2025-01-01 00:01:00 start step=0"]
    assert (tail.path, tail.alert_count) == (other, 0)


def test_a_log_is_found_from_another_folder_than_the_runs(log: Path, tmp_path: Path) -> None:
    log.with_name("training_20260101_000000.log").touch()
    named = f"a/folder/that/is/elsewhere/{log.name}"
    assert log_of(view_of(tmp_path, named), log.parent) == log
    # Nothing known of its name: the newest.
    assert log_of(view_of(tmp_path), log.parent) == log.with_name("training_20260101_000000.log")
    assert log_of(view_of(tmp_path), tmp_path / "none") is None
    # A name that is impossible here, where it may be known by its last part all the same.
    assert log_of(view_of(tmp_path, f"/{'x' * 300}/{log.name}"), log.parent) == log
