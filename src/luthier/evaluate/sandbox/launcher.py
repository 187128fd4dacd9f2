"""Run as a script by `box`: builds the box out of namespaces and starts the worker in it. Imports nothing of Luthier.

Four processes: this one stays outside and watches; a child leaves the namespaces of user, mounts, network, System V and
host name; its child is process 1 of a new tree of processes, whose end ends them all, daemons too; below it runs the
worker, with no rights, no files but Python's and an empty folder, and bounded resources.

The job comes as JSON on standard input. Descriptors in it: `program` (what to run, for the worker), `nonce` (unread
until the last test has passed), `result` (the worker writes R when it begins, and the nonce), `status` (we write one
JSON line: how it ended).
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from typing import Any

Job = dict[str, Any]
NEW_MOUNTS, NEW_USER, NEW_PID, NEW_NETWORK = 0x00020000, 0x10000000, 0x20000000, 0x40000000
NEW_HOSTNAME, NEW_IPC = 0x04000000, 0x08000000
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18
NO_ATIME, NO_DIR_ATIME, REL_ATIME = 1024, 2048, 1 << 21
DETACH = 2
SET_PDEATHSIG, SET_NO_NEW_PRIVS = 1, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
INSIDE = 1000
"""The worker's user inside; outside it is nobody's."""
OUTSIDE = 0x7000_0000
"""Where root takes the worker's user from, one a box: limits on processes do not hold for root itself."""
PLACES = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
DEVICES = ("null", "zero", "urandom", "random")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/box",
    "TMPDIR": "/box",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
}

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    """Raise what the C library reports."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount, or say what cannot be mounted."""
    coded = [None if x is None else os.fsencode(x) for x in (source, target, kind, options)]
    must(libc.mount(coded[0], coded[1], coded[2], ctypes.c_ulong(flags), coded[3]), f"mount {target}")


def bind(source: str, target: str) -> None:
    """Show a file or folder read-only at another place; flags it has already may not be taken away."""
    mount(source, target, None, BIND | RECURSIVE)
    found = os.statvfs(source).f_flag
    kept = found & (NO_SUID | NO_DEV | NO_EXEC | NO_ATIME | NO_DIR_ATIME)
    kept |= REL_ATIME if found & 4096 else 0
    extra = 0 if source.startswith("/dev/") else NO_DEV
    mount(None, target, None, BIND | REMOUNT | READ_ONLY | NO_SUID | extra | kept)


def build(job: Job) -> None:
    """A new root: Python and its libraries to read, a few devices, and an empty folder to write in."""
    root = job["root"]
    mount(None, "/", None, PRIVATE | RECURSIVE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEV, "size=1m,mode=755")
    places = [*PLACES, *(p for p in job["places"] if not any(p == q or p.startswith(q + "/") for q in PLACES))]
    for place in places:
        target = root + place
        if os.path.islink(place):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(place), target)
        elif os.path.isdir(place):
            os.makedirs(target, exist_ok=True)
            bind(place, target)
    os.makedirs(root + "/dev")
    for device in DEVICES:
        open(f"{root}/dev/{device}", "w").close()
        bind(f"/dev/{device}", f"{root}/dev/{device}")
    if os.path.exists("/etc/ld.so.cache"):
        os.makedirs(root + "/etc")
        open(root + "/etc/ld.so.cache", "w").close()
        bind("/etc/ld.so.cache", root + "/etc/ld.so.cache")
    os.makedirs(root + "/box")
    os.makedirs(root + "/old")
    box_options = f"size={job['disk']},mode=700,uid={INSIDE},gid={INSIDE}"
    mount("tmpfs", root + "/box", "tmpfs", NO_SUID | NO_DEV, box_options)
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"pivot_root is not known on {os.uname().machine}")
    must(libc.syscall(number, os.fsencode(root), os.fsencode(root + "/old")), "pivot_root")
    os.chdir("/")
    must(libc.umount2(b"/old", DETACH), "umount")
    os.rmdir("/old")
    mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SUID | NO_DEV)
    os.chdir("/box")


def limit(job: Job) -> None:
    """Bound what the worker takes."""
    cpu = int(job["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # first a signal that tells why, then the end
    bounds = {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_FSIZE: job["disk"],
        resource.RLIMIT_NPROC: job["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: 64 << 20,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for what, most in bounds.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def start_worker(job: Job) -> None:
    """Become the worker: give up every right and run Python; never returns."""
    if job["root_outside"]:
        os.setgroups([])
    os.setresgid(INSIDE, INSIDE, INSIDE)
    os.setresuid(INSIDE, INSIDE, INSIDE)
    must(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    limit(job)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for at, name in enumerate(("program", "nonce", "result"), 3):
        os.dup2(job[name], at + 40)  # first out of each other's way
    for at in (3, 4, 5):
        os.dup2(at + 40, at)
    os.closerange(6, 1 << 16)
    os.execve(job["python"], [job["python"], "-I", "-S", "-B", "-c", job["worker"]], ENVIRONMENT)  # noqa: S606


def first(job: Job, ready: int) -> None:
    """Process 1: starts the worker, collects the dead, ends with the worker and takes everybody with it."""
    must(libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    worker = os.fork()
    if worker == 0:
        try:
            start_worker(job)
        except BaseException as error:  # the pipe is the only way to say it
            os.write(ready, f"worker: {error}".encode())
            os._exit(125)
    os.close(ready)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def leave(job: Job, go: int, ready: int) -> None:
    """The child that leaves the namespaces: waits for its user to be mapped, builds the box, starts process 1."""
    try:
        must(libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        flags = NEW_USER | NEW_MOUNTS | NEW_PID | NEW_NETWORK | NEW_IPC | NEW_HOSTNAME
        must(libc.unshare(flags), "unshare")
        os.write(ready, b"U")
        if os.read(go, 1) != b"G":
            os._exit(125)
        if job["root_outside"]:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")  # no namespaces within: they would give back rights
        build(job)
        child = os.fork()
        if child == 0:
            first(job, ready)
        os.close(ready)
        for name in ("program", "nonce", "result"):
            os.close(job[name])
        status = os.waitpid(child, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    except BaseException as error:  # the pipe is the only way to say it
        os.write(ready, str(error).encode())
        os._exit(125)


def map_users(child: int, job: Job) -> None:
    """Who the child is outside: nobody special, and its own root only while the box is built."""
    user, group = os.geteuid(), os.getegid()
    with open(f"/proc/{child}/setgroups", "w") as file:
        file.write("allow" if job["root_outside"] else "deny")
    for name, own in (("uid_map", user), ("gid_map", group)):
        if not job["root_outside"]:
            write_map(child, name, f"{INSIDE} {own} 1\n")
            continue
        try:
            write_map(child, name, f"0 {own} 1\n{INSIDE} {OUTSIDE + child % 0x0100_0000} 1\n")
        except OSError:  # in a container that has fewer users
            write_map(child, name, f"0 {own} 1\n{INSIDE} 65534 1\n")


def write_map(child: int, name: str, lines: str) -> None:
    """A map takes one write, whole."""
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write(lines)


def resident(pid: int) -> int:
    """Bytes in memory of a process and all below it."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            with open(f"/proc/{one}/statm") as file:
                total += int(file.read().split()[1]) * resource.getpagesize()
            with open(f"/proc/{one}/task/{one}/children") as file:
                waiting += [int(x) for x in file.read().split()]
        except (OSError, IndexError, ValueError):
            continue
    return total


def watch(child: int, job: Job) -> dict[str, Any]:
    """Wait for the end, of time, of memory or of the worker; says how it came."""
    end = time.monotonic() + job["seconds"]
    pause = 0.001
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return {"ended": code if code >= 0 else 128 - code}
        late, large = time.monotonic() > end, resident(child) > job["memory"]
        if late or large:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"timeout": True} if late else {"memory": True}
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def main() -> None:
    """Build, run, watch, and say how it ended."""
    job = json.load(sys.stdin)
    job["root_outside"] = os.geteuid() == 0
    go, ready = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])
        os.close(ready[0])
        os.close(job["status"])
        leave(job, go[0], ready[1])
    os.close(ready[1])
    os.close(go[0])
    for name in ("program", "nonce", "result"):
        os.close(job[name])
    said = os.read(ready[0], 4096)
    if said == b"U":
        try:
            map_users(child, job)
            os.write(go[1], b"G")
        except OSError as error:
            os.kill(child, signal.SIGKILL)
            said = str(error).encode()
    os.close(go[1])
    report = watch(child, job)
    trouble = os.read(ready[0], 4096) if said == b"U" else said
    if trouble:
        report = {"trouble": trouble.decode(errors="replace")}
    os.write(job["status"], json.dumps(report).encode())


if __name__ == "__main__":
    main()
