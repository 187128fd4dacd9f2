"""Requests answered by another server on this machine, llama.cpp's: checked here, answered there."""

import asyncio
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from luthier.errors import Missing
from luthier.serve.app import Name
from luthier.serve.http import bind
from luthier.serve.requests import ApiError, Asked, ChatAsked, TextAsked
from luthier.types import Json

HERE = "127.0.0.1"
KEY = "LLAMA_API_KEY"
"""Under which llama.cpp's server looks for its key."""
PLAIN = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
"""What llama.cpp would do to the chances besides temperature and top_p, switched off."""
SLOTS = 8
"""Answers that are written together."""


class LlamaServer:
    """llama.cpp's server for one GGUF file, as a process of its own."""

    def __init__(self, path: Path, *, slots: int = SLOTS) -> None:
        """Start it and wait until it can answer.

        Raises:
            Missing: llama.cpp is not installed, or it cannot load the file.
        """
        self.path, self._key = path, secrets.token_hex(16)
        with bind(HERE, 0) as free:
            self.port = int(free.getsockname()[1])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = os.environ | {KEY: self._key}
        self._process = subprocess.Popen(  # noqa: S603
            _command(path, self.port, slots), env=environment, stdout=self._said, stderr=self._said,
            start_new_session=True,  # Ctrl-C is for us: it ends once the open answers are done
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def _wait(self, seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.alive:
                self._said.seek(0)
                lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
                reason = next(
                    (line for line in reversed(lines) if "error" in line.lower()), (lines or ["it ended"])[-1]
                )
                raise Missing(f"llama.cpp cannot serve it: {reason}", where=str(self.path), fix="check the file")
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(HERE, self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise Missing("llama.cpp's server does not begin to answer", where=str(self.path), fix="check the file")

    def request(self, path: str, body: Mapping[str, Any]) -> tuple[http.client.HTTPConnection, Any]:
        """Send a request.

        Returns:
            The connection, and the response whose head was read.
        """
        connection = http.client.HTTPConnection(HERE, self.port)
        head = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        connection.request("POST", path, json.dumps(body), head)
        return connection, connection.getresponse()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()


def _command(path: Path, port: int, slots: int) -> list[str]:
    if server := shutil.which("llama-server"):
        place = ["--host", HERE, "--port", str(port)]
        return [server, "-m", str(path), *place, "--jinja", "--parallel", str(slots), "--kv-unified", "-c", "0"]
    if find_spec("xllamacpp"):
        return [sys.executable, "-m", "luthier.serve.llama", str(path), str(port), str(slots)]
    raise Missing(
        "serving a GGUF needs llama.cpp's server",
        fix="pip install 'luthier[gguf]', or put llama-server on the PATH",
    )


class Behind:
    """Answers from llama.cpp's servers, one for each file."""

    def __init__(self, files: Mapping[str, Path], systems: Mapping[str, str | None]) -> None:
        """Start them.

        Args:
            files: GGUF files by the name that clients use.
            systems: by name the system message that the model was trained with.

        Raises:
            Missing: llama.cpp is not there, or cannot load a file.
        """
        self._servers: dict[str, LlamaServer] = {}
        self._systems = systems
        self.names: Sequence[Name] = [Name(name, str(path)) for name, path in files.items()]
        try:
            for name, path in files.items():
                self._servers[name] = LlamaServer(path)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether all of them are there."""
        return all(server.alive for server in self._servers.values())

    def close(self) -> None:
        """End them."""
        for server in self._servers.values():
            server.close()

    async def chat(self, asked: ChatAsked, request: Request) -> Response:  # noqa: ARG002
        """A chat completion."""
        turns = [turn.to_json() for turn in asked.turns()]
        system = self._systems.get(asked.model)
        if system and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": system})
        return await self._pass_on("/v1/chat/completions", asked, {"messages": turns})

    async def text(self, asked: TextAsked, request: Request) -> Response:  # noqa: ARG002
        """A plain completion."""
        return await self._pass_on("/v1/completions", asked, {})

    async def _pass_on(self, path: str, asked: Asked, more: Json) -> Response:
        body = asked.model_dump(exclude_none=True) | more | PLAIN
        body["temperature"] = asked.temperature or 0.0
        if (room := asked.room) is not None:  # type: ignore[attr-defined]
            body["max_tokens"] = room
        body.pop("max_completion_tokens", None)
        server = self._servers[asked.model]
        if asked.stream:
            return await _stream(server, path, body)
        sent = asyncio.create_task(asyncio.to_thread(_whole, server, path, body))
        return await sent


def _whole(server: LlamaServer, path: str, body: Json) -> Response:
    try:
        connection, response = server.request(path, body)
        with connection:  # type: ignore[attr-defined]
            return Response(response.read(), response.status, media_type="application/json")
    except (OSError, http.client.HTTPException) as error:
        raise ApiError(502, "llama.cpp's server does not answer", kind="server_error") from error


async def _stream(server: LlamaServer, path: str, body: Json) -> Response:
    try:
        connection, response = await asyncio.to_thread(server.request, path, body)
    except (OSError, http.client.HTTPException) as error:
        raise ApiError(502, "llama.cpp's server does not answer", kind="server_error") from error
    if response.status != 200:
        content = await asyncio.to_thread(response.read)
        return Response(content, response.status, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while piece := await asyncio.to_thread(response.read1, 65536):
                yield piece
        finally:
            with suppress(OSError):  # so that a thread that still reads comes back, and llama.cpp stops writing
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
