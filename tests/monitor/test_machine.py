"""GPUs as a stand-in for ``nvidia-smi`` tells of them, and the process that these tests run in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavic.monitor.machine import NO_GPU, Gpu, GpuWatch, ProcessWatch, read_answer

# Two lines as the program prints them: MiB without unit, and what a card does not measure in brackets.
ANSWER = "0, NVIDIA H100 80GB HBM3, 98, 62464, 81559, 64\n1, Tesla, old, [N/A], 512, 15360, [Not Supported]\n"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the stand-in, alone on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_the_gpus_are_read_from_what_nvidia_smi_prints() -> None:
    first, second = read_answer(ANSWER, 0).gpus
    assert (first.index, first.name, first.utilisation, first.temperature) == ("0", "NVIDIA H100 80GB HBM3", 98.0, 64.0)
    # 62,464 MiB are 62,464 x 1,048,576 bytes.
    assert first.memory_gb == pytest.approx(65.498, abs=0.001)
    assert second == Gpu(
        "1", "Tesla, old", None, pytest.approx(0.537, abs=0.001), pytest.approx(16.106, abs=0.001), None
    )


def test_no_gpu_is_said_in_words(nvidia_smi: Path) -> None:
    assert GpuWatch().wait().problem == NO_GPU == "no NVIDIA GPU"
    assert read_answer("", 0).problem == NO_GPU


def test_a_driver_in_trouble_is_said_in_its_own_words() -> None:
    reading = read_answer("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMore.\n", 9)
    assert reading.gpus == ()
    assert reading.problem.startswith("nvidia-smi failed: NVIDIA-SMI has failed because it couldn't communicate")


def test_it_asks_for_what_it_shows(nvidia_smi: Path) -> None:
    program(nvidia_smi, 'echo "0, $1, 1, 2, 3, 4"; [ "$2" = --format=csv,noheader,nounits ]')
    (gpu,) = GpuWatch().wait().gpus
    assert gpu.name == "--query-gpu=index,name,utilization.gpu,memory.used,memory.total,temperature.gpu"


def test_a_look_does_not_wait(nvidia_smi: Path, tmp_path: Path) -> None:
    program(nvidia_smi, f"while ! [ -e {tmp_path}/go ]; do :; done; echo '0, A, 1, 2, 3, 4'")
    watch = GpuWatch()
    assert watch.look().problem == "nvidia-smi is being asked"
    (tmp_path / "go").touch()
    until = time.monotonic() + 30
    while not watch.look().gpus and time.monotonic() < until:
        time.sleep(0.01)
    assert [gpu.name for gpu in watch.look().gpus] == ["A"]
    watch.close()


def test_one_that_hangs_is_given_up(nvidia_smi: Path) -> None:
    program(nvidia_smi, "exec /bin/sleep 60")
    watch = GpuWatch(timeout_s=0.05)
    assert watch.wait().problem == "nvidia-smi did not answer within 0.05 s"
    watch.close()
    assert watch._asked is None


def test_the_process_is_measured_with_its_children() -> None:
    watch = ProcessWatch()
    first = watch.look(os.getpid())
    if first is None:
        pytest.skip("there is no /proc here")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        second = watch.look(os.getpid())
        child.communicate(b"\n")
    assert second is not None
    assert second.memory_gb > first.memory_gb > 0.01
    assert first.cpu is not None
    assert first.ram_gb is not None


def test_a_process_that_is_gone_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert ProcessWatch().look(child.pid) is None
    assert ProcessWatch().look(None) is None
