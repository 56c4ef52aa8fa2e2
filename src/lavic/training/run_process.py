"""The process of a run: the note that it leaves in its folder, and whether it is alive.

That is asked without a lock, a signal or anything else that it could notice.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavic.errors import InputError
from lavic.files import open_regular, read_json, write_json
from lavic.folders import LOCK_NAME, process_born

PROCESS_FILE = "running.json"
_KERNEL_LOCKS = Path("/proc/locks")


def note_process(output_dir: Path, log_path: Path) -> None:
    """Note whose run this is, so that a reader can tell a running one from a killed one.

    Raises:
        OutputError: the note cannot be written.
    """
    pid = os.getpid()
    facts = {"pid": pid, "born": process_born(pid), "host": socket.gethostname(), "started": time.time()}
    write_json(output_dir / PROCESS_FILE, {**facts, "log_file": str(log_path)})


def forget_process(output_dir: Path) -> None:
    """Take the note away: the run has come to an orderly end."""
    (output_dir / PROCESS_FILE).unlink(missing_ok=True)


def read_process(output_dir: Path) -> dict[str, Any]:
    """What a running (or killed) process noted of itself; empty after an orderly end."""
    try:
        facts = read_json(output_dir / PROCESS_FILE)
    except InputError:
        return {}
    return facts if isinstance(facts, dict) else {}


def is_elsewhere(process: Mapping[str, Any]) -> bool:
    """Whether the process ran on another machine, where it cannot be asked for."""
    return bool(process) and process.get("host") != socket.gethostname()


def living_pid(process: Mapping[str, Any]) -> int | None:
    """The number of the noted process if it lives on this machine."""
    pid = process.get("pid")
    if is_elsewhere(process) or not isinstance(pid, int) or not 0 < pid < 2**31:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    # The number may have been given to another process since, after a reboot for one.
    born = process_born(pid)
    return pid if born is None or born == process.get("born") else None


def lock_holder(output_dir: Path) -> int | None:
    """Which process of this machine holds the folder's lock (0: an unknown one); None if none is known to.

    The kernel's list of locks is read: trying the lock would hold it for a moment, and a run that starts in that
    moment would be refused.
    """
    path = output_dir / LOCK_NAME
    try:
        facts = path.stat()
        with open_regular(path) as stream:
            noted = stream.read(32).strip()
        lines = _KERNEL_LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except (OSError, InputError):
        return None
    pid = noted.decode() if noted.isdigit() else "0"
    place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}"
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK":
            continue
        device, _, number = fields[5].rpartition(":")
        # On overlay file systems the device differs from that of `stat`; in a container the process number does.
        if number == str(facts.st_ino) and (device == place or fields[4] == pid):
            return int(pid)
    return None
