"""The side of the sandbox that Luthier holds: what isolation there is, starting a program, and what became of it.

| outcome | when |
| --- | --- |
| pass | the nonce came, after the last test |
| fail | it ended without: a test failed, an exception, an early exit |
| timeout | its time was up |
| crash | a signal ended it, or its memory was up |
| sandbox | the box itself broke; tried again, and never scored |
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from luthier.errors import Missing

HERE = Path(__file__).parent
Outcome = Literal["pass", "fail", "timeout", "crash", "sandbox"]
Isolation = Literal["namespaces", "bubblewrap", "none"]
TRIES = 3
GRACE = 5.0
"""Seconds for the box itself, on top of the program's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take: wall seconds, bytes of memory and of files, processes, bytes of output that are kept."""

    seconds: float = 4.0
    memory: int = 2 << 30
    disk: int = 16 << 20
    processes: int = 32
    output: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program: its outcome, the beginning of what it wrote, seconds, and why where that is known."""

    outcome: Outcome
    output: str
    seconds: float
    reason: str = ""


@cache
def isolation() -> tuple[Isolation, str]:
    """The isolation this machine offers, found by trying, and why there is no better one."""
    found = _once("", "", Limits(seconds=20.0), "namespaces")
    if found.outcome == "pass":
        return "namespaces", ""
    reason = found.reason
    if shutil.which("bwrap"):
        found = _once("", "", Limits(seconds=20.0), "bubblewrap")
        if found.outcome == "pass":
            return "bubblewrap", reason
        reason += f"; bubblewrap: {found.reason or found.output}"
    return "none", reason


def run_program(
    answer: str,
    tests: str,
    limits: Limits = Limits(),
    *,
    reference: str | None = None,
    unsafe: bool = False,
) -> Ran:
    """Run an answer and then its tests in the sandbox.

    Args:
        answer: the program.
        tests: run after it, in the same names; reaching their end is success.
        limits: what it may take.
        reference: a right answer. Where the time runs out, the reference is timed on this machine and the answer
            gets four times as long as that, if that is more.
        unsafe: run even where nothing isolates, with resource limits alone.

    Raises:
        Missing: nothing isolates here and `unsafe` is false.
    """
    way, reason = isolation()
    if way == "none" and not unsafe:
        raise Missing(
            f"generated code is not run: this machine offers no isolation ({reason})",
            where="sandbox",
            fix="apt-get install bubblewrap, or allow user namespaces; evaluate.unsafe_code=true runs it all the same",
        )
    found = _tried(answer, tests, limits, way)
    if found.outcome == "timeout" and reference is not None:
        right = _tried(reference, tests, replace(limits, seconds=10 * limits.seconds), way)
        if right.outcome == "pass" and 4 * right.seconds > limits.seconds:
            found = _tried(answer, tests, replace(limits, seconds=4 * right.seconds), way)
    return found


def run_programs(
    programs: Sequence[tuple[str, str, str | None]],
    limits: Limits = Limits(),
    *,
    unsafe: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Ran]:
    """Run many (answer, tests, reference), as many at a time as there are cores, in order."""

    def one(program: tuple[str, str, str | None]) -> Ran:
        answer, tests, reference = program
        found = run_program(answer, tests, limits, reference=reference, unsafe=unsafe)
        progress(1)
        return found

    if not programs:
        return []
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(one, programs))


def _tried(answer: str, tests: str, limits: Limits, way: Isolation) -> Ran:
    """What became of it; a box that broke is built again."""
    for _ in range(TRIES):
        found = _once(answer, tests, limits, way)
        if found.outcome != "sandbox":
            break
    return found


def _once(answer: str, tests: str, limits: Limits, way: Isolation) -> Ran:
    nonce = secrets.token_hex(32).encode()
    program, secret, result, status, output = (os.pipe() for _ in range(5))
    inside = {"program": program[0], "nonce": secret[0], "result": result[1], "status": status[1]}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="luthier-box-") as root:
        try:
            process = _start(inside, output[1], limits, way, root)
        except OSError as error:
            for end in (*program, *secret, *result, *status, *output):
                os.close(end)
            return Ran("sandbox", "", 0.0, str(error))
        for name in (*inside.values(), output[1]):
            os.close(name)
        text = (answer + "\0\n" + tests).encode("utf-8", "surrogatepass")
        heard: dict[str, bytes] = {}
        threads = [
            threading.Thread(target=_say, args=(program[1], text)),
            threading.Thread(target=_say, args=(secret[1], nonce)),
            *(
                threading.Thread(target=_hear, args=(heard, name, end, most))
                for name, end, most in (
                    ("result", result[0], 256),
                    ("status", status[0], 8192),
                    ("output", output[0], limits.output),
                )
            ),
        ]
        for thread in threads:
            thread.start()
        late = False
        try:
            process.wait(limits.seconds + (GRACE if way == "namespaces" else 0.0))
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(process)
        for thread in threads:
            thread.join(GRACE)
    seconds = time.monotonic() - started
    said = heard.get("output", b"").decode("utf-8", "replace")
    outcome, reason = _judge(heard, nonce, way, late=late, code=process.returncode)
    return Ran(outcome, said, seconds, reason)


def _judge(heard: dict[str, bytes], nonce: bytes, way: Isolation, *, late: bool, code: int) -> tuple[Outcome, str]:
    """The outcome from what was heard; only the whole nonce is a success."""
    result = heard.get("result", b"")
    try:
        report: dict[str, Any] = json.loads(heard.get("status", b"") or b"{}")
    except ValueError:
        report = {}
    if way != "namespaces":  # no launcher reports: the exit code does
        report = {"timeout": True} if late else {"ended": code if code >= 0 else 128 - code}
    if not result.startswith(b"R"):
        return "sandbox", str(report.get("trouble") or report or "it did not start")
    if result == b"R" + nonce and not late:
        return "pass", ""
    if late or report.get("timeout") or report.get("ended") == 128 + signal.SIGXCPU:
        return "timeout", "its time was up"
    if report.get("memory"):
        return "crash", "its memory was up"
    ended = report.get("ended")
    if ended is None:
        return "sandbox", str(report.get("trouble") or "nobody said how it ended")
    if ended > 128:
        return "crash", f"ended by signal {ended - 128}"
    return "fail", f"exit code {ended}"


def _start(inside: dict[str, int], output: int, limits: Limits, way: Isolation, root: str) -> "subprocess.Popen[bytes]":
    python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    worker = (HERE / "worker.py").read_text(encoding="utf-8")
    job = {
        **inside,
        "root": root,
        "python": python,
        "places": [sys.base_prefix],
        "worker": worker,
        "seconds": limits.seconds,
        "memory": limits.memory,
        "disk": limits.disk,
        "processes": limits.processes,
    }
    if way == "namespaces":
        command = [python, "-I", "-S", str(HERE / "launcher.py")]
    else:
        bounded = _bounded(job, worker)
        command = [python, "-I", "-S", "-B", "-c", bounded]
        if way == "bubblewrap":
            command = [*_bubblewrap(sys.base_prefix), *command]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=list(inside.values()),
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/nonexistent"},
        cwd="/" if way != "none" else root,
        start_new_session=True,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it ended before it read the job: the pipes tell
        process.stdin.write(json.dumps(job).encode() if way == "namespaces" else b"")
        process.stdin.close()
    return process


def _bounded(job: dict[str, Any], worker: str) -> str:
    """The worker with its limits set by itself before the answer runs, for where no launcher sets them."""
    return f"""
import os, resource
resource.setrlimit(resource.RLIMIT_CPU, ({int(job["seconds"]) + 1}, {int(job["seconds"]) + 2}))
for what, most in (("AS", {job["memory"]}), ("FSIZE", {job["disk"]}),
                   ("NPROC", {job["processes"]}), ("CORE", 0), ("NOFILE", 64)):
    what = getattr(resource, "RLIMIT_" + what)
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
for at, fd in enumerate(({job["program"]}, {job["nonce"]}, {job["result"]}), 3):
    os.dup2(fd, at + 40)
for at in (3, 4, 5):
    os.dup2(at + 40, at)
os.closerange(6, 64)
{worker}
"""


def _bubblewrap(prefix: str) -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"]
    command += ["--uid", "1000", "--gid", "1000", "--dev", "/dev", "--tmpfs", "/box", "--chdir", "/box"]
    for place in ("/usr", "/lib", "/lib64", "/bin", prefix):
        if Path(place).is_symlink():
            command += ["--symlink", str(Path(place).readlink()), place]
        elif Path(place).exists():
            command += ["--ro-bind", place, place]
    return [*command, "--setenv", "HOME", "/box", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"]


def _say(end: int, what: bytes) -> None:
    try:
        with os.fdopen(end, "wb") as pipe:
            pipe.write(what)
    except OSError:
        return  # whoever should read has ended


def _hear(heard: dict[str, bytes], name: str, end: int, most: int) -> None:
    """Read to the end and keep the beginning: a flood must not stop the program, nor fill our memory."""
    kept = b""
    with os.fdopen(end, "rb", buffering=0) as pipe:
        while chunk := pipe.read(1 << 16):
            kept += chunk[: max(0, most - len(kept))]
    heard[name] = kept


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Nothing of the session is left; in namespaces the end of process 1 ended the rest."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
