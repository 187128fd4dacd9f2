"""llama.cpp behind our API: real llama.cpp, right answers, and our refusals."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from tiny import llama, tokenizer

pytest.importorskip("xllamacpp", reason="pip install 'luthier[gguf]'")

from gguf_file import write_gguf
from serving import Running, expected, question, said, start_answers

from luthier.errors import DataError
from luthier.serve.behind import Behind, context_of
from luthier.text import render_prompt
from luthier.types import Message


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama_cpp(path: Path) -> Iterator[Running]:
    yield from start_answers(Behind({"tiny": path}, {"tiny": None}, rows=8))


def narrowest(text: str, room: int) -> float:
    """The least lead of the likeliest token over the next while the answer is written."""
    prompt = render_prompt([Message("user", text)], tokenizer())
    ids = prompt + expected(text, room).ids
    with torch.no_grad():
        top = llama(seed=5)(torch.tensor([ids])).logits[0, len(prompt) - 1 :].topk(2).values
    return float((top[:, 0] - top[:, 1]).min())


def test_answers_in_float32_are_those_of_transformers(llama_cpp: Running) -> None:
    client = llama_cpp.client()

    def ask(i: int) -> str:
        call: Any = {"model": "tiny", "messages": said(question(i)), "max_tokens": 16}
        if i % 2:
            chunks = client.chat.completions.create(stream=True, **call)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return client.chat.completions.create(**call).choices[0].message.content

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    sure = [i for i in range(24) if narrowest(question(i), 16) > 0.03]
    assert len(sure) > 12
    assert [answers[i] for i in sure] == [expected(question(i), 16).text for i in sure]


def test_refusals_are_ours_or_theirs_in_one_form(llama_cpp: Running) -> None:
    client = llama_cpp.client().chat.completions
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.create(model="other", messages=said("x"))
    with pytest.raises(openai.BadRequestError, match="'foo' is not known"):
        client.create(model="tiny", messages=said("x"), extra_body={"foo": 1})
    with pytest.raises(openai.BadRequestError, match="the answer may have 300"):
        client.create(model="tiny", messages=said("x"), max_tokens=300)
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size") as refused:
        client.create(model="tiny", messages=said("word " * 200))
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="log-probabilities of chats only"):
        llama_cpp.client().completions.create(model="tiny", prompt="x", logprobs=1)
    assert client.create(model="tiny", messages=said("x"), max_tokens=2).model == "tiny"


def test_it_tells_what_llama_cpp_reads(llama_cpp: Running) -> None:
    from luthier.release.endpoint import Endpoint

    endpoint = Endpoint(f"{llama_cpp.url}/v1", "tiny")
    for i in range(3):
        assert endpoint.tokens(said(question(i))) == render_prompt([Message("user", question(i))], tokenizer())


def test_it_ends_with_the_server(path: Path) -> None:
    behind = Behind({"tiny": path}, {}, rows=1)
    assert behind.alive
    behind.close()
    assert not behind.alive


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "not.gguf").write_bytes(b"nothing of the kind" * 10)
    with pytest.raises(DataError, match="no whole GGUF"):
        context_of(tmp_path / "not.gguf")
