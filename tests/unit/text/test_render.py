"""What a template cannot train exactly is refused with the reason; what is rendered is what is served."""

from typing import Any

import pytest
from tiny import CHATML, tokenizer

from luthier.errors import RecipeError, TemplateError
from luthier.text import render, render_batch, render_prompt
from luthier.types import Example, Message

TALK = [Message("user", "hi"), Message("assistant", "one"), Message("user", "more"), Message("assistant", "two")]
END = "<|im_end|>"


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ChatML-like tokenizer; its template may be changed."""
    fast = tokenizer()
    monkeypatch.setattr(fast, "chat_template", CHATML)
    return fast


def trained_text(fast: Any, row: Any) -> str:
    return str(fast.decode([i for i, t in zip(row.ids, row.trained, strict=True) if t]))


def test_every_assistant_turn_or_only_the_last_is_trained() -> None:
    fast = tokenizer()
    assert trained_text(fast, render(TALK, fast)[0]) == f"one{END}two{END}"
    assert trained_text(fast, render(TALK, fast, train="last")[0]) == f"two{END}"


@pytest.mark.parametrize("answer", ["i", "im_end", "s", "|", ">", "_", "end|>", "assistant", "user\n"])
def test_an_answer_may_be_made_of_the_letters_of_its_end_token(answer: str) -> None:
    fast = tokenizer()
    row = render([Message("user", "u"), Message("assistant", answer)], fast)[0]
    assert trained_text(fast, row) == answer + END


FORGETS = """{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['content'] + '<|im_end|>' }}{% else %}
{{ 'short<|im_end|>' }}{% endif %}{% endfor %}"""
LEAVES_OUT = CHATML.replace("m['content']", "('' if m['role'] == 'assistant' else m['content'])")
NO_END = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] }}{% endfor %}"
NO_END_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
LOUD = CHATML.replace("m['content']", "(m['content'] | upper if m['role'] == 'assistant' else m['content'])")
RAISES = CHATML.replace(
    "{{ '<|im_start|>'", "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ ''", 1
)
UNOPENED = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "")
OTHER_PROMPT = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>bot\n' }}")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LEAVES_OUT, "turn 4: the template leaves the answer out"),
        (LOUD, "turn 4: the template changes the answer's text: 'two' becomes 'TWO"),
        (UNOPENED, r"turn 4: the generation prompt ends before <\|im_start\|>assistant, which opens the answer"),
        (OTHER_PROMPT, "turn 4: the generation prompt is not the beginning of what is trained"),
    ],
)
def test_a_template_that_would_not_train_what_is_served_is_refused(changed: Any, template: str, reason: str) -> None:
    changed.chat_template = template
    with pytest.raises(TemplateError, match=reason):
        render(TALK, changed)


def test_a_role_that_the_template_does_not_know_is_refused_in_its_words(changed: Any) -> None:
    changed.chat_template = RAISES
    with pytest.raises(TemplateError, match="refuses the conversation: no tools"):
        render([Message("tool", "x"), Message("assistant", "y")], changed)
    with pytest.raises(TemplateError, match="Only user and assistant roles are supported!"):
        render([Message("system", "s"), *TALK], tokenizer("llama2"))


def test_no_template_is_said(changed: Any) -> None:
    changed.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        render(TALK, changed)


def test_a_template_that_writes_an_answer_in_another_way_later_gives_more_rows(changed: Any) -> None:
    changed.chat_template = FORGETS
    rows = render(TALK, changed)
    assert [trained_text(changed, row) for row in rows] == [f"one{END}", f"two{END}"]
    assert "short" not in changed.decode(rows[0].ids)
    assert "short" in changed.decode(rows[1].ids)


def test_where_nothing_ends_an_answer_the_tokenizers_end_token_does(changed: Any, monkeypatch: Any) -> None:
    changed.chat_template = NO_END + NO_END_PROMPT
    assert [trained_text(changed, row)[-len(END) :] for row in render(TALK, changed)] == [END] * 2
    bare = tokenizer("zephyr")
    monkeypatch.setattr(bare, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    monkeypatch.setattr(bare, "_special_tokens_map", {**bare._special_tokens_map, "eos_token": None})
    with pytest.raises(TemplateError, match=r"turn 4: the template writes no end-of-turn token .* names none"):
        render(TALK, bare)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_control_tokens_typed_as_text_stay_text(role: Any) -> None:
    fast = tokenizer()
    end = fast.convert_tokens_to_ids(END)
    talk = [Message("system", "s"), *TALK]
    place = ["system", "user", "assistant"].index(role)
    talk[place] = Message(role, f"ignore{END}that")
    (row,) = render(talk, fast)
    assert row.ids.count(end) == len(talk)
    assert fast.decode(row.ids).count(END) == len(talk) + 1
    assert row.ids[-2] == end


def test_the_marks_of_typed_tokens_are_no_characters() -> None:
    with pytest.raises(TemplateError, match=r"turn 1 holds U\+FDD0"):
        render([Message("user", "a\ufdd0b"), *TALK[1:]], tokenizer())


def test_flags_in_the_data_say_which_turns_are_trained() -> None:
    fast = tokenizer()
    flagged = [TALK[0], Message("assistant", "one", train=False), *TALK[2:]]
    assert [trained_text(fast, row) for row in render(flagged, fast)] == [f"two{END}"]
    weighed = [{"role": m.role, "content": m.content, "weight": 1 if m.content == "one" else 0} for m in TALK]
    assert [trained_text(fast, row) for row in render(weighed, fast, train="last")] == [f"one{END}"]
    with pytest.raises(TemplateError, match="no assistant turn is trained"):
        render([TALK[0], Message("assistant", "one", train=False)], fast)


REASONS = CHATML.replace(
    "m['content']", "('<think>' + m['reasoning_content'] + '</think>' if m['reasoning_content'] else '') + m['content']"
)
OPENS = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")


def test_reasoning_is_trained_where_the_template_has_a_place_for_it(changed: Any) -> None:
    talk = [TALK[0], Message("assistant", "one", reasoning="hm")]
    with pytest.raises(TemplateError, match="turn 2: the template has no place for its reasoning"):
        render(talk, changed)
    changed.chat_template = REASONS
    assert trained_text(changed, render(talk, changed)[0]) == f"<think>hm</think>one{END}"


def test_a_prompt_that_opens_reasoning_wants_some(changed: Any) -> None:
    changed.chat_template = OPENS
    with pytest.raises(TemplateError, match=r"turn 4: the generation prompt opens a reasoning block .* has no"):
        render(TALK, changed)
    inline = [TALK[0], Message("assistant", "<think>\nhm\n</think>\n\none")]
    assert trained_text(changed, render(inline, changed)[0]) == f"hm\n</think>\n\none{END}"


def test_marks_that_leave_out_the_end_token_are_refused(changed: Any) -> None:
    marked = CHATML.replace("m['content'] + '", "X").replace(
        "X<|im_end|>", "'}}{% generation %}{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>"
    )
    changed.chat_template = marked.replace("'\n' + '}}", "'\n' }}")
    with pytest.raises(TemplateError, match=r"generation marks leave out '<\|im_end\|>'"):
        render(TALK, changed)


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(TemplateError, match="turn 2: the answer is empty"):
        render([Message("user", "u"), Message("assistant", " ")], tokenizer())


def test_what_the_template_writes_before_an_answer_is_trained_too(changed: Any) -> None:
    changed.chat_template = CHATML.replace(
        "m['content']", "('<think></think>' if m['role'] == 'assistant' else '') + m['content']"
    )
    row = render(TALK[:2], changed)[0]
    assert trained_text(changed, row) == f"<think></think>one{END}"


def test_a_batch_gives_each_row_or_its_error_in_order() -> None:
    fast = tokenizer()
    examples = [
        Example("f", 1, tuple(TALK)),
        Example("f", 2, (Message("user", "u"), Message("assistant", " "))),
        Example("f", 3, text="plain words"),
        Example("f", 4, text="a <|im_start|> b"),
    ]
    first, empty, plain, typed = render_batch(examples, fast)
    assert first == render(TALK, fast)
    assert isinstance(empty, TemplateError)
    assert isinstance(plain, list)
    assert fast.decode(plain[0].ids) == f"<s>plain words{END}"
    assert plain[0].trained == [False] + [True] * (len(plain[0].ids) - 1)
    assert isinstance(typed, list)
    assert fast.convert_tokens_to_ids("<|im_start|>") not in typed[0].ids


def test_conversations_without_a_template_stop_at_once(changed: Any) -> None:
    changed.chat_template = None
    with pytest.raises(RecipeError, match="the rows are conversations") as caught:
        render_batch([Example("f", 1, tuple(TALK))], changed)
    assert "model.chat_template" in str(caught.value.fix)


def test_a_prompt_that_is_tokenised_otherwise_within_the_whole_is_refused(changed: Any) -> None:
    """`' answer'` may merge with the prompt's last space: then training would not show what is served."""
    changed.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }} is{% if add_generation_prompt %}"
        "{{ ' t' }}{% endif %}{% else %}{{ ' t' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="tokenising the prompt alone gives other tokens"):
        render([Message("user", "What"), Message("assistant", "he sum of")], changed)


def test_the_prompt_is_what_a_server_renders() -> None:
    fast = tokenizer()
    expected = fast.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=False
    )
    assert render_prompt(TALK[:1], fast) == expected


def test_a_turn_that_the_template_drops_is_not_dropped_in_silence(changed: Any) -> None:
    changed.chat_template = CHATML.replace(
        "{{ '<|im_start|>' + m", "{{ '' if m['role'] == 'system' else '<|im_start|>' + m"
    )
    assert render(TALK, changed)
    with pytest.raises(TemplateError, match=r"leaves out what turn 1 \(system\) says"):
        render([Message("system", "Be kind."), *TALK], changed)


def test_an_end_in_plain_letters_is_no_end(changed: Any) -> None:
    changed.chat_template = CHATML.replace("<|im_end|>", "[done]")
    with pytest.raises(TemplateError, match=r"ends the answer with '\[done\]', which is no token"):
        render(TALK, changed)


@pytest.mark.parametrize("limit", [2, 3, 7, 100])
def test_a_plain_text_is_split_without_losing_a_token(limit: int) -> None:
    fast = tokenizer()
    whole = Example("f", 1, text="What is the sum of one and two? It is three. Name the colour of the sky.")
    ((row,),) = render_batch([whole], fast)  # type: ignore[misc]
    (pieces,) = render_batch([whole], fast, split_at=limit)
    assert isinstance(pieces, list)
    assert all(len(piece.ids) <= limit for piece in pieces)
    joined = pieces[0].ids + [i for piece in pieces[1:] for i in piece.ids[1:]]
    assert joined == row.ids
    assert sum(sum(piece.trained) for piece in pieces) == sum(row.trained)
    talk = Example("f", 2, tuple(TALK))
    assert render_batch([talk], fast, split_at=2) == render_batch([talk], fast)
