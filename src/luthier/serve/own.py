"""Requests answered by our own models: rendered as in training, answered in batches, told as a stream or whole."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from luthier.errors import TemplateError
from luthier.serve.app import Name
from luthier.serve.batching import Answering, Batching, Chance, Done, News, Piece, Question, Served
from luthier.serve.calls import find_calls, reader_of
from luthier.serve.requests import ApiError, Asked, ChatAsked, TextAsked, TokensAsked
from luthier.serve.responses import DONE, Reply, chat_logprobs, ended, event, text_logprobs, usage_of
from luthier.text import plain_prompt, render_prompt
from luthier.types import Json, Message


@dataclass
class _Choice:
    """One answer as far as it is known."""

    text: str = ""
    chances: list[Chance] = field(default_factory=list)
    reason: str = ""
    tokens: int = 0

    def take(self, news: Piece | Done) -> bool:
        """Add what is new; whether the answer is whole now."""
        if isinstance(news, Done):
            self.reason, self.tokens = news.reason, news.tokens
            return True
        self.text += news.text
        self.chances += news.chances
        return False


class OwnModels:
    """Answers from models in this process."""

    def __init__(self, batching: Batching, roots: dict[str, str]) -> None:
        self._batching = batching
        self.names: Sequence[Name] = [
            Name(name, roots.get(name, ""), served.base) for name, served in batching.models.items()
        ]

    @property
    def alive(self) -> bool:
        """Whether the thread that computes is there."""
        return self._batching.alive

    def close(self) -> None:
        """Stop computing."""
        self._batching.close()

    async def chat(self, asked: ChatAsked, request: Request) -> Response:
        """A chat completion."""
        served = self._batching.models[asked.model]
        _require_tools(asked, served)
        prompt = _prompt(served, asked.turns(), asked.offered)
        before = str(served.tokenizer.decode(prompt[-64:]))
        return await self._answer(asked, served, [prompt], request, before=before)

    async def tokens(self, asked: TokensAsked) -> Json:
        """The ids that a conversation is answered from."""
        served = self._batching.models[asked.model]
        ids = _prompt(served, asked.turns())
        return {"count": len(ids), "max_model_len": served.context, "tokens": ids}

    async def text(self, asked: TextAsked, request: Request) -> Response:
        """A plain completion."""
        served = self._batching.models[asked.model]
        prompts = [
            plain_prompt(given, served.tokenizer) if isinstance(given, str) else given for given in asked.prompts()
        ]
        size = len(served.tokenizer)
        if not prompts or any(not prompt or not all(0 <= i < size for i in prompt) for prompt in prompts):
            raise ApiError(400, f"prompt: at least one token, ids below {size}", param="prompt", code="invalid_value")
        if len(prompts) * (asked.n or 1) > 128:
            raise ApiError(400, "at most 128 answers a request", param="prompt", code="invalid_value")
        return await self._answer(asked, served, prompts, request, raw=True)

    async def _answer(
        self,
        asked: ChatAsked | TextAsked,
        served: Served,
        prompts: list[list[int]],
        request: Request,
        *,
        before: str = "",
        raw: bool = False,
    ) -> Response:
        questions = [
            Question(prompt, _room(asked, served, prompt), asked.temperature or 0.0, _top_p(asked), seed,
                     asked.stops, asked.top, before, raw)
            for prompt in prompts
            for seed in _seeds(asked, served)
        ]  # fmt: skip
        if self._batching.full:
            raise ApiError(
                429, "too many requests are waiting", kind="rate_limit_error", code="too_many_requests",
                headers={"Retry-After": "1"},
            )  # fmt: skip
        talk = _Talk(self._batching, served.name, questions)
        reply = Reply(not raw, asked.model, served.fingerprint)
        count = sum(map(len, prompts))
        if asked.stream:
            told = _stream_with_calls if isinstance(asked, ChatAsked) and asked.offered else _stream
            sent = told(talk, reply, asked, served, count, _counts(request))
            return StreamingResponse(sent, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        choices = await _until_gone(talk, request)
        tokens = sum(choice.tokens for choice in choices)
        _counts(request)(count, tokens)
        body = []
        for k, choice in enumerate(choices):
            text, calls = _calls(asked, served, choice.text)
            body.append(reply.choice(k, text, choice.reason, _logprobs(asked, served, choice.chances), calls))
        return JSONResponse(reply.whole(body, usage_of(count, tokens)))


def _require_tools(asked: ChatAsked, served: Served) -> None:
    """Raise where tools are offered to a model whose template has no place for them, or writes calls in its own way."""
    if asked.offered and reader_of(served.tokenizer, served.stop) is None:
        message = "the model's chat template has no place for tools, or writes calls in a form that is not known here"
        raise ApiError(400, message, param="tools", code="unsupported_parameter")


def _calls(asked: ChatAsked | TextAsked, served: Served, text: str) -> tuple[str, list[Json]]:
    """The text of an answer, and the tools it calls."""
    if not isinstance(asked, ChatAsked) or not asked.offered:
        return text, []
    return find_calls(text, reader_of(served.tokenizer, served.stop), asked.offered)


def _prompt(served: Served, turns: list[Message], tools: Sequence[Json] = ()) -> list[int]:
    """The ids to answer from, with the system message of training where the client sends none.

    Raises:
        ApiError: the template refuses the conversation.
    """
    if served.system and turns[0].role != "system":
        turns = [Message("system", served.system), *turns]
    try:
        return render_prompt(turns, served.tokenizer, tools=tools or None)
    except TemplateError as error:
        raise ApiError(400, error.what, param="messages", code="template_refused") from error


class _Talk:
    """The questions of one request, and the news of their answers in the order they come."""

    def __init__(self, batching: Batching, name: str, questions: Sequence[Question]) -> None:
        self._news: asyncio.Queue[tuple[int, News]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._going = len(questions)
        self._answers: list[Answering] = [
            batching.ask(name, question, lambda news, k=k: self._tell(k, news))  # type: ignore[misc]
            for k, question in enumerate(questions)
        ]

    def __len__(self) -> int:
        return len(self._answers)

    def _tell(self, k: int, news: News) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.put_nowait, (k, news))

    async def news(self) -> AsyncIterator[tuple[int, Piece | Done]]:
        """News until all is said.

        Raises:
            ApiError: the model failed.
        """
        try:
            while self._going:
                k, news = await self._news.get()
                if isinstance(news, Exception):
                    raise ApiError(500, f"the model failed: {type(news).__name__}", kind="server_error") from news
                self._going -= isinstance(news, Done)
                yield k, news
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Nobody listens any more: what is not done ends."""
        for one in self._answers:
            one.cancel()


async def _until_gone(talk: _Talk, request: Request) -> list[_Choice]:
    """The whole answers; when the client hangs up, they are given up."""
    gone = asyncio.create_task(_hung_up(request))
    all_said = asyncio.create_task(_gather(talk))
    try:
        await asyncio.wait({gone, all_said}, return_when=asyncio.FIRST_COMPLETED)
        if not all_said.done():
            raise ApiError(499, "the client has hung up", code="gone")
        return all_said.result()
    finally:
        talk.cancel()
        gone.cancel()
        all_said.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _gather(talk: _Talk) -> list[_Choice]:
    choices = [_Choice() for _ in range(len(talk))]
    async for k, news in talk.news():
        choices[k].take(news)
    return choices


async def _stream(
    talk: _Talk,
    reply: Reply,
    asked: ChatAsked | TextAsked,
    served: Served,
    prompt: int,
    note: Callable[[int, int], None],
) -> AsyncIterator[bytes]:
    tokens, offsets, usage = 0, [0] * len(talk), asked.with_usage
    try:
        if reply.chat:
            for k in range(len(talk)):
                yield reply.chunk(k, None, first=True, usage=usage)
        async for k, news in talk.news():
            if isinstance(news, Done):
                tokens += news.tokens
                yield reply.chunk(k, None, reason=news.reason, usage=usage)
            else:
                logprobs = _logprobs(asked, served, news.chances, offsets[k])
                offsets[k] += len(news.text)
                yield reply.chunk(k, news.text, logprobs=logprobs, usage=usage)
        if usage:
            yield reply.counts(usage_of(prompt, tokens))
        yield DONE
    except ApiError as error:
        yield event(error.to_json())
    finally:
        note(prompt, tokens)
        talk.cancel()


async def _stream_with_calls(
    talk: _Talk,
    reply: Reply,
    asked: ChatAsked | TextAsked,
    served: Served,
    prompt: int,
    note: Callable[[int, int], None],
) -> AsyncIterator[bytes]:
    """Answers that may call tools: told once they are whole, since only then it is known what they are."""
    choices, usage = [_Choice() for _ in range(len(talk))], asked.with_usage
    try:
        for k in range(len(talk)):
            yield reply.chunk(k, None, first=True, usage=usage)
        async for k, news in talk.news():
            choice = choices[k]
            if not choice.take(news):
                continue
            text, calls = _calls(asked, served, choice.text)
            logprobs = _logprobs(asked, served, choice.chances)
            yield reply.chunk(k, text, logprobs=logprobs, usage=usage, calls=calls)
            yield reply.chunk(k, None, reason=ended(choice.reason, calls), usage=usage)
        if usage:
            yield reply.counts(usage_of(prompt, sum(choice.tokens for choice in choices)))
        yield DONE
    except ApiError as error:
        yield event(error.to_json())
    finally:
        note(prompt, sum(choice.tokens for choice in choices))
        talk.cancel()


def _counts(request: Request) -> Callable[[int, int], None]:
    """Notes the tokens of a request for the line that is written about it."""

    def note(prompt: int, tokens: int) -> None:
        request.scope.setdefault("state", {})["counts"] = f", {prompt} + {tokens} tokens"

    return note


def _logprobs(asked: ChatAsked | TextAsked, served: Served, chances: Sequence[Chance], offset: int = 0) -> Json | None:
    if asked.top is None:
        return None
    if isinstance(asked, ChatAsked):
        return chat_logprobs(chances, served.tokenizer)
    return text_logprobs(chances, served.tokenizer, offset)


def _room(asked: ChatAsked | TextAsked, served: Served, prompt: Sequence[int]) -> int:
    """Most tokens of an answer.

    Raises:
        ApiError: prompt and answer do not fit into the context.
    """
    left = served.context - len(prompt)
    wanted = asked.room
    if left < 1 or (wanted or 0) > left:
        more = f" and {wanted:,} of the answer" if wanted and left >= 1 else ""
        raise ApiError(
            400,
            f"the model's context holds {served.context:,} tokens; the prompt has {len(prompt):,}{more}",
            param="messages" if isinstance(asked, ChatAsked) else "prompt",
            code="context_length_exceeded",
        )
    return wanted or left


def _top_p(asked: Asked) -> float:
    return 1.0 if asked.top_p is None else asked.top_p


def _seeds(asked: Asked, served: Served) -> list[Any]:  # noqa: ARG001
    """A seed for each choice: the first has the one that was given, as in an evaluation."""
    first = secrets.randbits(62) if asked.seed is None else asked.seed % 2**63
    return [first, *([first, k] for k in range(1, asked.n or 1))]
