"""The server: OpenAI's paths over HTTP, who may use them, and what is said when something is wrong."""

import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from luthier.serve.requests import ApiError, ChatAsked, TextAsked, TokensAsked, read_request
from luthier.types import Json

LARGEST_BODY = 8 * 2**20
"""Bytes. More text than any context holds."""
LOCAL = ["127.0.0.1", "localhost", "[::1]", "::1"]


@dataclass(frozen=True, slots=True)
class Name:
    """A model as `/v1/models` lists it: its name, where its weights are, the model it was tuned from."""

    name: str
    root: str
    base: str | None = None


class Answers(Protocol):
    """What answers requests: our own models, or another server behind this one."""

    names: Sequence[Name]

    @property
    def alive(self) -> bool:
        """Whether it can answer."""

    async def chat(self, asked: ChatAsked, request: Request) -> Response:
        """A chat completion."""

    async def text(self, asked: TextAsked, request: Request) -> Response:
        """A plain completion."""

    async def tokens(self, asked: TokensAsked) -> Json:
        """The ids that a conversation is answered from."""

    def close(self) -> None:
        """Free what it holds."""


def make_app(
    answers: Answers, *, keys: Sequence[str] = (), local: bool = True, note: Callable[[str], None] = lambda _: None
) -> Starlette:
    """The application.

    Args:
        answers: what answers.
        keys: one of them has to be sent with each request; none where nobody else can reach the server.
        local: the server is bound to this machine, so requests that name another host are a browser's, tricked.
        note: told one line a request: never what was asked or answered.
    """
    started = int(time.time())

    async def health(_: Request) -> Response:
        alive = answers.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, status_code=200 if alive else 503)

    async def models(request: Request) -> Response:
        _allow(request, keys)
        return JSONResponse({"object": "list", "data": [_listed(name, started) for name in answers.names]})

    async def model(request: Request) -> Response:
        _allow(request, keys)
        return JSONResponse(_listed(_known(answers, request.path_params["name"]), started))

    async def chat(request: Request) -> Response:
        asked = read_request(ChatAsked, await _body(request, keys))
        _known(answers, asked.model)
        return await answers.chat(asked, request)

    async def text(request: Request) -> Response:
        asked = read_request(TextAsked, await _body(request, keys))
        _known(answers, asked.model)
        return await answers.text(asked, request)

    async def tokens(request: Request) -> Response:
        asked = read_request(TokensAsked, await _body(request, keys))
        _known(answers, asked.model)
        return JSONResponse(await answers.tokens(asked))

    @asynccontextmanager
    async def alive(_: Starlette) -> AsyncIterator[None]:
        yield
        answers.close()

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", text, methods=["POST"]),
        Route("/tokenize", tokens, methods=["POST"]),
    ]
    middleware = [Middleware(_Noted, note=note)]
    if local and not keys:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL))
    failures: Any = {ApiError: _refuse, HTTPException: _wrong_path, Exception: _broken}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=failures, lifespan=alive)


def _allow(request: Request, keys: Sequence[str]) -> None:
    """Raise unless one of the keys was sent. Every key is compared, in a time that tells nothing."""
    if not keys:
        return
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    given = sent.strip().encode() if scheme.lower() == "bearer" else b""
    if not sum(hmac.compare_digest(given, key.encode()) for key in keys):
        what = "no API key: send it as 'Authorization: Bearer KEY'" if not given else "the API key is not right"
        headers = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, what, kind="authentication_error", code="invalid_api_key", headers=headers)


def _known(answers: Answers, name: str) -> Name:
    for known in answers.names:
        if known.name == name:
            return known
    there = ", ".join(known.name for known in answers.names)
    raise ApiError(404, f"there is no model '{name}'; served here: {there}", param="model", code="model_not_found")


def _listed(name: Name, created: int) -> Json:
    body = {"id": name.name, "object": "model", "created": created, "owned_by": "luthier", "root": name.root}
    return body | {"parent": name.base}


async def _body(request: Request, keys: Sequence[str]) -> Any:
    """The JSON body of a request that may be made."""
    _allow(request, keys)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page in a browser can send other types anywhere without asking
        raise ApiError(415, "the content type has to be application/json", code="unsupported_media_type")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise ApiError(413, f"the body is larger than {LARGEST_BODY:,} bytes", code="request_too_large")
    try:
        found = json.loads(body)
        if b"\\u" in body:  # JSON can write half of a pair, which is no text
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.to_json(), status_code=error.status, headers=error.headers)


async def _wrong_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return await _refuse(request, ApiError(error.status_code, what, code="not_found", headers=error.headers))


async def _broken(request: Request, error: Exception) -> Response:
    what = f"the server failed: {type(error).__name__}"
    return await _refuse(request, ApiError(500, what, kind="server_error", code="internal_error"))


class _Noted:
    """Notes one line a request."""

    def __init__(self, app: Any, note: Callable[[str], None]) -> None:
        self._app, self._note = app, note

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def watch(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.monotonic() - started
            more = scope.get("state", {}).get("counts", "")
            self._note(f"{scope['method']} {scope['path']} {status or 'gone'} {seconds:.2f} s{more}")
