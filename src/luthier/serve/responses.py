"""What the server says, in OpenAI's form."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.serve.batching import Chance
from luthier.text.token_bytes import token_bytes
from luthier.text.tokenizer import Tokenizer
from luthier.types import Json

DONE = b"data: [DONE]\n\n"


def event(body: Json) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


@dataclass
class Reply:
    """The frame of all that is said to one request: `chat` or a plain completion, of `model`."""

    chat: bool
    model: str
    fingerprint: str
    id: str = field(default="")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = self.id or ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex

    def _frame(self, kind: str, choices: list[Json], **more: Any) -> Json:
        frame = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**frame, "system_fingerprint": self.fingerprint, "choices": choices, **more}

    def whole(self, choices: list[Json], usage: Json) -> Json:
        """The answer in one piece."""
        return self._frame("chat.completion" if self.chat else "text_completion", choices, usage=usage)

    def choice(self, index: int, text: str, reason: str, logprobs: Json | None, calls: Sequence[Json] = ()) -> Json:
        """One of the choices of a whole answer."""
        said: Json = {"text": text}
        if self.chat:
            called: Json = {"tool_calls": list(calls)} if calls else {}
            content = None if calls and not text else text
            said = {"message": {"role": "assistant", "content": content, "refusal": None, **called}}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": ended(reason, calls)}

    def chunk(
        self, index: int, text: str | None, *, reason: str | None = None, logprobs: Json | None = None,
        first: bool = False, usage: bool = False, calls: Sequence[Json] = (),
    ) -> bytes:  # fmt: skip
        """One piece of a stream; with `usage` it says that the counts come at the end."""
        if self.chat:
            delta: Json = {"role": "assistant", "content": ""} if first else {"content": text} if text else {}
            if calls:
                delta["tool_calls"] = [{"index": k, **call} for k, call in enumerate(calls)]
            said: Json = {"delta": delta}
        else:
            said = {"text": text or ""}
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}
        more: Json = {"usage": None} if usage else {}
        return event(self._frame("chat.completion.chunk" if self.chat else "text_completion", [choice], **more))

    def counts(self, usage: Json) -> bytes:
        """The last piece of a stream where it was asked for: the counts of tokens."""
        return event(self._frame("chat.completion.chunk" if self.chat else "text_completion", [], usage=usage))


def ended(reason: str, calls: Sequence[Json]) -> str:
    """Why an answer ended, as clients expect it."""
    return "tool_calls" if calls and reason == "stop" else reason


def usage_of(prompt: int, completion: int) -> Json:
    """The counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def chat_logprobs(chances: Sequence[Chance], tokenizer: Tokenizer) -> Json:
    """Log-probabilities as the chat API writes them, with the tokens' ids, as llama.cpp adds them."""

    def entry(token: int, logprob: float) -> Json:
        text = str(tokenizer.decode([token]))
        return {"token": text, "logprob": logprob, "bytes": list(token_bytes(token, tokenizer)), "id": token}

    content = [
        {**entry(c.token, c.logprob), "top_logprobs": [entry(token, value) for token, value in c.top]} for c in chances
    ]
    return {"content": content, "refusal": None}


def text_logprobs(chances: Sequence[Chance], tokenizer: Tokenizer, offset: int = 0) -> Json:
    """Log-probabilities as the completions API writes them; `offset` is where the first token's text begins."""
    tokens = [str(tokenizer.decode([c.token])) for c in chances]
    offsets = []
    for text in tokens:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": tokens,
        "token_logprobs": [c.logprob for c in chances],
        "top_logprobs": [{str(tokenizer.decode([token])): value for token, value in c.top} for c in chances],
        "text_offset": offsets,
    }
