"""`lavic` as a process: help without torch, exit codes, whole sentences."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavic.cli import main
from lavic.cli.output import execute
from lavic.console import Console, Outcome
from lavic.errors import InputError

NAMES = [command.name for command in main.COMMANDS]


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main.run_command_line(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [[], ["--help"], *([*name.split(), "--help"] for name in NAMES)], ids=" ".join)
def test_help_answers_at_once_and_without_torch(arguments: list[str]) -> None:
    heavy = "{'torch', 'transformers', 'peft', 'PIL', 'numpy', 'matplotlib'}"
    program = (
        "import sys; from lavic.cli.main import run_command_line; code = run_command_line(sys.argv[1:]); "
        f"print('loaded:', sorted({heavy} & set(sys.modules))); sys.exit(code)"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith("loaded: []\n")
    assert "Usage: lavic" in done.stdout
    # A second on an idle machine (0.3 s measured); room for a busy one.
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_in_help_have_flags_that_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*name.split(), "--help", capsys=capsys)
    assert (code, err) == (0, "")
    command = next(each for each in main.COMMANDS if each.name == name)
    assert len(command.examples) >= 2
    known = {"config", "json", *main.load_object(command.settings).field_names()}
    for example in command.examples:
        assert example.startswith(f"lavic {name}")
        assert set(re.findall(r"--(\w+)", example)) <= known
    assert "--config" in out


def test_no_flag_name_is_cut_off_in_an_ordinary_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run("distill", "--help", capsys=capsys)
    cut = [line for line in out.splitlines() if re.search(r"--\w+…", line[:35])]
    assert cut == []


def test_the_version_names_what_lavic_works_with(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--version", capsys=capsys)
    assert code == 0
    assert re.fullmatch(r"lavic \d+\.\d+\.\d+ \(python .*torch .*peft .*\)\n", out)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "distil",
            "Error: No such command 'distil'. Did you mean 'distill'? `lavic --help` lists what there is.",
        ),
        (
            "distill --batchsize 2",
            "Error: there is no flag --batchsize; did you mean --batch_size? "
            "`lavic distill --help` lists what there is.",
        ),
        ("distill --batch-size 0", "Error: --batch_size: 0 is too small; it must be at least 1."),
        ("distill --num_epochs -1", "Error: --num_epochs: -1 is too small; it must be at least 1."),
        ("distill --lora_dropout 1", "Error: --lora_dropout: 1 is too large; it must be less than 1."),
        ("distill --precision int8", "Error: --precision: 'int8' is not one of bf16, fp16 or fp32."),
        ("distill --resume --no-resume", "Error: --resume and --no_resume: they exclude each other."),
        ("toyshop", "Error: --output_dir: required, but not given."),
        ("toyshop --output_dir x --items 11", "Error: --items: 11 is too small; it must be at least 12."),
        (
            "check tune --batchsize 2",
            "Error: there is no flag --batchsize; did you mean --batch_size? "
            "`lavic check tune --help` lists what there is.",
        ),
        (
            "check tun",
            "Error: Got unexpected extra argument(s) (tun). `lavic check --help` lists what there is.",
        ),
        ("data", "Error: Missing command. `lavic data --help` lists what there is."),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(
    line: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*line.split(), capsys=capsys) == (2, "", expected + "\n")


def test_with_json_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("distill", "--json", "--batch_size", "0", capsys=capsys)
    problem = "0 is too small; it must be at least 1"
    expected = {"where": "--batch_size", "problem": problem, "remedy": "", "exit_code": 2}
    assert json.loads(out) == {"error": expected}
    assert (code, err) == (2, f"Error: --batch_size: {problem}.\n")


def ended(run_function: object, capsys: pytest.CaptureFixture[str], **options: bool) -> tuple[int, str, str]:
    go_on = "Run it again with --resume."
    code = execute(dict, lambda: run_function, Console(**options), go_on=go_on)  # type: ignore[arg-type, return-value]
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_result_is_a_table_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome({"val_loss": 0.535}, next_step="Next: lavic monitor")
    assert ended(lambda s, c: outcome, capsys) == (0, "val loss  0.5350\nNext: lavic monitor\n", "")
    code, out, _ = ended(lambda s, c: outcome, capsys, json=True)
    assert (code, json.loads(out)) == (0, {"val_loss": 0.535})


def test_the_answer_no_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda s, c: Outcome({}, exit_code=1), capsys)[0] == 1


def test_an_error_of_the_user_is_exit_code_2_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(settings: object, console: object) -> Outcome:
        raise InputError("the file ends\nearly", where="a.json, line 3", remedy="Copy it again.")

    assert ended(fail, capsys) == (2, "", "Error: a.json, line 3: the file ends early. Copy it again.\n")


def test_an_interruption_is_exit_code_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stop(settings: object, console: object) -> Outcome:
        raise KeyboardInterrupt

    assert ended(stop, capsys) == (130, "", "Error: interrupted. Run it again with --resume.\n")


def test_a_defect_is_exit_code_70_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(lambda s, c: 1 / 0, capsys)
    assert (code, out) == (70, "")
    assert err.startswith("Error: lavic failed in a way it should not: ZeroDivisionError: division by zero\n")
    assert "Traceback (most recent call last)" in err
    assert "This is a defect of lavic" in err


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m lavic.cli.main monitor --output_dir {tmp_path}/none | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, "1 would be an answer"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_result_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lavic.cli.main", "monitor", "--output_dir", str(tmp_path / "none")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "Error: stdout: the result cannot be written (No space left on device).\n"
