"""What clients may ask, in OpenAI's form. What is not supported is refused by name, never ignored."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from luthier.types import Json, Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields of OpenAI's that are not supported, with the values that change nothing; null changes nothing in any field."""


Request = TypeVar("Request", bound="_Strict")


class ApiError(Exception):
    """A refusal in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = dict(headers or {})

    def to_json(self) -> Json:
        """The body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """How a stream is sent."""

    include_usage: bool = False


class Asked(_Strict):
    """What both kinds of requests have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @field_validator("stop")
    @classmethod
    def _few(cls, given: str | list[str] | None) -> str | list[str] | None:
        texts = [given] if isinstance(given, str) else given or []
        if len(texts) > 16 or any(not text for text in texts):
            raise ValueError("up to 16 texts, none of them empty")
        return given

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatAsked(Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Json], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None

    @field_validator("tools")
    @classmethod
    def _functions(cls, given: list[Json] | None) -> list[Json] | None:
        for tool in given or ():
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise ValueError("each is of type 'function', with a function")
            if not isinstance(function.get("name"), str) or not function["name"]:
                raise ValueError("each function has a name")
        return given

    @field_validator("tool_choice")
    @classmethod
    def _free(cls, given: str | Json | None) -> str | Json | None:
        if given not in ("auto", "none", None):
            raise ValueError("'auto' or 'none': which tool is called is the model's to say")
        return given

    @property
    def offered(self) -> Sequence[Json]:
        """The tools that the model may call."""
        return () if self.tool_choice == "none" else self.tools or ()

    @property
    def room(self) -> int | None:
        """Most tokens of the answer, where that is said."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def top(self) -> int | None:
        """Alternatives wanted for each token, where log-probabilities are."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def turns(self) -> list[Message]:
        """The conversation.

        Raises:
            ApiError: a message is none.
        """
        return [_message(message, f"messages[{k}]") for k, message in enumerate(self.messages)]


class TextAsked(Asked):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def room(self) -> int | None:
        """Most tokens of the answer; 16 unless given, as OpenAI has it."""
        return self.max_tokens if self.max_tokens is not None else 16

    @property
    def top(self) -> int | None:
        """Alternatives wanted for each token, where log-probabilities are."""
        return self.logprobs

    def prompts(self) -> list[str] | list[list[int]]:
        """One or several prompts: all texts, or all token ids."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given


class TokensAsked(_Strict):
    """`POST /tokenize`, in vLLM's form: what a conversation is to the model."""

    model: str
    messages: Annotated[list[Json], Field(min_length=1)]
    add_generation_prompt: Literal[True] = True

    def turns(self) -> list[Message]:
        """The conversation.

        Raises:
            ApiError: a message is none.
        """
        return [_message(message, f"messages[{k}]") for k, message in enumerate(self.messages)]


def read_request(kind: type[Request], body: Any) -> Request:
    """The request in a body.

    Raises:
        ApiError: 400, with the field and the reason.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the body has to be one JSON object")
    given = {k: v for k, v in body.items() if v is not None and v not in NEUTRAL.get(k, ())}
    for name in given:
        if name not in kind.model_fields:
            known = "is not supported by this server" if name in NEUTRAL or name in _OPENAI else "is not known"
            raise ApiError(400, f"'{name}' {known}", param=name, code="unsupported_parameter")
    try:
        asked = kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][:1])
        reason = first["msg"].removeprefix("Value error, ")
        raise ApiError(400, f"{field}: {reason}", param=field or None, code="invalid_value") from error
    if isinstance(asked, Asked) and asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if isinstance(asked, ChatAsked) and asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if isinstance(asked, ChatAsked) and None not in (asked.max_tokens, asked.max_completion_tokens):
        raise ApiError(400, "give max_completion_tokens or max_tokens, not both", param="max_tokens")
    return asked


_OPENAI = frozenset(
    "audio function_call prediction reasoning_effort tool_choice verbosity web_search_options prompt_cache_key "
    "safety_identifier".split()
)
"""More fields of OpenAI's that are not supported with any value."""


def _message(given: Json, place: str) -> Message:
    role = given.get("role")
    if role not in ROLES:
        raise ApiError(400, f"{place}.role: one of {', '.join(ROLES)}", param=f"{place}.role", code="invalid_value")
    unknown = given.keys() - {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal"}
    if unknown:
        name = min(unknown)
        raise ApiError(400, f"'{place}.{name}' is not supported", param=f"{place}.{name}", code="unsupported_parameter")
    calls = given.get("tool_calls") or ()
    if not isinstance(calls, list | tuple) or not all(isinstance(call, dict) for call in calls):
        raise ApiError(400, f"{place}.tool_calls: a list of objects", param=f"{place}.tool_calls", code="invalid_value")
    content = _content(given.get("content"), place, empty=role == "assistant" and bool(calls))
    texts = {name: given.get(name) for name in ("reasoning_content", "tool_call_id", "name")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ApiError(400, f"{place}.{name}: a text", param=f"{place}.{name}", code="invalid_value")
    role_known: Literal["system", "user", "assistant", "tool"] = ROLES[role]  # type: ignore[assignment]
    return Message(role_known, content, texts["reasoning_content"], tuple(calls), texts["tool_call_id"], texts["name"])


def _content(given: Any, place: str, *, empty: bool) -> str:
    """A text, or parts of type text."""
    where = f"{place}.content"
    if given is None and empty:
        return ""
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(isinstance(part, dict) for part in given):
        for part in given:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type")
                raise ApiError(400, f"{where}: parts of type '{kind}' are not supported, only text", param=where)
        return "".join(part["text"] for part in given)
    raise ApiError(400, f"{where}: a text", param=where, code="invalid_value")
