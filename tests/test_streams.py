"""Notices end no run: what reads them may go away."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import flags, make_world

from lavic.console import Console, LogFile
from lavic.errors import OutputError
from lavic.training.run_log import EVENTS_FILE


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_notices_that_nobody_can_read_go_to_the_log_alone(tmp_path: Path) -> None:
    console, log = Console(stdout=io.StringIO(), stderr=Gone()), LogFile(tmp_path / "log")
    console.attach(log)
    console.info("a notice")
    console.warn("look here")
    with console.progress("Working", 2) as bar:
        bar.advance(2)
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 2)[2].split(",")[0] for line in lines] == [
        "a notice",
        "WARNING look here",
        "Working: 2/2",
    ]


def test_a_result_that_nobody_can_read_is_an_error() -> None:
    console = Console(stdout=Gone(), stderr=io.StringIO())
    for write in (lambda: console.print("a"), lambda: console.table([["a", 1]]), lambda: console.document({})):
        with pytest.raises(OutputError, match="stdout: the result cannot be written"):
            write()


def test_training_goes_on_when_the_reader_of_its_notices_leaves(tmp_path: Path) -> None:
    world, out = make_world(tmp_path / "world", items=15), tmp_path / "out"
    words = [*flags(world, out, batch_size=4, num_workers=0, num_epochs=2), "--val_every", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "stdout").open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "lavic.cli.main", *words], stdout=stdout, stderr=subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        assert process.stderr.readline() == b"Loading tiny ...\n"
        process.stderr.close()
        assert process.wait(timeout=300) == 0
    assert '"status": "finished"' in (out / EVENTS_FILE).read_text()
