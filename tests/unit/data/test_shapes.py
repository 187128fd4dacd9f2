"""Shapes: recognised without configuration, content kept byte for byte, every refusal with its reason."""

from typing import Any, get_args

import pytest

from luthier.data import SHAPES, RawRow, Reading, convert
from luthier.recipe.data import Shape
from luthier.types import NO_ANSWER, Example, Fate, Message, Pair

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def call(name: str, arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CALLS = turn("assistant", None) | {"tool_calls": [call("find", '{"n": 1}', id="c1")]}
RESULT = turn("tool", "found") | {"tool_call_id": "c1"}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def read(
    value: Any, shape: str = "auto", system: str | None = None, **reading: Any
) -> tuple[str | None, Example | Pair | Fate]:
    return convert(RawRow("f.jsonl", 7, value, None, ""), Reading(shape, system, **reading))


def turns(value: Any, shape: str = "auto", system: str | None = None, **reading: Any) -> list[tuple[str, str]]:
    found = read(value, shape, system, **reading)[1]
    assert isinstance(found, Example), found
    assert found.where == "f.jsonl:7"
    return [(message.role, message.content) for message in found.messages]


def test_the_table_and_the_recipe_know_the_same_shapes() -> None:
    assert {*SHAPES, "auto"} == set(get_args(Shape))


PLAIN = [("user", "Hi"), ("assistant", "Hello")]
WITH_SYSTEM = [("system", "Be kind."), *PLAIN]


@pytest.mark.parametrize(
    ("shape", "row", "expected"),
    [
        ("messages", {"messages": [USER, ANSWER]}, PLAIN),
        ("messages", {"messages": [turn("system", "Be kind."), USER, ANSWER]}, WITH_SYSTEM),
        ("messages", {"system": "Be kind.", "messages": [USER, ANSWER]}, WITH_SYSTEM),
        ("messages", {"messages": [turn("Human", "Hi"), turn("bot", "Hello")], "text": "other"}, PLAIN),
        ("messages", {"messages": [turn("user", [part("H"), part("i")]), ANSWER]}, PLAIN),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, PLAIN),
        ("sharegpt", {"conversations": [{"from": "user", "value": "Hi"}, {"from": "model", "value": "Hello"}],
                      "system": "Be kind."}, WITH_SYSTEM),
        ("sharegpt", {"conversations": [USER, ANSWER], "system": " "}, PLAIN),
        ("alpaca", {"instruction": "Hi", "output": "Hello"}, PLAIN),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello", "system": "Be kind."}, WITH_SYSTEM),
        ("alpaca", {"instruction": "Hi", "input": "you", "output": "Hello"}, [("user", "Hi\n\nyou"), PLAIN[1]]),
        ("alpaca", {"instruction": "Hi", "context": "you", "response": "Hello"}, [("user", "Hi\n\nyou"), PLAIN[1]]),
        ("question_answer", {"context": "You", "question": "Hi", "answer": "Hello"}, [("user", "You\n\nHi"), PLAIN[1]]),
        ("question_answer", {"context": " ", "question": "Hi", "answer": "Hello"}, PLAIN),
        ("alpaca", {"instruction": "", "input": "Hi", "output": "Hello"}, PLAIN),
        ("alpaca", {"instruction": "Hi", "output": "Hello", "history": [["a", "b"]]},
         [("user", "a"), ("assistant", "b"), *PLAIN]),
        ("prompt_completion", {"prompt": "Hi", "completion": "Hello"}, PLAIN),
        ("prompt_completion", {"prompt": [turn("system", "Be kind."), USER], "completion": [ANSWER]}, WITH_SYSTEM),
        ("prompt_completion", {"question": "Hi", "response": "Hello", "messages": None}, PLAIN),
        ("prompt_completion", {"input": "Hi", "output": "Hello"}, PLAIN),
        ("question_answer", {"question": "Hi", "answer": "Hello", "id": 3}, PLAIN),
    ],
)  # fmt: skip
def test_shapes_are_recognised(shape: str, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert read(row)[0] == shape
    assert turns(row) == expected
    assert turns(row, shape) == expected


def test_plain_text() -> None:
    assert read({"text": " a\n"}) == ("text", Example("f.jsonl", 7, text=" a\n"))
    assert read({"text": " a\n"}, system="S") == ("text", Example("f.jsonl", 7, text=" a\n"))


def test_a_forced_shape_wins() -> None:
    row = {"question": "Hi", "answer": "Hello", "text": "T"}
    assert read(row)[0] == "question_answer"
    assert read(row, "text") == ("text", Example("f.jsonl", 7, text="T"))
    name, fate = read({"question": "Hi", "answer": "Hello"}, "alpaca")
    assert name is None
    assert fate == Fate(
        "unknown_shape",
        "not the shape 'alpaca', which needs 'instruction' and 'output' or 'response'; keys: 'question', 'answer'",
    )


def test_content_is_kept_byte_for_byte() -> None:
    odd = " \ta\r\n\u00a0e\u0301 "
    assert turns({"question": odd, "answer": odd}) == [("user", odd), ("assistant", odd)]


def test_the_recipes_system_goes_before_rows_without_one() -> None:
    assert turns({"messages": [USER, ANSWER]}, system="S") == [("system", "S"), *PLAIN]
    assert turns({"messages": [turn("system", "Be kind."), USER, ANSWER]}, system="S") == WITH_SYSTEM


@pytest.mark.parametrize(
    ("row", "fate", "reason"),
    [
        ({}, "unknown_shape", "the object is empty"),
        ({"a": 1, "messages": None}, "unknown_shape", "no known shape; keys: 'a', 'messages'"),
        ({f"k{i}": 0 for i in range(100)}, "unknown_shape", "'k7' and 92 more"),
        ({"messages": "Hi"}, "wrong_type", "'messages' is a JSON text where a list of turns was expected"),
        ({"messages": ["Hi", 3]}, "wrong_type", "'messages[0]' is a JSON text"),
        ({"messages": [USER, turn("assistant", 3)]}, "wrong_type", "'messages[1].content' is a JSON number"),
        ({"messages": [USER, {"role": "assistant"}]}, "wrong_type", "'messages[1]' has no 'content' or 'value'"),
        ({"messages": [turn(1, "Hi")]}, "wrong_type", "'messages[0].role' is a JSON number"),  # type: ignore[arg-type]
        ({"messages": [turn("user", [{"type": "image_url"}]), ANSWER]}, "wrong_type", "part of type 'image_url'"),
        ({"messages": [turn("user", ["Hi"]), ANSWER]}, "wrong_type", "'messages[0].content[0]' is a JSON text"),
        ({"question": "Hi", "answer": ["a", 1]}, "wrong_type", "'answer[0]' is a JSON text"),
        ({"question": "Hi", "answer": True}, "wrong_type", "'answer' is true: write what the model is to say"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "wrong_type", "'history[0]' is not a pair"),
        ({"instruction": "a", "output": "b", "history": "x"}, "wrong_type", "'history' is a JSON text"),
        ({"question": "a", "answer": "b", "system": {}}, "wrong_type", "'system' is a JSON object"),
        ({"text": False}, "wrong_type", "'text' is a JSON false"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"id": "1"}]}]}, "bad_tool_call", "does not name its function"),
        ({"messages": [USER, ANSWER | {"tool_calls": [call("f", "{")]}]}, "bad_tool_call", "that is not JSON: '{'"),
        ({"messages": [USER, ANSWER | {"tool_calls": [call("f", "[1]")]}]}, "bad_tool_call", "a JSON list for"),
        ({"messages": [USER | {"tool_calls": [call("f")]}, ANSWER]}, "bad_tool_call", "only an assistant can call"),
        ({"messages": [USER, CALLS, USER, ANSWER]}, "unmatched_tool_call", "the call in turn 2 has no result"),
        ({"messages": [USER, CALLS, ANSWER]}, "bad_role_order", "turns 2 and 3 are both 'assistant'"),
        ({"messages": [USER, CALLS, RESULT, RESULT, ANSWER]}, "unmatched_tool_call", "turn 4 is one result more"),
        ({"messages": [USER, CALLS, RESULT | {"tool_call_id": "c2"}, ANSWER]}, "unmatched_tool_call", "'c2', which"),
        ({"messages": [USER, CALLS, RESULT, USER, ANSWER]}, "bad_role_order", "nobody answered after the tool"),
        ({"messages": [USER, turn("assistant", None) | {"tool_calls": [call("f"), call("g")]}, RESULT, ANSWER]},
         "unmatched_tool_call", "1 calls before turn 4 have no result"),
        ({"messages": [USER, ANSWER, RESULT, ANSWER]}, "unmatched_tool_call", "turn 3 is the result"),
        ({"messages": [USER, ANSWER | {"weight": 0.5}]}, "wrong_type", "'messages[1].weight' is '0.5' where 0, 1"),
        ({"messages": [turn("tool", "x"), ANSWER]}, "bad_role_order", "turn 1 is 'tool'; the user speaks first"),
        ({"messages": [turn("pirate", "x"), ANSWER]}, "unknown_role", "is 'pirate'; known: system"),
        ({"chosen": "a", "rejected": "b"}, "no_common_prompt", "no prompt beside"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "no_preference", "are the same"),
        ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": "a"}, "wrong_type", "one is a whole conversation"),
        ({"chosen": [USER, ANSWER], "rejected": [turn("user", "other"), ANSWER]}, "no_common_prompt", "part at turn 1"),
        ({"prompt": "q", "completion": "a", "rating": "meh"}, "unknown_rating", "'rating' is 'meh'"),
        ({"prompt": "q", "completion": "a", "rating": 4}, "unknown_rating", "say scale: [1, 5]"),
        ({"prompt": "q", "completion": "a", "label": False}, "unwanted", "rated -1: a failure"),
        ({"messages": []}, "no_answer", "no turns"),
        ({"messages": [USER]}, "no_answer", "turn 1 is 'user'"),
        ({"messages": [turn("system", "S")]}, "no_answer", "turn 1 is 'system'"),
        ({"messages": [USER, ANSWER, USER]}, "no_answer", "turn 3 is 'user'"),
        ({"messages": [USER, USER, ANSWER]}, "bad_role_order", "turns 1 and 2 are both 'user'"),
        ({"messages": [turn("system", "S"), USER, ANSWER, ANSWER]}, "bad_role_order",
         "turns 3 and 4 are both 'assistant'"),
        ({"messages": [ANSWER, USER]}, "bad_role_order", "turn 1 is 'assistant'; the user speaks first"),
        ({"messages": [USER, turn("system", "S"), ANSWER]}, "bad_role_order", "turn 2 is 'system'"),
        ({"question": "Hi", "answer": " \n"}, "empty_answer", "the answer in turn 2 is empty"),
        ({"messages": [USER, turn("assistant", ""), USER, ANSWER]}, "empty_answer", "turn 2"),
        ({"question": "\t", "answer": "Hello"}, "empty_turn", "turn 1 ('user') is empty"),
        ({"messages": [turn("system", " "), USER, ANSWER]}, "empty_turn", "turn 1 ('system') is empty"),
        ({"text": "  "}, "empty_turn", "the text is empty"),
    ],
)  # fmt: skip
def test_each_refusal_says_why(row: dict[str, Any], fate: str, reason: str) -> None:
    found = read(row)[1]
    assert isinstance(found, Fate)
    assert found.name == fate
    assert reason in found.reason


def test_reasons_stay_short() -> None:
    for row in ({"k" * 10**6 + str(i): 0 for i in range(20)}, {"messages": [turn("r" * 10**6, "x")]}):
        found = read(row)[1]
        assert isinstance(found, Fate)
        assert len(found.reason) < 500


def test_a_problem_of_the_reader_stays_the_fate() -> None:
    fate = Fate("not_json", "why")
    assert convert(RawRow("f", 1, None, fate, "")) == (None, fate)


def test_calls_and_results_in_two_forms() -> None:
    expected = (
        Message("user", "Hi"),
        Message("assistant", "", tool_calls=(call("find", {"n": 1}, id="c1"),)),
        Message("tool", "found", tool_call_id="c1"),
        Message("assistant", "Hello"),
    )
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    found = read({"messages": [USER, CALLS, RESULT, ANSWER], "tools": [tool]})[1]
    assert found == Example("f.jsonl", 7, expected, tools=(tool,))
    talk = [("human", "Hi"), ("function_call", '{"name": "find", "arguments": {"n": 1}}'), ("observation", "found"),
            ("gpt", "Hello")]  # fmt: skip
    row = {"conversations": [{"from": r, "value": v} for r, v in talk], "tools": '[{"name": "find", "parameters": {}}]'}
    found = read(row)[1]
    assert isinstance(found, Example)
    assert found.messages[1].tool_calls == (call("find", {"n": 1}),)
    assert (found.messages[2].role, found.tools) == ("tool", (tool,))


def test_a_call_may_be_the_answer() -> None:
    found = read({"messages": [USER, CALLS]})[1]
    assert isinstance(found, Example)
    assert found.messages[-1].tool_calls


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_read(key: str) -> None:
    found = read({"messages": [USER, ANSWER | {key: "why"}]})[1]
    assert isinstance(found, Example)
    assert [turn.reasoning for turn in found.messages] == [None, "why"]


@pytest.mark.parametrize(("flags", "train"), [({"weight": 0}, False), ({"train": True}, True), ({"loss": 1}, True)])
def test_flags_say_which_answers_are_trained(flags: dict[str, Any], train: bool) -> None:
    found = read({"messages": [USER | flags, ANSWER | flags]})[1]
    assert isinstance(found, Example)
    assert [turn.train for turn in found.messages] == [None, train]


QUESTION = (Message("user", "q"),)
YES, NO = (Message("assistant", "yes"),), (Message("assistant", "no"),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {"prompt": [turn("user", "q")], "chosen": [turn("assistant", "yes")], "rejected": [turn("assistant", "no")]},
        {"prompt": "q", "chosen": [turn("user", "q"), turn("assistant", "yes")],
         "rejected": [turn("user", "q"), turn("assistant", "no")], "messages": [USER, ANSWER]},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "yes"},
         "rejected": {"from": "gpt", "value": "no"}},
        {"chosen": "\n\nHuman: q\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: no"},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "yes", "rejected": "no"},
    ],
)  # fmt: skip
def test_pairs(row: dict[str, Any]) -> None:
    assert read(row, rows="pairs") == ("preference", Pair("f.jsonl", 7, QUESTION, YES, NO))
    assert read(row, rows="examples") == ("preference", Example("f.jsonl", 7, QUESTION + YES))
    fate = read(row, rows="ratings")[1]
    assert isinstance(fate, Fate)
    assert fate.name == "no_rating"


def test_pairs_share_the_turns_before_they_part() -> None:
    start = "\n\nHuman: q\n\nAssistant: a: b\n\nHuman:  more"
    found = read({"chosen": start + "\n\nAssistant: yes", "rejected": start + "\n\nAssistant: no"}, rows="pairs")[1]
    assert isinstance(found, Pair)
    assert [t.content for t in found.prompt] == ["q", "a: b", " more"]
    assert (found.chosen, found.rejected) == (YES, NO)


def test_margins_and_systems_of_pairs() -> None:
    row = {"prompt": "q", "chosen": "yes", "rejected": "no", "score_chosen": 8, "score_rejected": 5.5}
    found = read(row, rows="pairs", system="S")[1]
    assert found == Pair("f.jsonl", 7, (Message("system", "S"), *QUESTION), YES, NO, margin=2.5)


@pytest.mark.parametrize(
    ("value", "scale", "rating"),
    [(True, None, 1), ("thumbs_down", None, -1), ("Thumbs Up", None, 1), ("👎", None, -1), (0, None, 0),
     (1, [1, 5], -1), ("4", [1, 5], 0.5), ({"value": 5}, [1, 5], 1), ("", None, None), (None, None, None)],
)  # fmt: skip
def test_ratings(value: Any, scale: Any, rating: float | None) -> None:
    found = read({"prompt": "q", "completion": "a", "rating": value}, scale=scale, rows="ratings")[1]
    if rating is None:
        assert isinstance(found, Fate)
        assert found.name == "no_rating"
    else:
        assert isinstance(found, Example)
        assert found.rating == rating


def test_a_label_of_a_class_is_no_rating() -> None:
    for label in (0, 1, "spam"):
        assert isinstance(read({"prompt": "q", "completion": "a", "label": label})[1], Example)


def test_an_edited_answer_becomes_the_target() -> None:
    row = {"prompt": "q", "response": "no", "rating": "down", "edited": "yes"}
    assert read(row)[1] == Example("f.jsonl", 7, QUESTION + YES, rating=1.0)
    assert read(row, rows="pairs")[1] == Pair("f.jsonl", 7, QUESTION, YES, NO)
    chat = [turn("user", "q"), turn("assistant", "no") | {"edited": "yes"}, USER, ANSWER | {"feedback": "bad"}]
    found = read({"system": "S", "messages": chat})[1]
    assert isinstance(found, Example)
    assert [(t.content, t.train) for t in found.messages] == [
        ("S", None), ("q", None), ("yes", None), ("Hi", None), ("Hello", False)
    ]  # fmt: skip


def test_fields_by_other_names() -> None:
    fields = {"prompt": "Frage", "completion": "x.Antwort", "rating": None}
    row = {"Frage": "Hi", "x": {"Antwort": "Hello"}, "rating": 17, "messages": "?", "text": "T"}
    assert turns(row, fields=fields) == PLAIN
    assert turns({"Q": "Hi", "A": "Hello"}, fields={"question": "Q", "answer": "A"}) == PLAIN
    assert read({"body": "T", "question": "q", "answer": "a"}, fields={"text": "body"})[0] == "text"
    fate = read({"Frage": "Hi"}, fields=fields)[1]
    assert isinstance(fate, Fate)
    assert fate.name == "unknown_shape"
    assert "'x.Antwort' (for completion)" in fate.reason


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"question": "Q?", "choices": ["one", "two"], "answer": 1}, "Q?\n\nA. one\nB. two", "B. two"),
        ({"question": "Q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, None, "2. y"),
        ({"query": "Q? A. bank B. mall", "choices": ["A", "B"], "gold": 0}, "Q? A. bank B. mall", "A"),
        ({"question": "Q?", "A": "x", "B": "y", "answer": "b"}, "Q?\n\nA. x\nB. y", "B. y"),
        ({"instruction": "Do it.", "instances": [{"input": "", "output": "Done."}]}, "Do it.", "Done."),
    ],
)
def test_exercises_are_read(row: dict[str, object], question: str | None, answer: str) -> None:
    _, found = convert(RawRow("f", 1, row, None, "0" * 64))
    assert isinstance(found, Example)
    assert found.messages[-1].content == answer
    assert question is None or found.messages[0].content == question


def test_a_right_choice_that_is_none_of_them_is_told() -> None:
    _, found = convert(RawRow("f", 1, {"question": "Q?", "choices": ["one", "two"], "answer": "three"}, None, "0" * 64))
    assert isinstance(found, Fate)
    assert found.reason == "'answer' is 'three', which is none of the 2 choices"


def test_what_has_no_shape_is_told_how_to_be_read() -> None:
    _, found = convert(RawRow("f", 1, {"id": 3, "tweet": "Hello there"}, None, "0" * 64))
    assert isinstance(found, Fate)
    assert "say fields: {text: tweet}" in found.reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q"},
        {"question": "q"},
        {"prompt": [{"role": "user", "content": "q"}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"prompt": "q", "completion": None},
        {"prompt": "q", "level": 3},
    ],
    ids=str,
)
def test_a_prompt_is_enough_where_the_model_answers_itself(row: Any) -> None:
    found = read(row, rows="prompts", system="S")[1]
    assert isinstance(found, Example)
    assert [(m.role, m.content) for m in found.messages] == [("system", "S"), ("user", "q"), ("assistant", "")]
    assert found.messages[-1] == NO_ANSWER
    refused = read(row, rows="examples")[1]
    assert isinstance(refused, Fate)
    assert refused.name == "no_answer"


def test_an_answer_that_is_there_is_kept_with_its_prompt() -> None:
    assert turns({"prompt": "q", "completion": "a"}, rows="prompts") == [("user", "q"), ("assistant", "a")]


def test_a_prompt_without_words_is_refused() -> None:
    fate = read({"prompt": " "}, rows="prompts")[1]
    assert isinstance(fate, Fate)
    assert fate.name == "empty_turn"


def test_what_may_be_an_answer_of_another_name_is_asked_for() -> None:
    fate = read({"question": "q", "reply": "a long one"})[1]
    assert isinstance(fate, Fate)
    assert "fields: {completion: reply}" in fate.reason
