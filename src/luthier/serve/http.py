"""Running an application on a socket: ready when it says so, and stopping without cutting anybody off."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import FrameType
from typing import Any

import uvicorn

from luthier.errors import Interrupted, RecipeError


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket on this address; port 0 takes a free one.

    Raises:
        RecipeError: the address cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecipeError(f"cannot listen: {reason}", where=f"{host}:{port}", fix="choose another --port") from error
    return found


class _Server(uvicorn.Server):
    """Uvicorn, which on the first signal takes no more requests and finishes those it has."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stopping = ready, stopping

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server, not the process."""
        usual = {one: signal.signal(one, self._stop) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, before in usual.items():
                signal.signal(one, before)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        elif not self.should_exit:
            self.should_exit = True
            self._stopping()


def run_app(app: Any, at: socket.socket, *, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
    """Serve until a signal comes. Open answers are finished; a second Ctrl-C stops at once.

    Raises:
        Interrupted: it was stopped at once, and answers were cut off.
    """
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on")
    server = _Server(config, ready, stopping)
    server.run(sockets=[at])
    if server.force_exit:
        raise Interrupted("stopped at once; open answers were cut off")


@contextmanager
def aside(app: Any) -> Iterator[str]:
    """The application served by a thread of this process, on a free port of this machine; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    with bind("127.0.0.1", 0) as at:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.005)
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
