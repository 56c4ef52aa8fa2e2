"""The shell scripts of the guide, with a stand-in for `lavic` that prints what it is called with."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = '#!/bin/sh\nprintf "%s\\n" "$@"\n'
# The parameters of the guide, each with the value at the top of the script.
PARAMETERS = [
    ("--model_name", "llava-hf/llava-v1.6-mistral-7b-hf"),
    ("--train_data", "data/item2meta_train.json"),
    ("--val_data", "data/item2meta_valid.jsonl"),
    ("--train_images_dir", "data/train_images"),
    ("--val_images_dir", "data/valid_images"),
    ("--output_dir", "out_distilled"),
    ("--batch_size", "1"),
    ("--num_epochs", "1"),
    ("--lr", "5e-5"),
    ("--weight_decay", "1e-5"),
    ("--max_samples", "5000"),
    ("--max_length", "2048"),
    ("--num_workers", "2"),
]
WORDS = [word for pair in PARAMETERS for word in pair]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the scripts, in a folder whose name needs quoting."""
    place = tmp_path / "a clone"
    place.mkdir()
    for name in ("run_training.sh", "monitor_training.sh"):
        shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Only the system's tools and a stand-in for `lavic`; no Python that could import the real one."""
    executable(tmp_path / "bin" / "lavic", STAND_IN)
    tools = ("bash", "sh", "dirname", "readlink", "cat", "tail", "grep", "nohup", "printf")
    for tool in tools:
        found = shutil.which(tool)
        if found:
            (tmp_path / "bin" / tool).symlink_to(found)
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "TERM": "dumb"}


def called(folder: Path, environment: dict[str, str], *arguments: str, cwd: Path | None = None) -> list[str]:
    """What the stand-in was called with."""
    done = subprocess.run(
        [str(folder / "run_training.sh"), *arguments],
        env=environment,
        cwd=cwd or folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_the_script_passes_the_guides_parameters(folder: Path, environment: dict[str, str]) -> None:
    assert called(folder, environment) == ["distill", *WORDS]


def test_the_line_of_max_samples_can_be_deleted(folder: Path, environment: dict[str, str]) -> None:
    script = folder / "run_training.sh"
    lines = script.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.strip() != "--max_samples 5000"]
    assert len(kept) == len(lines) - 1
    script.write_text("".join(kept), encoding="utf-8")
    without = [word for pair in PARAMETERS for word in pair if pair[0] != "--max_samples"]
    assert called(folder, environment) == ["distill", *without]


def test_every_line_of_a_parameter_can_be_deleted(folder: Path, environment: dict[str, str]) -> None:
    script = folder / "run_training.sh"
    text = script.read_text(encoding="utf-8")
    script.write_text(re.sub(r"^  --\w+ \S+\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    assert called(folder, environment) == ["distill"]


def test_flags_after_the_name_come_last_so_that_they_win(folder: Path, environment: dict[str, str]) -> None:
    found = called(folder, environment, "--lr", "1e-4", "--prompts", "my file.yaml", "--resume")
    assert found == ["distill", *WORDS, "--lr", "1e-4", "--prompts", "my file.yaml", "--resume"]


def test_it_works_from_anywhere_and_through_a_link(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "lavic", '#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    assert called(folder, environment, cwd=tmp_path)[0] == str(folder)
    (tmp_path / "run_training.sh").symlink_to(folder / "run_training.sh")
    assert called(tmp_path, environment, cwd=tmp_path)[0] == str(folder)


def test_it_works_in_the_background(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "lavic", f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/called"\n')
    command = "nohup ./run_training.sh --lr 1e-4 --resume > /dev/null 2>&1 & wait $!"
    subprocess.run(["bash", "-c", command], env=environment, cwd=folder, check=True, timeout=30)
    found = (tmp_path / "called").read_text(encoding="utf-8").splitlines()
    assert found == ["distill", *WORDS, "--lr", "1e-4", "--resume"]


def test_the_active_environment_goes_before_the_path(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        executable(tmp_path / variable / "bin" / "lavic", f"#!/bin/sh\necho {variable}\n")
        assert called(folder, environment | {variable: str(tmp_path / variable)}) == [variable]


def test_without_lavic_on_the_path_it_takes_that_of_venv(
    folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bin" / "lavic").unlink()
    executable(folder / ".venv" / "bin" / "python", '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    assert called(folder, environment)[-len(WORDS) - 3 :] == ["-m", "lavic.cli.main", "distill", *WORDS]


def test_without_any_lavic_it_says_how_to_install_it(folder: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "lavic").unlink()
    for name in ("run_training.sh", "monitor_training.sh"):
        done = subprocess.run(
            [str(folder / name)], env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        remedy = "run `pip install -r requirements.txt` first"
        assert done.stderr == f"{name}: lavic is not installed here; {remedy}.\n"
        assert done.returncode == 2


def test_the_exit_code_of_the_training_is_that_of_the_script(
    folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    executable(tmp_path / "bin" / "lavic", "#!/bin/sh\nexit 130\n")
    done = subprocess.run([str(folder / "run_training.sh")], env=environment, check=False, timeout=30)
    assert done.returncode == 130


# -- monitor ---------------------------------------------------------------------------------------------


def test_the_monitor_without_a_terminal_is_a_summary(folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [str(folder / "monitor_training.sh"), "--output_dir", "other"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The last flag of a name counts: a --view that is given beats the summary.
    assert done.stdout.splitlines() == ["monitor", "--view", "summary", "--output_dir", "other"]


def in_terminal(folder: Path, environment: dict[str, str], typed: str, *arguments: str) -> tuple[int, str]:
    """Exit code and screen of the script after typing."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [str(folder / "monitor_training.sh"), *arguments], env=environment, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    os.write(parent, typed.encode())
    screen = b""
    while True:
        try:
            block = os.read(parent, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not block:
            break
        screen += block
    os.close(parent)
    return process.wait(timeout=30), screen.decode().replace("\r\n", "\n")


def test_the_monitor_in_a_terminal_is_a_menu(folder: Path, environment: dict[str, str]) -> None:
    code, screen = in_terminal(folder, environment, "1\n2\n3\n4\n5\n6\n9\nq\n", "--output_dir", "my run")
    assert code == 0
    assert "\n 1  live view\n 2  follow the log\n 3  summary\n 4  GPU use\n" in screen
    called_with = re.findall(r"monitor\n--output_dir\nmy run\n--view\n(\w+)\n(--once)?", screen)
    assert called_with == [
        ("live", ""),
        ("follow", ""),
        ("summary", ""),
        ("gpu", "--once"),
        ("errors", "--once"),
        ("curve", "--once"),
    ]
    assert "There is no 9 in the menu." in screen


@pytest.mark.parametrize("flag", ["--view=curve", "--follow", "--once", "--json", "-h"])
def test_who_says_what_to_show_gets_no_menu(folder: Path, environment: dict[str, str], flag: str) -> None:
    assert in_terminal(folder, environment, "", flag) == (0, f"monitor\n{flag}\n")


def test_the_menu_comes_back_from_a_view_that_was_interrupted(
    folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    # Ctrl-C reaches every process of the terminal, so the script as well.
    executable(tmp_path / "bin" / "lavic", "#!/bin/sh\nkill -INT $PPID\n")
    code, screen = in_terminal(folder, environment, "2\nq\n")
    assert code == 0
    assert screen.count("q  quit") == 2


# -- files -----------------------------------------------------------------------------------------------


def test_the_scripts_may_be_run() -> None:
    for name in ("run_training.sh", "monitor_training.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name


def test_requirements_install_lavic_itself() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["-e ."]
