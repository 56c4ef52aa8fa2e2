"""Files written whole or not at all, names from data, locks, output folders: kills and bad input included."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lavic.errors import InputError, OutputError
from lavic.files import (
    FolderLock,
    append_jsonl,
    atomic_path,
    json_line,
    open_regular,
    prepare_output,
    read_json,
    read_jsonl,
    safe_join,
    safe_name,
    sha256_file,
    sync,
    write_atomic,
    write_json,
)
from lavic.folders import process_born


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "grün\n")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_block_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as part:
            assert part.name == f".a.txt.{os.getpid()}.part"
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from lavic.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    prepare_output(tmp_path, resume=True, overwrite=False, known=["a.txt"])
    assert names(tmp_path) == ["a.txt"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.txt"
    with pytest.raises(OutputError) as caught:
        write_atomic(path, "x")
    assert caught.value.sentence == f"{path}: cannot be written (No such file or directory)."
    with pytest.raises(OutputError) as caught:
        write_atomic(tmp_path, "x")
    assert caught.value.sentence == f"{tmp_path}: cannot be written (Is a directory)."


def test_a_full_disk_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OutputError) as caught:
        append_jsonl(Path("/dev/full"), {"a": 1})
    expected = "/dev/full: cannot be written (No space left on device). Free some space and run again."
    assert caught.value.sentence == expected


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize(("code", "forgiven"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_is_forgiven_and_a_broken_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, forgiven: bool
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if forgiven:
        sync(1)
        write_atomic(tmp_path / "a.txt", "new")
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            sync(1)
        with pytest.raises(OutputError, match=os.strerror(code)):
            write_atomic(tmp_path / "a.txt", "new")
    assert names(tmp_path) == (["a.txt"] if forgiven else [])


def test_json_there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": ["é", 1.5, None]})
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert read_json(tmp_path / "a.json") == {"b": ["é", 1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            b'{"a": 1,\n "b" 2}',
            "{path}, line 2, column 6: the file is not valid JSON (Expecting ':' delimiter).",
        ),
        (b'{"a": "\xff"}', "{path}, byte 7: the file is not UTF-8 text."),
        (b"[" * 100_000, "{path}: the file nests too deeply, or holds too long a number, to be read."),
        (b"1" * 5_000, "{path}: the file nests too deeply, or holds too long a number, to be read."),
    ],
)
def test_bad_json_names_the_place(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert caught.value.sentence == sentence.format(path=path)


@pytest.mark.parametrize("tail", [b'{"n": 3', b"\x00" * 9, b'{"n": "\xc3', b"3"])
def test_half_a_row_is_passed_over_and_then_cleared_away(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.jsonl"
    for number in (1, 2):
        append_jsonl(path, {"n": number})
    with path.open("ab") as stream:
        stream.write(tail)
    assert list(read_jsonl(path)) == [{"n": 1}, {"n": 2}]
    append_jsonl(path, {"n": 4})
    assert path.read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": 4}\n'


def test_a_whole_last_row_without_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = {"text": "x" * 200_000}
    path.write_bytes(json_line(long).rstrip())
    assert list(read_jsonl(path)) == [long]
    append_jsonl(path, {"n": 2})
    assert list(read_jsonl(path)) == [long, {"n": 2}]


def test_a_broken_row_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n\n{"n": \n{"n": 3}\n')
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert caught.value.sentence == f"{path}, line 3: the line is not a JSON object."


def test_half_a_surrogate_pair_is_written_as_it_was_read() -> None:
    assert json_line({"a": "\ud83d é"}) == b'{"a": "\\ud83d \\u00e9"}\n'
    assert json_line({"a": "é"}) == '{"a": "é"}\n'.encode()
    assert json_line({"a": "é"}, ascii_only=True) == b'{"a": "\\u00e9"}\n'


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # the example of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "a") == expected


def unreadable(folder: Path, kind: str) -> Path:
    path = folder / kind
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(folder / "gone")
        case "circle":
            path.symlink_to(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "device":
            return Path("/dev/zero")
        case "nul":
            return folder / "a\0b"
    return path


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", "the file does not exist"),
        ("folder", "this is a folder, not a file"),
        ("pipe", "this is a pipe, not a file"),
        ("device", "this is a device, not a file"),
        ("socket", "this is a socket, not a file"),
        ("link", "this is a link to a file that does not exist"),
        ("circle", "the file cannot be opened (Too many levels of symbolic links)"),
        ("nul", "this is not a possible file name"),
    ],
)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, problem: str) -> None:
    path = unreadable(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        open_regular(path)
    assert (caught.value.problem, caught.value.where) == (problem, str(path))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "the name is empty"),
        ("  ", "the name is empty"),
        ("/etc/passwd", "the name holds a path separator"),
        ("../x.jpg", "the name holds a path separator"),
        ("a/b.jpg", "the name holds a path separator"),
        ("..\\x.jpg", "the name holds a path separator"),
        ("..", "the name starts with a dot"),
        (".", "the name starts with a dot"),
        (".bashrc", "the name starts with a dot"),
        ("a\0.jpg", "the name holds a control or invisible character"),
        ("a\n.jpg", "the name holds a control or invisible character"),
        ("a\u202egpj.exe", "the name holds a control or invisible character"),
        ("a\ud83d.jpg", "the name holds a control or invisible character"),
        ("é" * 116, "the name is longer than 230 bytes"),
        (7, "the name is not text"),
        (None, "the name is not text"),
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, name: object, problem: str) -> None:
    for refuse in (safe_name, lambda name: safe_join(tmp_path, name)):
        with pytest.raises(InputError) as caught:
            refuse(name)
        assert caught.value.problem == problem


@pytest.mark.parametrize("name", ["B08LYS9WYD_4.jpg", "0062_0.jpg", "grüner Hut_0.jpg", "-rf", "~", "é" * 115])
def test_safe_names_stay_as_they_are(tmp_path: Path, name: str) -> None:
    assert safe_name(name) == name
    assert safe_join(tmp_path, name) == tmp_path / name


def test_a_link_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "real.jpg").write_bytes(b"x")
    (folder / "inside.jpg").symlink_to("real.jpg")
    (folder / "outside.jpg").symlink_to("/etc/passwd")
    assert safe_join(folder, "inside.jpg") == folder / "inside.jpg"
    with pytest.raises(InputError) as caught:
        safe_join(folder, "outside.jpg")
    assert caught.value.sentence == "'outside.jpg': the name is a link that leads out of its folder."


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out"):
        with pytest.raises(OutputError) as caught, FolderLock(tmp_path / "out"):
            pass
        assert caught.value.sentence == (
            f"{tmp_path}/out: another run (process {os.getpid()}) is writing here. "
            "Wait until it ends, or name another folder."
        )
    with FolderLock(tmp_path / "out"):
        pass


def test_a_killed_process_leaves_no_lock_even_while_its_worker_lives(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path; from lavic.files import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).__enter__()\n"
        "worker = os.fork()\n"
        "if worker == 0: os.close(1); time.sleep(60); os._exit(0)\n"
        "print(worker, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, check=False)
    worker = int(run.stdout)
    try:
        assert run.returncode == -signal.SIGKILL
        os.kill(worker, 0)
        with FolderLock(tmp_path):
            assert (tmp_path / ".lavic.lock").read_text() == f"{os.getpid()}\n"
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_is_not_lost_by_forking(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(OutputError), FolderLock(tmp_path):
            pass


def test_output_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b", resume=False, overwrite=False, known=[])
    assert names(tmp_path / "a" / "b") == []


def test_a_folder_that_holds_something_is_not_touched_unasked(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text(name)
    mend = "Continue with --resume, replace it with --overwrite, or choose another --output-dir."
    with pytest.raises(OutputError) as caught:
        prepare_output(tmp_path, resume=False, overwrite=False, known=["a"])
    assert caught.value.sentence == f"{tmp_path}/ holds 4 files or folders already (a, b, c, ...). {mend}"
    with pytest.raises(OutputError) as caught:
        prepare_output(tmp_path, resume=False, overwrite=False, known=["a"], holds="a run at epoch 1, step 850")
    assert caught.value.sentence == f"{tmp_path}/ holds a run at epoch 1, step 850. {mend}"
    with pytest.raises(OutputError) as caught:
        prepare_output(tmp_path, resume=False, overwrite=False, known=[], holds="data", can_resume=False)
    mend = "Replace it with --overwrite, or choose another --output-dir."
    assert caught.value.sentence == f"{tmp_path}/ holds data. {mend}"
    assert names(tmp_path) == ["a", "b", "c", "d"]


def test_overwrite_deletes_what_lavic_wrote_and_nothing_else(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / "vision_lora_adapter_best").mkdir(parents=True)
    (out / "vision_lora_adapter_best" / "adapter_model.safetensors").write_text("x")
    (out / "val_metrics_epoch_1.txt").write_text("x")
    (out / ".run.json.999999999.part").write_text("half")
    (out / ".mine.999999999.part").write_text("mine")
    (out / "thesis.tex").write_text("mine")
    elsewhere.mkdir()
    (elsewhere / "keep").write_text("mine")
    (out / "checkpoints").symlink_to(elsewhere)
    known = ["vision_lora_adapter_best", "val_metrics_epoch_*.txt", "checkpoints", "run.json"]
    prepare_output(out, resume=False, overwrite=True, known=known)
    assert names(out) == [".mine.999999999.part", "thesis.tex"]
    assert names(elsewhere) == ["keep"]


def test_resume_keeps_everything_but_half_files(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("x")
    (tmp_path / ".run.json.999999999.part").write_text("half")
    (tmp_path / f".run.json.{os.getpid()}.part").write_text("being written")
    prepare_output(tmp_path, resume=True, overwrite=False, known=["run.json"])
    assert names(tmp_path) == [f".run.json.{os.getpid()}.part", "run.json"]


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        prepare_output(tmp_path, resume=True, overwrite=True, known=[])
    assert caught.value.sentence == "--resume and --overwrite exclude each other. Give one of them."


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("gone")
    cases = {
        tmp_path / "file": f"{tmp_path}/file: is a file, not a folder. Choose another --output-dir.",
        tmp_path / "file" / "out": f"{tmp_path}/file: is a file, not a folder. Choose another --output-dir.",
        tmp_path / "link": (
            f"{tmp_path}/link: is a link to a folder that does not exist. Choose another --output-dir."
        ),
    }
    for folder, sentence in cases.items():
        with pytest.raises(OutputError) as caught:
            prepare_output(folder, resume=False, overwrite=False, known=[])
        assert caught.value.sentence == sentence


def test_a_folder_that_cannot_be_made_or_written() -> None:
    # /proc refuses even root, for whom permission bits mean nothing.
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    for folder, words in (("/proc/lavic", "cannot be made"), ("/proc/self", "cannot be written to")):
        with pytest.raises(OutputError) as caught:
            prepare_output(Path(folder), resume=False, overwrite=False, known=[])
        assert caught.value.where == folder
        assert caught.value.problem == f"the folder {words} (No such file or directory)"
        assert caught.value.remedy == "Choose another --output-dir."


def test_threads_do_not_hold_each_others_lock(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def try_lock() -> None:
        try:
            with FolderLock(tmp_path):
                pass
        except OutputError as error:
            caught.append(error)

    with FolderLock(tmp_path):
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_overwriting_deletes_in_the_order_of_the_known_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adapter", "checkpoint", "val_2.txt", "val_1.txt", ".checkpoint.999999999.part"):
        (tmp_path / name).write_text("x")
    gone: list[str] = []
    monkeypatch.setattr("lavic.folders._delete", lambda path: gone.append(path.name))
    prepare_output(tmp_path, resume=False, overwrite=True, known=["checkpoint", "adapter", "val_*.txt"])
    assert gone == [".checkpoint.999999999.part", "checkpoint", "adapter", "val_1.txt", "val_2.txt"]


def test_halves_go_from_the_folders_among_the_known_names_too(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    for name in (".weights.999999999.part", "weights", ".hidden"):
        (tmp_path / "adapter" / name).write_text("x")
    prepare_output(tmp_path, resume=True, overwrite=False, known=["adapter"])
    assert names(tmp_path / "adapter") == [".hidden", "weights"]


def test_a_half_older_than_the_process_of_its_number_is_nobodys(tmp_path: Path) -> None:
    half = tmp_path / f".run.json.{os.getpid()}.part"
    half.write_text("left by a process that had this number before")
    os.utime(half, (1e9, 1e9))
    prepare_output(tmp_path, resume=True, overwrite=False, known=["run.json"])
    assert names(tmp_path) == []


def test_a_process_is_known_by_its_start_whatever_it_calls_itself() -> None:
    name = Path("/proc/self/comm")
    usual, born = name.read_text().strip(), process_born(os.getpid())
    name.write_text("a) b 7 (c")
    try:
        assert process_born(os.getpid()) == born
    finally:
        name.write_text(usual)
    # Init is the oldest process there is.
    first = process_born(1)
    assert first is not None
    assert born is not None
    assert first <= born
    assert process_born(999_999_999) is None
