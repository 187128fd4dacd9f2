"""A server over tiny models in a thread, reached through a socket as clients reach it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import openai
from tiny import llama, stop, tokenizer

from luthier.models.generate import Generated, Sampling, generate
from luthier.serve.app import make_app
from luthier.serve.batching import Batching, Served
from luthier.serve.http import aside
from luthier.serve.own import OwnModels
from luthier.text import render_prompt
from luthier.types import Message


def served(name: str = "tiny", **more: Any) -> Served:
    return Served(name, llama(seed=5), tokenizer(), (stop(),), 256, **more)


@dataclass
class Running:
    """A server in a thread."""

    url: str
    batching: Any
    lines: list[str] = field(default_factory=list)

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


def start(models: Sequence[Served], keys: Sequence[str] = (), **settings: Any) -> Iterator[Running]:
    batching = Batching(models, **settings)
    yield from start_answers(OwnModels(batching, {}), keys, batching)


def start_answers(answers: Any, keys: Sequence[str] = (), batching: Any = None) -> Iterator[Running]:
    lines = list[str]()
    app = make_app(answers, keys=keys, note=lines.append)
    with aside(app) as url:
        yield Running(url, batching, lines)


WORDS = ["red", "green", "sky", "sum of one", "user", "three", "colour"]


def question(i: int) -> str:
    return f"{WORDS[i % 7]} {i}?"


@cache
def expected(text: str, room: int = 24, system: str | None = None, stops: tuple[str, ...] = ()) -> Generated:
    """What an evaluation reads from the same model, asked alone."""
    turns = [*([Message("system", system)] if system else []), Message("user", text)]
    prompt = render_prompt(turns, tokenizer())
    sampling = Sampling(stop_texts=stops)
    return generate(llama(seed=5), tokenizer(), [prompt], stop=[stop()], max_new_tokens=room, sampling=sampling)[0]


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]
