"""Rows laid out as well-known public data sets lay them out: each is read right, or refused with what to do."""

import json
import re
from typing import Any

import pytest
import yaml

from luthier.data.raw import RawRow
from luthier.data.shapes import Reading, convert, understand, unread
from luthier.types import Example, Fate, Pair

ASK, TELL = "Please sum up the report for the board.", "Sales went up by ten per cent. Costs stayed flat."
TURNS = [{"role": "user", "content": ASK}, {"role": "assistant", "content": TELL}]
SHAREGPT = [{"from": "human", "value": ASK}, {"from": "gpt", "value": TELL}]
CALL = {"name": "weather", "arguments": {"city": "Rome"}}
TOOLS = json.dumps([{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}])

Turns = list[tuple[str, str]]
ONCE: Turns = [("user", ASK), ("assistant", TELL)]


def led(text: str) -> Turns:
    return [("system", text), *ONCE]


READ: dict[str, tuple[dict[str, Any], Turns]] = {
    "dolly": (
        {"instruction": ASK, "context": "The report.", "response": TELL, "category": "summarization"},
        [("user", f"{ASK}\n\nThe report."), ("assistant", TELL)],
    ),
    "ultrachat_200k": ({"prompt": ASK, "prompt_id": "1", "messages": TURNS}, ONCE),
    "hh-rlhf": ({"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
                [("user", "hi"), ("assistant", "yes")]),
    "OpenHermes": (
        {"conversations": [{**turn, "weight": None} for turn in SHAREGPT], "system_prompt": "Be terse.", "title": None},
        led("Be terse."),
    ),
    "SlimOrca": ({"conversations": [{"from": "system", "value": "Be kind."}, *SHAREGPT]}, led("Be kind.")),
    "OpenOrca": ({"id": "1", "system_prompt": "Be kind.", "question": ASK, "response": TELL}, led("Be kind.")),
    "MetaMath": ({"type": "x", "query": ASK, "original_question": "other", "response": TELL}, ONCE),
    "WildChat": (
        {"conversation_hash": "h", "conversation": [{**turn, "toxic": False} for turn in TURNS], "turn": 1},
        ONCE,
    ),
    "lmsys-chat-1m": ({"conversation_id": "h", "model": "m", "conversation": TURNS, "redacted": False}, ONCE),
    "no_robots": ({"prompt": ASK, "prompt_id": "1", "messages": TURNS, "category": "c"}, ONCE),
    "squad": (
        {"title": "T", "context": "Normandy is in France.", "question": "Where?",
         "answers": {"text": ["France", "in France"], "answer_start": [16, 13]}},
        [("user", "Normandy is in France.\n\nWhere?"), ("assistant", "France")],
    ),
    "trivia_qa": (
        {"question": "Who?", "answer": {"value": "Bob", "aliases": ["Bob", "Rob"]}},
        [("user", "Who?"), ("assistant", "Bob")],
    ),
    "nq_open": ({"question": "Who?", "answer": ["Bob", "Rob"]}, [("user", "Who?"), ("assistant", "Bob")]),
    "code_alpaca": ({"instruction": ASK, "input": "", "output": TELL}, ONCE),
    "alpaca with its prompt": ({"instruction": ASK, "input": "", "output": TELL, "text": "Below is"}, ONCE),
    "helpsteer2": ({"prompt": ASK, "response": TELL, "helpfulness": 3, "verbosity": 2}, ONCE),
    "Capybara": ({"source": "s", "conversation": [{"input": ASK, "output": TELL}]}, ONCE),
    "LIMA": ({"conversations": [ASK, TELL], "source": "s"}, ONCE),
    "tulu-3": ({"id": "1", "messages": TURNS, "source": "s"}, ONCE),
    "aya": ({"inputs": ASK, "targets": TELL, "language_code": "eng"}, ONCE),
    "firefly": ({"kind": "k", "input": ASK, "target": TELL}, ONCE),
    "ChatGLM": (
        {"prompt": "And now?", "response": "Nothing.", "history": [[ASK, TELL]]},
        [*ONCE, ("user", "And now?"), ("assistant", "Nothing.")],
    ),
    "race": (
        {"article": "Long.", "question": "What?", "options": ["x", "y"], "answer": "B"},
        [("user", "Long.\n\nWhat?\n\nA. x\nB. y"), ("assistant", "B. y")],
    ),
    "hellaswag": (
        {"ctx": "He sits.", "endings": ["He flies.", "He stands."], "label": "1", "activity_label": "a"},
        [("user", "He sits.\n\nA. He flies.\nB. He stands."), ("assistant", "B. He stands.")],
    ),
    "MATH": ({"problem": ASK, "level": "1", "solution": TELL}, ONCE),
    "NuminaMath": ({"problem": "p", "solution": "s", "messages": TURNS}, ONCE),
    "Magpie": ({"instruction": "i", "response": "r", "conversations": SHAREGPT}, ONCE),
    "OpenThoughts": ({"system": "Think.", "conversations": SHAREGPT}, led("Think.")),
    "medquad": ({"Question": ASK, "Answer": TELL, "qtype": "q"}, ONCE),
    "a passage beside a prompt": (
        {"question": "What?", "context": "It is red.", "output": "Red."},
        [("user", "It is red.\n\nWhat?"), ("assistant", "Red.")],
    ),
    "a number as the answer": ({"question": "1 + 1?", "answer": 2}, [("user", "1 + 1?"), ("assistant", "2")]),
}  # fmt: skip

PAIRS: dict[str, tuple[dict[str, Any], Turns]] = {
    "ultrafeedback_binarized": (
        {"prompt": ASK, "chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No."}],
         "messages": TURNS, "score_chosen": 8.5, "score_rejected": 4.0},
        [("user", ASK)],
    ),
    "orca_dpo_pairs": (
        {"system": "Be kind.", "question": ASK, "chosen": TELL, "rejected": "No."},
        [("system", "Be kind."), ("user", ASK)],
    ),
    "whole conversations and a system prompt": (
        {"system_prompt": "Be kind.", "chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No."}]},
        [("system", "Be kind."), ("user", ASK)],
    ),
    "LLaMA-Factory": (
        {"instruction": "And?", "input": "It.", "chosen": "Y", "rejected": "N", "history": [[ASK, TELL]],
         "system": "S"},
        [("system", "S"), *ONCE, ("user", "And?\n\nIt.")],
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "oasst1": ({"message_id": "1", "text": ASK, "role": "prompter", "parent_id": None}, "put the turns of a conv"),
    "ultrachat": ({"id": "0", "data": [ASK, TELL]}, "{messages: data}"),
    "UltraFeedback": (
        {"source": "s", "instruction": ASK, "completions": [{"response": TELL}, {"response": "No."}]},
        "'completions' is a list",
    ),
    "glaive": ({"system": "SYSTEM: s", "chat": "USER: hi\n\n\nASSISTANT: hello"}, "its turns as 'messages'"),
    "hermes tool calls": (
        {"conversations": [SHAREGPT[0], {"from": "gpt", "value": "<tool_call>{}</tool_call>"},
                           {"from": "tool", "value": "{}"}, SHAREGPT[1]]},
        "read from 'tool_calls'",
    ),
    "squad v2": ({"context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}, "is an empty list"),
    "cnn_dailymail": ({"article": ASK * 9, "highlights": TELL, "id": "1"}, "{prompt: article, completion: highlights}"),
    "samsum": ({"id": "1", "dialogue": ASK, "summary": TELL}, "{prompt: dialogue, completion: summary}"),
    "mbpp": ({"task_id": 1, "text": ASK, "code": TELL, "test_list": ["t"]}, "{prompt: text, completion: code}"),
    "sanitized mbpp": ({"source_file": "f", "task_id": 1, "prompt": ASK, "code": TELL}, "{completion: code}"),
    "Nectar": ({"prompt": ASK, "answers": [{"answer": TELL, "rank": 1.0}], "turns": 1}, "write chosen and rejected"),
    "PKU-SafeRLHF": (
        {"prompt": ASK, "response_0": TELL, "response_1": "No.", "better_response_id": 0},
        "{chosen: response_0, rejected: response_1}",
    ),
    "openai preferences": (
        {"input": {"messages": TURNS[:1], "tools": []}, "preferred_output": TURNS[1:],
         "non_preferred_output": [{"role": "assistant", "content": "No."}]},
        "chosen: preferred_output, rejected: non_preferred_output",
    ),
    "stack-exchange-paired": (
        {"qid": 1, "question": ASK, "response_j": TELL, "response_k": "No."},
        "{chosen: response_j, rejected: response_k}",
    ),
    "arena": (
        {"model_a": "a", "model_b": "b", "winner": "model_a", "conversation_a": TURNS,
         "conversation_b": [TURNS[0], {"role": "assistant", "content": "No."}]},
        "{chosen: conversation_a, rejected: conversation_b}",
    ),
    "sciq": ({"question": ASK, "distractor1": "x", "distractor2": "y", "correct_answer": "z", "support": TELL},
             "{completion: correct_answer}"),
    "translation": ({"translation": {"en": "Hello there", "de": "Hallo"}},
                    "{prompt: translation.en, completion: translation.de}"),
    "boolq": ({"question": ASK, "answer": True, "passage": TELL}, "such as yes or no"),
    "imdb": ({"text": ASK, "label": 1}, "{prompt: text, completion: label}"),
    "llava": ({"id": "1", "image": "x.jpg", "conversations": SHAREGPT}, "only text is learned"),
    "user and assistant": ({"user": ASK, "assistant": TELL}, "{prompt: user, completion: assistant}"),
}  # fmt: skip


def read(row: dict[str, Any], **reading: Any) -> Example | Pair | Fate:
    return convert(RawRow("f.jsonl", 1, row, None, "00"), Reading(**reading))[1]


def turns(messages: Any) -> Turns:
    return [(message.role, message.content) for message in messages]


@pytest.mark.parametrize("name", READ)
def test_a_row_is_read_whole(name: str) -> None:
    row, wanted = READ[name]
    found = read(row)
    assert isinstance(found, Example), found
    assert turns(found.messages) == wanted


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_keeps_all_that_stands_before_it(name: str) -> None:
    row, wanted = PAIRS[name]
    found = read(row, rows="pairs")
    assert isinstance(found, Pair), found
    assert turns(found.prompt) == wanted


def test_calls_in_a_column_of_their_own_are_calls() -> None:
    row = {"id": 0, "query": ASK, "answers": json.dumps([CALL, CALL]), "tools": TOOLS}
    found = read(row)
    assert isinstance(found, Example), found
    assert [call["function"] for call in found.messages[-1].tool_calls] == [CALL, CALL]
    assert [tool["function"]["name"] for tool in found.tools] == ["weather"]
    openai = [
        TURNS[0],
        {"role": "assistant", "content": None, "function_call": {**CALL, "arguments": json.dumps(CALL["arguments"])}},
        {"role": "function", "name": "weather", "content": "{}"},
        TURNS[1],
    ]
    found = read({"messages": openai, "functions": json.loads(TOOLS)})
    assert isinstance(found, Example), found
    assert found.messages[1].tool_calls[0]["function"] == CALL
    assert found.tools


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_what_would_do(name: str) -> None:
    row, wanted = REFUSED[name]
    found = read(row)
    assert isinstance(found, Fate), found
    assert wanted in found.reason
    for said in re.findall(r"say fields: (\{[^}]*\})", found.reason):  # what it says is true
        fields = yaml.safe_load(said)
        mapped = read(row, fields=fields, rows="pairs" if "chosen" in fields else "examples")
        assert not isinstance(mapped, Fate), (said, mapped)


def test_fields_that_nothing_reads_are_named() -> None:
    def left(row: dict[str, Any], *others: str, **reading: Any) -> list[str]:
        found = understand(RawRow("f", 1, row, None, "00"), Reading(**reading))
        return unread(found.fields, found.shape or "", Reading(**reading), *others)

    assert left({"question": "q", "answer": "a", "documents": ["d"], "rationale": "r"}) == ["documents", "rationale"]
    assert left({"question": "q", "answer": "a", "documents": [], "note": "", "x": None}) == []
    assert left({"prompt": "p", "question": "q", "completion": "c"}) == ["question"]
    assert left({"prompt": None, "question": "q", "completion": "c", "system": "s", "rating": 1}) == []
    assert left({"text": "t", "system": "s"}) == ["system"]
    assert left({"messages": TURNS, "session": "1", "tools": []}, "session") == []
    assert left({"translation": {"en": "a", "de": "b"}, "id": 1},
                fields={"prompt": "translation.en", "completion": "translation.de"}) == ["id"]  # fmt: skip


def test_a_curation_says_which_fields_were_not_read(bench: Any) -> None:
    rows = [
        {"question": f"q {i}", "answer": f"a {i}", "documents": ["d"], **({"late": 1} if i > 7 else {})}
        for i in range(10)
    ]
    facts = bench.curate(*rows, split={"by": "late"})
    assert facts["sources"][0]["unread"] == {"documents": 10}
    facts = bench.curate(*rows)
    assert facts["sources"][0]["unread"] == {"documents": 10, "late": 2}
    assert bench.ledger[0]["unread"] == ["documents"]
    assert "`documents` (10 rows)" in (bench.out / "README.md").read_text()
