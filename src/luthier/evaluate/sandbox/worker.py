"""Given to Python inside the box as text: runs the answer, then the tests, then says the nonce. Imports none of ours.

The nonce lies unread in a pipe until the last test has passed, so that no name, frame or file holds it before. What is
used after the answer has run is taken hold of before: an answer that replaces `print` or `os.write` gains nothing.
"""

import os
import sys
from collections.abc import Callable
from typing import Any


def main(
    program: int = 3,
    nonce: int = 4,
    result: int = 5,
    read: Callable[[int, int], bytes] = os.read,
    write: Callable[[int, bytes], int] = os.write,
    leave: Callable[[int], Any] = os._exit,
) -> None:
    """Run what comes on the descriptor `program`: the answer, a line with a zero byte, the tests."""
    parts = []
    while chunk := read(program, 1 << 16):
        parts.append(chunk)
    os.close(program)
    answer, tests = b"".join(parts).decode("utf-8", "surrogatepass").split("\0\n")
    run, build = exec, compile
    sys.argv = ["answer"]
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    write(result, b"R")
    run(build(answer, "<answer>", "exec"), names)
    run(build(tests, "<tests>", "exec"), names)
    sys.stdout.flush()
    write(result, read(nonce, 64))
    leave(0)


main()
