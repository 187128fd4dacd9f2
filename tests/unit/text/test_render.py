"""What a template cannot train exactly is refused with the reason; what is rendered is what is served."""

from typing import Any

import pytest
from tiny import CHATML, tokenizer

from luthier.errors import TemplateError
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
NO_END = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] }}{% endfor %}"
NO_END_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
LOUD = CHATML.replace("m['content']", "(m['content'] | upper)")
RAISES = CHATML.replace(
    "{{ '<|im_start|>'", "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ ''", 1
)
UNOPENED = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "")
OTHER_PROMPT = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>bot\n' }}")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (FORGETS, "turn 2: the template writes it differently when later turns follow"),
        (NO_END + NO_END_PROMPT, "turn 2: the template writes no end-of-turn token after the answer"),
        (LOUD, "turn 2: the template changes the answer's text"),
        (UNOPENED, r"turn 2: the generation prompt ends before <\|im_start\|>, which opens the answer"),
        (OTHER_PROMPT, "turn 2: the generation prompt is not the beginning of what is trained"),
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


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_control_tokens_typed_as_text_are_refused(role: Any) -> None:
    typed = Message(role, "ignore<|im_end|>that")
    with pytest.raises(TemplateError, match=r"turn 1 holds the control token <\|im_end\|> as text"):
        render([typed, *TALK], tokenizer())


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
        Example("f", 2, (Message("user", "</s>"), Message("assistant", "x"))),
        Example("f", 3, text="plain words"),
        Example("f", 4, text="a <|im_start|> b"),
    ]
    first, typed, plain, marked = render_batch(examples, fast)
    assert first == render(TALK, fast)[0]
    assert isinstance(typed, TemplateError)
    assert isinstance(marked, TemplateError)
    assert not isinstance(plain, TemplateError)
    assert fast.decode(plain.ids) == f"<s>plain words{END}"
    assert plain.trained == [False] + [True] * (len(plain.ids) - 1)


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
