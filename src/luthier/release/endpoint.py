"""Any server with OpenAI's API, asked for greedy answers: what a served model says to the parity proof's prompts."""

import http.client
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from luthier.errors import Missing
from luthier.types import Json

MOST_TOP = 20
"""Alternatives a token that the API gives."""


@dataclass(frozen=True, slots=True)
class Token:
    """A written token.

    Attributes:
        data: its bytes, which need not be whole letters.
        logprob: its log-probability, nats.
        id: its id, where the server tells.
        top: log-probabilities of the likeliest, by id, where the server tells; else empty.
    """

    data: bytes
    logprob: float
    id: int | None
    top: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Served:
    """An answer: its text, whether it ended by itself, and its tokens, where the server gives log-probabilities."""

    text: str
    stopped: bool
    tokens: Sequence[Token] = ()


class Endpoint:
    """One model of a server."""

    def __init__(
        self, url: str, model: str, key: str | None = None, *, timeout: float = 120, more: Json | None = None
    ) -> None:
        """Nothing is asked yet.

        Args:
            url: where the API begins, such as `http://127.0.0.1:8000/v1`.
            model: what the server calls it.
            key: the API key, if it wants one.
            timeout: seconds to wait for one answer.
            more: fields of this server's own that each request has.
        """
        self._parts = urlsplit(url)
        self.url, self.model, self._timeout = url.rstrip("/"), model, timeout
        self._more = more or {}
        self._head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def models(self) -> list[str]:
        """The names of all models that the server has."""
        return [str(one["id"]) for one in self._call("GET", "/models")["data"]]

    def answer(self, messages: Sequence[Json], most: int, *, logprobs: bool = True) -> Served:
        """The greedy answer to a conversation.

        Args:
            messages: turns in OpenAI's form.
            most: tokens that it may have.
            logprobs: ask for log-probabilities, too.

        Raises:
            Missing: the server cannot be reached, or refuses.
        """
        asked = {"messages": list(messages), "max_tokens": most}
        more: Json = {"logprobs": True, "top_logprobs": MOST_TOP} if logprobs else {}
        choice = self._ask("/chat/completions", asked | more)
        found = (choice.get("logprobs") or {}).get("content") or []
        text = choice["message"].get("content") or ""
        return Served(text, choice["finish_reason"] == "stop", [_token(one) for one in found])

    def tokens(self, messages: Sequence[Json]) -> list[int] | None:
        """The ids that a conversation is answered from; None where the server does not tell (ours and vLLM do).

        Raises:
            Missing: the server cannot be reached.
        """
        body = {"model": self.model, "messages": list(messages), "add_generation_prompt": True}
        try:
            return [int(i) for i in self._call("POST", "/../tokenize", body)["tokens"]]
        except Missing as error:
            if " 404" in error.what:
                return None
            raise

    def going_on(self, prompt: str | Sequence[int], most: int) -> Served:
        """How a plain text, or its token ids, goes on.

        Raises:
            Missing: the server cannot be reached, or refuses.
        """
        given = prompt if isinstance(prompt, str) else list(prompt)
        choice = self._ask("/completions", {"prompt": given, "max_tokens": most})
        return Served(choice["text"], choice["finish_reason"] == "stop")

    def _ask(self, path: str, body: Json) -> Any:
        return self._call("POST", path, {"model": self.model, "temperature": 0, **body, **self._more})["choices"][0]

    def _call(self, method: str, path: str, body: Json | None = None) -> Any:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.netloc, timeout=self._timeout)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, posixpath.normpath(self._parts.path + path), content, self._head)
            response = connection.getresponse()
            status, said = response.status, json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Missing(
                f"no server answers: {error}", where=self.url, fix="start it, or check the address"
            ) from error
        finally:
            connection.close()
        if status != 200:
            reason = said.get("error", said) if isinstance(said, dict) else said
            reason = reason.get("message", reason) if isinstance(reason, dict) else reason
            raise Missing(
                f"the server answers {status}: {reason}", where=self.url, fix="check the model's name and the key"
            )
        return said


def _token(entry: Json) -> Token:
    data = bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode("utf-8", "replace")
    chances = [(_id(one), float(one["logprob"])) for one in entry.get("top_logprobs", ())]
    top = {token: logprob for token, logprob in chances if token is not None}
    return Token(data, float(entry["logprob"]), _id(entry), top)


def _id(entry: Json) -> int | None:
    """A token's id: beside its text, as ours and llama.cpp's servers give it, or in its place, as vLLM's may."""
    if "id" in entry:
        return int(entry["id"])
    _, marked, number = str(entry["token"]).partition("token_id:")
    return int(number) if marked else None
