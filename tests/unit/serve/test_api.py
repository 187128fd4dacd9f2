"""What clients get: the official client, right answers under load, refusals with a reason."""

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from serving import Running, expected, question, said
from tiny import llama, stop, tokenizer

from luthier.models.generate import Sampling, generate
from luthier.serve import batching
from luthier.text import render_prompt
from luthier.types import Message


def test_two_hundred_requests_eight_at_a_time_are_all_right(server: Running) -> None:
    client = server.client()

    def ask(i: int) -> tuple[str, str | None]:
        text = question(i % 40)
        stops = [expected(text, 12).text[3:5]] if i % 4 == 3 else None
        more: Any = {"stop": stops} if stops else {}
        call = {"model": "tiny", "messages": said(text), "max_tokens": 12, **more}
        if i % 2:
            chunks = list(client.chat.completions.create(stream=True, **call))
            texts = [c.choices[0].delta.content or "" for c in chunks]
            return "".join(texts), chunks[-1].choices[0].finish_reason
        whole = client.chat.completions.create(**call)
        return whole.choices[0].message.content, whole.choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    for i, (text, reason) in enumerate(answers):
        right = expected(question(i % 40), 12)
        if i % 4 == 3:
            right = expected(question(i % 40), 12, stops=(right.text[3:5],))
        assert text == right.text, f"request {i}"
        assert reason == ("stop" if right.stopped else "length"), f"request {i}"


def test_the_counts_come_at_the_end_of_a_stream(server: Running) -> None:
    call: Any = {"model": "tiny", "messages": said("sky?"), "max_tokens": 5}
    whole = server.client().chat.completions.create(**call)
    chunks = list(server.client().chat.completions.create(stream=True, stream_options={"include_usage": True}, **call))
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_drawn_answer_is_the_evaluations_with_the_same_seed(server: Running) -> None:
    prompt = render_prompt([Message("user", "sky?")], tokenizer())
    drawn = Sampling(1.2, 0.9, seeds=[77])
    right = generate(llama(seed=5), tokenizer(), [prompt], stop=[stop()], max_new_tokens=9, sampling=drawn)[0]
    call: Any = {"model": "tiny", "messages": said("sky?"), "max_tokens": 9, "temperature": 1.2, "top_p": 0.9}
    several = server.client().chat.completions.create(seed=77, n=3, **call)
    assert several.choices[0].message.content == right.text
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    again = server.client().chat.completions.create(seed=77, n=3, **call)
    assert [c.message.content for c in again.choices] == [c.message.content for c in several.choices]
    assert len({c.message.content for c in several.choices}) > 1


def test_log_probabilities_are_the_models(server: Running) -> None:
    import torch

    call: Any = {"model": "tiny", "messages": said("sky?"), "max_tokens": 4, "logprobs": True, "top_logprobs": 3}
    found = server.client().chat.completions.create(**call).choices[0].logprobs.content
    prompt = render_prompt([Message("user", "sky?")], tokenizer())
    ids = expected("sky?", 4).ids
    with torch.no_grad():
        logits = llama(seed=5)(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    right = torch.log_softmax(logits.double(), -1)
    assert [entry.logprob for entry in found] == pytest.approx(
        [float(right[k, i]) for k, i in enumerate(ids)], abs=1e-4
    )
    for k, entry in enumerate(found):
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(right[k].topk(3).values.tolist(), abs=1e-4)
    streamed = server.client().chat.completions.create(stream=True, **call)
    pieces = [c.choices[0].logprobs.content for c in streamed if c.choices[0].logprobs]
    assert [e.token for piece in pieces for e in piece] == [e.token for e in found]


def test_plain_completions_go_on_from_texts_and_tokens(server: Running) -> None:
    ids = tokenizer().encode("<s>The sum", add_special_tokens=False)
    client = server.client().completions
    texts = client.create(model="tiny", prompt=["The sum", "<s>The sum"], max_tokens=6, logprobs=1)
    tokens = client.create(model="tiny", prompt=ids, max_tokens=6)
    assert texts.choices[0].text == texts.choices[1].text == tokens.choices[0].text
    assert len(texts.choices[0].logprobs.tokens) == 6
    right = generate(llama(seed=5), tokenizer(), [ids], stop=[stop()], max_new_tokens=6)[0]
    assert tokens.choices[0].text == right.text
    streamed = client.create(model="tiny", prompt="The sum", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == right.text


def test_the_system_message_of_training_stands_before_a_conversation_without_one(server: Running) -> None:
    client = server.client().chat.completions
    without = client.create(model="second", messages=said("sky?"), max_tokens=24)
    assert without.choices[0].message.content == expected("sky?", system="Be brief.").text
    own: Any = [{"role": "system", "content": "Talk."}, *said("sky?")]
    answer = client.create(model="second", messages=own, max_tokens=24)
    assert answer.choices[0].message.content == expected("sky?", system="Talk.").text


def test_models_are_listed_and_an_unknown_one_is_no_other(server: Running) -> None:
    listed = server.client().models.list().data
    assert [(model.id, model.parent) for model in listed] == [("tiny", None), ("second", "tiny")]
    assert server.client().models.retrieve("second").id == "second"
    with pytest.raises(openai.NotFoundError, match=r"no model 'third'; served here: tiny, second"):
        server.client().chat.completions.create(model="third", messages=said("sky?"))
    with pytest.raises(openai.NotFoundError, match="no model 'third'"):
        server.client().models.retrieve("third")


REFUSED: list[tuple[str, str]] = [
    ('{"messages": [{"role": "user", "content": "x"}]}', "model: Field required"),
    ('{"model": "tiny"}', "messages: Field required"),
    ('{"model": "tiny", "messages": []}', "messages: List should have at least 1 item"),
    ('{"model": "tiny", "messages": [{"role": "robot", "content": "x"}]}', "messages[0].role: one of system"),
    ('{"model": "tiny", "messages": [{"role": "user"}]}', "messages[0].content: a text"),
    ('{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "'image_url' are not"),
    ('{"model": "tiny", "messages": ["hello"]}', "messages: Input should be a valid dictionary"),
    ("[1]", "the body has to be one JSON object"),
    ("{", "the body is not JSON"),
    ('{"model": "tiny", "messages": [{"role": "user", "content": "half: \\ud83d"}]}', "surrogates not allowed"),
    ('{"temperature": 3}', "temperature: Input should be less than or equal to 2"),
    ('{"temperature": "hot"}', "temperature: Input should be a valid number"),
    ('{"top_p": -1}', "top_p: Input should be greater than or equal to 0"),
    ('{"max_tokens": 0}', "max_tokens: Input should be greater than or equal to 1"),
    ('{"max_tokens": 300}', "the model's context holds 256 tokens; the prompt has"),
    ('{"max_tokens": 3, "max_completion_tokens": 3}', "not both"),
    ('{"n": 99}', "n: Input should be less than or equal to 16"),
    ('{"stop": ""}', "stop: up to 16 texts, none of them empty"),
    ('{"stop": [1]}', "stop: Input should be a valid string"),
    ('{"seed": 1.5}', "seed: Input should be a valid integer"),
    ('{"tool_choice": "required"}', "tool_choice: 'auto' or 'none'"),
    ('{"tools": [{"type": "function"}]}', "tools: each is of type 'function', with a function"),
    ('{"tools": [{"type": "function", "function": {"name": ""}}]}', "tools: each function has a name"),
    ('{"tools": [{"type": "function", "function": {"name": "f"}}]}', "chat template has no place for tools"),
    ('{"parallel_tool_calls": false}', "'parallel_tool_calls' is not supported by this server"),
    ('{"frequency_penalty": 0.5}', "'frequency_penalty' is not supported by this server"),
    ('{"response_format": {"type": "json_object"}}', "'response_format' is not supported by this server"),
    ('{"temper": 1}', "'temper' is not known"),
    ('{"top_logprobs": 2}', "top_logprobs needs logprobs: true"),
    ('{"stream_options": {"include_usage": true}}', "stream_options needs stream: true"),
]  # fmt: skip


def post(server: Running, body: str, path: str = "/v1/chat/completions", **head: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request("POST", path, body, {"Content-Type": "application/json"} | head)
    response = connection.getresponse()
    status, content = response.status, response.read()
    connection.close()
    return status, json.loads(content) if content.startswith(b"{") else content.decode()


@pytest.mark.parametrize(("body", "reason"), REFUSED)
def test_what_is_wrong_is_refused_with_the_reason(server: Running, body: str, reason: str) -> None:
    if body.startswith('{"') and '"model"' not in body and '"messages"' not in body:
        body = json.dumps({"model": "tiny", "messages": said("sky?")} | json.loads(body))
    status, answer = post(server, body)
    assert status == 400
    assert reason in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_neutral_values_are_no_reason_to_refuse(server: Running) -> None:
    more = {"frequency_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}, "stop": None, "user": "u1"}
    status, _ = post(server, json.dumps({"model": "tiny", "messages": said("x"), "max_tokens": 1} | more))
    assert status == 200


def test_a_page_in_a_browser_cannot_use_the_server(server: Running) -> None:
    body = json.dumps({"model": "tiny", "messages": said("x"), "max_tokens": 1})
    assert post(server, body, **{"Content-Type": "text/plain"})[0] == 415
    assert post(server, body, Host="evil.example")[0] == 400
    assert post(server, body, "/v1/other")[0] == 404


def test_a_key_is_wanted_and_written_nowhere(locked: Running) -> None:
    call: Any = {"model": "tiny", "messages": said("a secret question"), "max_tokens": 1}
    for key in ("first-key", "second-key"):
        assert locked.client(key).chat.completions.create(**call).choices
    with pytest.raises(openai.AuthenticationError, match="not right"):
        locked.client("wrong-key").chat.completions.create(**call)
    assert post(locked, json.dumps(call))[0] == 401
    with pytest.raises(openai.AuthenticationError, match="not right"):
        locked.client("wrong-key").models.list()
    connection = http.client.HTTPConnection(urlsplit(locked.url).netloc)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    noted = "\n".join(locked.lines)
    assert "POST /v1/chat/completions 200" in noted
    assert "401" in noted
    assert not any(word in noted for word in ("key", "secret", "question"))


def waits(server: Running, idle: bool = True) -> bool:
    """Whether nobody is being answered within a few seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        present = [one for line in server.batching._lines.values() for one in line.present]
        if bool(present) != idle:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_written_for_a_client_that_hung_up(
    server: Running, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = batching.Rows.feed

    def slowly(rows: batching.Rows, tokens: Any) -> None:
        time.sleep(0.1)  # 25 seconds for the whole answer
        usual(rows, tokens)

    monkeypatch.setattr(batching.Rows, "feed", slowly)
    slow = {"model": "tiny", "messages": said("sky?"), "temperature": 2, "stream": stream, "n": 16}
    body = json.dumps(slow).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    host, port = urlsplit(server.url).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert waits(server, idle=False)
    started = time.monotonic()
    assert waits(server)
    assert time.monotonic() - started < 10
