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
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from luthier.errors import DataError, Missing
from luthier.serve.app import Name
from luthier.serve.http import bind
from luthier.serve.requests import ApiError, ChatAsked, TextAsked, TokensAsked
from luthier.types import Json

HERE = "127.0.0.1"
KEY = "LLAMA_API_KEY"
"""Under which llama.cpp's server looks for its key."""
PLAIN = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
"""What llama.cpp would do to the chances besides temperature and top_p, switched off."""
GGUF = "pip install 'luthier[gguf]', or put llama-server on the PATH"
TOKENS = 131_072
"""Tokens of context for all who are answered together; a longer context means fewer of them."""


class LlamaServer:
    """llama.cpp's server for one GGUF file, as a process of its own."""

    def __init__(self, path: Path, name: str, *, rows: int) -> None:
        """Start it and wait until it can answer.

        Args:
            path: the file.
            name: what clients call it.
            rows: answers that are written together, if there is room for their contexts.

        Raises:
            Missing: llama.cpp is not installed, or it cannot load the file.
        """
        self.path, self._key = path, secrets.token_hex(16)
        self.context = context_of(path)
        slots = max(1, min(rows, TOKENS // self.context))
        with bind(HERE, 0) as free:
            self.port = int(free.getsockname()[1])
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = os.environ | {KEY: self._key}
        self._process = subprocess.Popen(  # noqa: S603
            _command(path, name, self.port, slots, slots * self.context), env=environment,
            stdin=subprocess.PIPE, stdout=self._said, stderr=self._said,
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


def _command(path: Path, name: str, port: int, slots: int, tokens: int) -> list[str]:
    if server := shutil.which("llama-server"):
        place = ["--host", HERE, "--port", str(port), "--alias", name]
        return [server, "-m", str(path), *place, "--jinja", "--parallel", str(slots), "--ctx-size", str(tokens)]
    if find_spec("xllamacpp"):
        numbers = map(str, (port, slots, tokens))
        return [sys.executable, "-m", "luthier.serve.llama", str(path), name, *numbers]
    raise Missing("serving a GGUF needs llama.cpp's server", fix=GGUF)


def context_of(path: Path) -> int:
    """Most tokens of prompt and answer together that a GGUF file was made for.

    Raises:
        Missing: the package that reads it is not installed.
        DataError: it is none, or damaged.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise Missing("serving a GGUF needs the package gguf", fix=GGUF) from error
    try:
        fields = GGUFReader(path).fields
        kind = fields["general.architecture"].contents()
        return int(fields[f"{kind}.context_length"].contents())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"no whole GGUF: {error}", where=str(path), fix="make or fetch it again") from error


class Behind:
    """Answers from llama.cpp's servers, one for each file."""

    def __init__(self, files: Mapping[str, Path], systems: Mapping[str, str | None], *, rows: int) -> None:
        """Start them.

        Args:
            files: GGUF files by the name that clients use.
            systems: by name the system message that the model was trained with.
            rows: answers of one of them that are written together.

        Raises:
            DataError: a file is no GGUF.
            Missing: llama.cpp is not there, or cannot load a file.
        """
        self._servers: dict[str, LlamaServer] = {}
        self._systems = systems
        self.names: Sequence[Name] = [Name(name, str(path)) for name, path in files.items()]
        try:
            for name, path in files.items():
                self._servers[name] = LlamaServer(path, name, rows=rows)
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
        if asked.offered:  # llama.cpp writes a prompt of its own where a template has no place for them
            raise ApiError(400, "'tools' is not supported for GGUF files", param="tools", code="unsupported_parameter")
        return await self._pass_on("/v1/chat/completions", asked, {"messages": self._turns(asked)})

    def _turns(self, asked: ChatAsked | TokensAsked) -> list[Json]:
        turns = [turn.to_json() for turn in asked.turns()]
        system = self._systems.get(asked.model)
        return [{"role": "system", "content": system}, *turns] if system and turns[0]["role"] != "system" else turns

    async def tokens(self, asked: TokensAsked) -> Json:
        """The ids that a conversation is answered from, as llama.cpp's own template and tokenizer give them."""
        server = self._servers[asked.model]
        text = (await self._ask(server, "/apply-template", {"messages": self._turns(asked)}))["prompt"]
        read = {"content": text, "add_special": True, "parse_special": True}  # as it reads a chat
        ids = (await self._ask(server, "/tokenize", read))["tokens"]
        return {"count": len(ids), "max_model_len": server.context, "tokens": ids}

    async def _ask(self, server: LlamaServer, path: str, body: Json) -> Any:
        """A small question, answered whole."""
        try:
            connection, response = await asyncio.to_thread(server.request, path, body)
            with closing(connection):
                content = await asyncio.to_thread(response.read)
        except (OSError, http.client.HTTPException) as error:
            raise _GONE from error
        if response.status != 200:
            raise _their_error(response.status, content)
        return json.loads(content)

    async def text(self, asked: TextAsked, request: Request) -> Response:  # noqa: ARG002
        """A plain completion."""
        if asked.logprobs is not None:
            message = "llama.cpp gives log-probabilities of chats only"
            raise ApiError(400, message, param="logprobs", code="unsupported_parameter")
        return await self._pass_on("/v1/completions", asked, {})

    async def _pass_on(self, path: str, asked: ChatAsked | TextAsked, more: Json) -> Response:
        server = self._servers[asked.model]
        body = asked.model_dump(exclude_none=True, exclude={"tools", "tool_choice"}) | more | PLAIN
        body["temperature"] = asked.temperature or 0.0
        body.pop("max_completion_tokens", None)
        if asked.room is not None:
            body["max_tokens"] = asked.room
            if asked.room > server.context:
                message = f"the model's context holds {server.context:,} tokens, and the answer may have {asked.room:,}"
                raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        try:
            connection, response = await asyncio.to_thread(server.request, path, body)
            if response.status == 200 and asked.stream:
                pieces = _pieces(connection, response)
                return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
            with closing(connection):
                content = await asyncio.to_thread(response.read)
        except (OSError, http.client.HTTPException) as error:
            raise _GONE from error
        if response.status != 200:
            raise _their_error(response.status, content)
        return Response(content, media_type="application/json")


_GONE = ApiError(502, "llama.cpp's server does not answer", kind="server_error")


def _their_error(status: int, content: bytes) -> ApiError:
    """What llama.cpp refused, in OpenAI's form."""
    try:
        found = json.loads(content)["error"]
        kind = str(found.get("type", "server_error"))
        code = "context_length_exceeded" if kind == "exceed_context_size_error" else None
        return ApiError(status, str(found["message"]), kind=kind, code=code)
    except (ValueError, KeyError, TypeError):
        return ApiError(status, "llama.cpp's server failed", kind="server_error")


async def _pieces(connection: http.client.HTTPConnection, response: Any) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(response.read1, 65536):
            yield piece
    finally:
        with suppress(OSError):  # so that a thread that still reads comes back, and llama.cpp stops writing
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
