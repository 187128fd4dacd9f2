"""The sandbox: right programs pass, and whatever a program tries, it gets no success and leaves nothing behind."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from luthier.errors import Missing
from luthier.evaluate.sandbox import Limits, box, isolation, run_program
from luthier.evaluate.sandbox.box import Isolation, _once

QUICK = Limits(seconds=3.0, memory=256 << 20)
WAYS: list[Isolation] = ["namespaces", "bubblewrap"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    """Each kind of isolation that this machine offers."""
    found: Isolation = request.param
    if found == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed here")
    if _once("", "", QUICK, found).outcome != "pass":
        pytest.skip(f"this machine does not allow {found}")
    monkeypatch.setattr(box, "isolation", lambda: (found, ""))
    return found


def test_an_answer_passes_when_the_last_test_does(way: Isolation) -> None:
    assert run_program("def f(x):\n    return x + 1", "assert f(1) == 2", QUICK).outcome == "pass"
    wrong = run_program("def f(x):\n    return x", "assert f(1) == 2", QUICK)
    assert (wrong.outcome, "AssertionError" in wrong.output) == ("fail", True)
    assert run_program("def f(x:", "pass", QUICK).outcome == "fail"


@pytest.mark.parametrize(
    "answer",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "print('PASS'); print('ok'); print('R'); import os; os.write(1, b'R' + b'0' * 64); os._exit(0)",
        "import os\nos.write(5, b'0' * 64); os._exit(0)",
        "import os, builtins as b\nos.write = lambda *a: 64\nb.exec = lambda *a: None\nb.compile = exec\ndef f(): 0",
        "class AssertionError(Exception): pass\ndef f(): return 0",
        "import builtins as b\nb.AssertionError = type('X', (BaseException,), {'__init__': 1})\ndef f(): return 0",
        "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(): raise SystemExit(0)",
        "def check(*a): pass\ndef f(): return 0",
        "import sys\nsys.excepthook = lambda *a: None\ndef f(): return 0",
        "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef f(): return 0",
        "import threading, os\nthreading.Thread(target=lambda: os._exit(0)).start()\nimport time; time.sleep(1)",
    ],
)
def test_no_trick_is_a_success(answer: str) -> None:
    tests = "def check(c):\n    assert c() == 1\ncheck(f)"
    if isolation()[0] == "none":
        pytest.skip("nothing isolates here")
    assert run_program(answer, tests, QUICK).outcome in ("fail", "crash")


def test_the_users_files_are_not_there(way: Isolation, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    secret.chmod(0o644)
    for place in (str(secret), str(tmp_path), str(Path.cwd()), "/etc/passwd", "/proc/1/environ", "/sys", "/var"):
        found = run_program(f"import os\nseen = os.path.exists({place!r})", "assert not seen", QUICK)
        assert found.outcome == "pass", place
    # Python itself may be installed below somebody's home: then the way to it is there, and nothing else.
    parts = Path(sys.base_prefix).parts
    ways = [str(Path(*parts[:k])) for k in range(2, len(parts))]
    answer = f"""
import os
ways = [name for way in {ways!r} if way != "/usr" and os.path.exists(way) for name in os.listdir(way)]
"""
    assert run_program(answer, f"assert set(ways) <= set({parts!r}), ways", QUICK).outcome == "pass"


def test_nothing_can_be_written_outside(way: Isolation, tmp_path: Path) -> None:
    target = tmp_path / "made"
    answer = f"""
import os, sys
open("/box/own", "w").write("fine")
left = []
for place in ({str(target)!r}, "/usr/made", "/made", "/dev/made", sys.prefix + "/made", "/lib/made"):
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        open(place, "w").write("x")
        left.append(place)
    except OSError:
        pass
"""
    found = run_program(answer, "left = [p for p in left if not p.startswith('/dev')]\nassert left == [], left", QUICK)
    if way == "namespaces":
        assert found.outcome == "pass", found.output
    assert not target.exists()
    assert not Path("/usr/made").exists()


def test_there_is_no_network(way: Isolation) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        port = server.getsockname()[1]
        answer = f"""
import socket
reached = False
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=1)
    reached = True
except OSError:
    pass
"""
        assert run_program(answer, "assert not reached", QUICK).outcome == "pass"
        with pytest.raises(BlockingIOError):
            server.accept()


def processes(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark in (folder / "cmdline").read_text():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_fork_bomb_ends_and_leaves_nobody(way: Isolation) -> None:
    if os.geteuid() == 0 and way == "bubblewrap":
        pytest.skip("limits on processes do not hold for root, and bubblewrap keeps root's user")
    bomb = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)"
    started = time.monotonic()
    assert run_program(bomb, "", Limits(seconds=1.0, processes=16)).outcome in ("timeout", "crash")
    assert time.monotonic() - started < 8
    count = """
import os, time
n = 0
try:
    while os.fork():
        n += 1
    time.sleep(9)
except OSError:
    pass
"""
    assert run_program(count, "assert n < 16, n", Limits(seconds=2.0, processes=16)).outcome == "pass"


def test_a_daemon_ends_with_the_program(way: Isolation) -> None:
    mark = f"daemon-{os.getpid()}-{way}"
    answer = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        os.execv({box.sys.executable!r} if os.path.exists({box.sys.executable!r}) else sys.executable,
                 ["python", "-c", "import time; time.sleep(60)", {mark!r}])
    os._exit(0)
os.wait()
import time; time.sleep(0.3)
"""
    started = time.monotonic()
    assert run_program(answer, "pass", QUICK).outcome == "pass"
    assert time.monotonic() - started < 3
    assert processes(mark) == []


def test_memory_is_bounded(way: Isolation) -> None:
    eats = "kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))"
    found = run_program(eats, "", QUICK)
    assert found.outcome in ("fail", "crash")
    if way == "namespaces":  # many processes that each keep to the limit do not as a whole
        shared = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(100 << 20)
        time.sleep(9)
time.sleep(9)
"""
        found = run_program(shared, "", QUICK)
        assert (found.outcome, found.reason) == ("crash", "its memory was up")


def test_time_ends_it_and_the_output_is_cut(way: Isolation) -> None:
    loud = run_program("while True:\n    print('x' * 1000)", "", Limits(seconds=0.7, output=5000))
    assert loud.outcome == "timeout"
    assert len(loud.output) == 5000
    assert loud.seconds < 6
    deaf = """
import signal, time
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(60)
"""
    assert run_program(deaf, "", Limits(seconds=0.7)).outcome == "timeout"


def test_a_slow_reference_gives_the_answer_more_time() -> None:
    if isolation()[0] == "none":
        pytest.skip("nothing isolates here")
    slow, limits = "import time\ntime.sleep(0.8)", Limits(seconds=0.5)
    assert run_program(slow, "", limits).outcome == "timeout"
    assert run_program(slow, "", limits, reference=slow).outcome == "pass"
    assert run_program("while True: pass", "", limits, reference="pass").outcome == "timeout"


def test_a_crash_is_told_from_a_failure(way: Isolation) -> None:
    found = run_program("import os\nos.kill(os.getpid(), 11)", "", QUICK)
    assert (found.outcome, found.reason) == ("crash", "ended by signal 11")


def test_the_environment_is_clean(way: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    found = run_program(
        "import os\nkeys = set(os.environ)", "assert 'API_KEY' not in keys\nassert os.listdir('.') == []", QUICK
    )
    assert found.outcome == "pass", found.output


def test_a_box_that_breaks_is_tried_again_and_never_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def broken(*_: object) -> box.Ran:
        tries.append(1)
        return box.Ran("sandbox", "", 0.0, "no room")

    monkeypatch.setattr(box, "isolation", lambda: ("namespaces", ""))
    monkeypatch.setattr(box, "_once", broken)
    assert run_program("", "", QUICK).outcome == "sandbox"
    assert len(tries) == 3


def test_without_isolation_nothing_runs_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "isolation", lambda: ("none", "user namespaces are off"))
    with pytest.raises(Missing, match="generated code is not run: this machine offers no isolation"):
        run_program("x = 1", "assert x == 1", QUICK)
    assert run_program("x = 1", "assert x == 1", QUICK, unsafe=True).outcome == "pass"
    assert run_program("x = 1", "assert x == 2", QUICK, unsafe=True).outcome == "fail"
    assert run_program("while True: pass", "", Limits(seconds=0.5), unsafe=True).outcome == "timeout"
