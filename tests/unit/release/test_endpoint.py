"""A server asked as the parity proof asks it: its tokens and probabilities are those of the model it serves."""

from collections.abc import Iterator

import pytest
import torch
from serving import Running, expected, question, said, served, start
from tiny import llama, tokenizer

from luthier.errors import Missing
from luthier.release.endpoint import Endpoint
from luthier.text import render_prompt
from luthier.types import Message


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from start([served()], keys=["right"])


def test_the_answer_is_the_models_token_by_token(running: Running) -> None:
    endpoint = Endpoint(f"{running.url}/v1", "tiny", "right")
    assert endpoint.models() == ["tiny"]
    for i in range(4):
        answer, right = endpoint.answer(said(question(i)), 16), expected(question(i), 16)
        assert answer.text == right.text
        assert answer.stopped == right.stopped
        assert [token.id for token in answer.tokens] == right.ids
        prompt = render_prompt([Message("user", question(i))], tokenizer())
        with torch.no_grad():
            logs = llama(seed=5)(torch.tensor([prompt + right.ids])).logits[0, len(prompt) - 1 :].log_softmax(-1)
        for k, token in enumerate(answer.tokens):
            assert token.logprob == pytest.approx(float(logs[k, token.id]), abs=1e-4)
            assert token.top == pytest.approx(
                {i: float(logs[k, i]) for i in logs[k].topk(20).indices.tolist()}, abs=1e-4
            )
    ids = render_prompt([Message("user", question(1))], tokenizer())
    assert endpoint.tokens(said(question(1))) == ids
    assert endpoint.going_on(ids, 16).text == expected(question(1), 16).text


def test_an_id_stands_beside_its_token_or_in_its_place() -> None:
    from luthier.release.endpoint import _token

    ours = {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "id": 7,
        "top_logprobs": [{"token": "b", "logprob": -1.0, "id": 8}],
    }
    vllms = {"token": "token_id:7", "logprob": -0.5, "top_logprobs": [{"token": "token_id:8", "logprob": -1.0}]}
    openais = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    assert [(t.id, t.top) for t in map(_token, (ours, vllms, openais))] == [(7, {8: -1.0}), (7, {8: -1.0}), (None, {})]


def test_what_goes_wrong_is_said_with_the_servers_reason(running: Running) -> None:
    with pytest.raises(Missing, match="401: the API key is not right"):
        Endpoint(f"{running.url}/v1", "tiny", "wrong").models()
    with pytest.raises(Missing, match="404: there is no model 'other'"):
        Endpoint(f"{running.url}/v1", "other", "right").answer(said("x"), 3)
    with pytest.raises(Missing, match="no server answers"):
        Endpoint("http://127.0.0.1:9/v1", "tiny").models()
