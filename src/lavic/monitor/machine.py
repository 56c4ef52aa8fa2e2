"""What the machine does: GPUs as ``nvidia-smi`` tells, the run's process as ``/proc`` tells."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

NO_GPU = "no NVIDIA GPU"
_QUERY = "index,name,utilization.gpu,memory.used,memory.total,temperature.gpu"
# A driver in trouble can keep nvidia-smi for ever.
TIMEOUT_S = 10.0
# It wakes the driver up each time: not more often than this.
REST_S = 2.0
_MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One GPU; None is what it does not tell.

    Attributes:
        utilisation: percent of the last moment in which it computed something.
        memory_gb, memory_total_gb: 10^9 bytes, of all processes.
        temperature: degrees Celsius.
    """

    index: str
    name: str
    utilisation: float | None
    memory_gb: float | None
    memory_total_gb: float | None
    temperature: float | None


@dataclass(frozen=True)
class GpuReading:
    """The GPUs at one moment; ``problem`` says in a few words why there are none."""

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


class GpuWatch:
    """Asks ``nvidia-smi``, without waiting for it: an answer counts at the first look after it came."""

    def __init__(self, timeout_s: float = TIMEOUT_S, rest_s: float = REST_S) -> None:
        self.timeout_s, self.rest_s = timeout_s, rest_s
        self._program = shutil.which("nvidia-smi")
        self._asked: subprocess.Popen[str] | None = None
        self._asked_at = 0.0
        self._last = GpuReading(problem="nvidia-smi is being asked" if self._program else NO_GPU)

    def look(self) -> GpuReading:
        """The newest answer; asks again a while after the last one."""
        waited_s = time.monotonic() - self._asked_at
        if self._asked is not None:
            if self._asked.poll() is not None:
                self._take()
            elif waited_s > self.timeout_s:
                self._asked.kill()
                self._last = self._no_answer()
        if self._program is not None and self._asked is None and (waited_s >= self.rest_s or not self._asked_at):
            self._ask(self._program)
        return self._last

    def wait(self) -> GpuReading:
        """The answer to one question, waited for."""
        self.look()
        if self._asked is not None:
            try:
                self._asked.wait(self.timeout_s)
                self._take()
            except subprocess.TimeoutExpired:
                self._last = self._no_answer()
        return self._last

    def close(self) -> None:
        """Leave no question behind."""
        if self._asked is None:
            return
        self._asked.kill()
        # A process that hangs in the driver does not even die; it is left to the system then.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._asked.wait(1.0)
        if self._asked.stdout is not None:
            self._asked.stdout.close()
        self._asked = None

    def _ask(self, program: str) -> None:
        command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        # A hundred bytes a GPU: they fit in the pipe, so nobody need read before it ends.
        try:
            self._asked = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            self._last = GpuReading(problem=f"nvidia-smi cannot be started ({error.strerror})")
        self._asked_at = time.monotonic()

    def _take(self) -> None:
        assert self._asked is not None, "taken only after it was asked"
        answer, _ = self._asked.communicate()
        # Killed by us: the reason is known already.
        if self._asked.returncode >= 0:
            self._last = read_answer(answer, self._asked.returncode)
        self._asked = None

    def _no_answer(self) -> GpuReading:
        return GpuReading(problem=f"nvidia-smi did not answer within {self.timeout_s:g} s")


def read_answer(answer: str, exit_code: int) -> GpuReading:
    """The GPUs from what ``nvidia-smi`` printed."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if exit_code != 0:
        return GpuReading(problem=f"nvidia-smi failed: {lines[0] if lines else f'exit code {exit_code}'}")
    gpus = tuple(gpu for line in lines if (gpu := _gpu(line)) is not None)
    return GpuReading(gpus) if gpus else GpuReading(problem=NO_GPU)


def _gpu(line: str) -> Gpu | None:
    # From the right: a name may hold a comma.
    front, *fields = line.rsplit(",", 4)
    index, _, name = front.partition(",")
    if len(fields) < 4 or not name:
        return None
    use, used, total, temperature = (_value(field) for field in fields)
    return Gpu(index.strip(), name.strip(), use, _from_mib(used), _from_mib(total), temperature)


def _value(text: str) -> float | None:
    # `[N/A]` and `[Not Supported]` stand for what a card does not measure.
    try:
        return float(text)
    except ValueError:
        return None


def _from_mib(mib: float | None) -> float | None:
    return None if mib is None else mib * _MIB / 1e9


@dataclass(frozen=True)
class ProcessUse:
    """The run's process and those that read pictures for it.

    Attributes:
        cpu: percent of one core, since the look before (at the first look: since the process began).
        memory_gb: 10^9 bytes in RAM, together; what they share counts for each.
        ram_gb: what the machine has.
    """

    pid: int
    cpu: float | None
    memory_gb: float
    ram_gb: float | None


class ProcessWatch:
    """Reads ``/proc``; where there is none, nothing is known."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._at = 0.0
        self._pid: int | None = None

    def look(self, pid: int | None) -> ProcessUse | None:
        """The use of a process and its children; None if it is gone."""
        if pid is None:
            return None
        now = _uptime_s()
        facts = {each: found for each in (pid, *_children(pid)) if (found := _cpu_and_memory(each)) is not None}
        if now is None or pid not in facts:
            return None
        if pid != self._pid:
            self._pid, self._at, self._before = pid, facts[pid][2], {}
        # Of a process that was not there before, all its time is new.
        spent = sum(seconds - self._before.get(each, 0.0) for each, (seconds, _, _) in facts.items())
        cpu = 100 * spent / (now - self._at) if now > self._at else None
        self._at, self._before = now, {each: seconds for each, (seconds, _, _) in facts.items()}
        return ProcessUse(pid, cpu, sum(memory for _, memory, _ in facts.values()) / 1e9, _ram_gb())


def _cpu_and_memory(pid: int) -> tuple[float, int, float] | None:
    """Seconds of CPU time, bytes in RAM, and when the process began in seconds since boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 1 :].split()
    if len(fields) < 22:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = (int(fields[11]) + int(fields[12])) / ticks
    return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), int(fields[19]) / ticks


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _uptime_s() -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return None


def _ram_gb() -> float | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * 1024 / 1e9
    return None
