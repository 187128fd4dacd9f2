"""A model without a chat template: two lines of plain text in the recipe, saved with the model."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from templates import make, served

from luthier.errors import RecipeError
from luthier.recipe import build_recipe
from luthier.text import load_tokenizer, render
from luthier.text.plain import plain_template
from luthier.types import Message

TALK = [
    Message("user", "What is one?"),
    Message("assistant", "three"),
    Message("user", "{{ x }}"),
    Message("assistant", "two"),
]
LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\x00{}"), max_size=6)


@given(before=LETTERS, after=LETTERS)
def test_any_letters_may_stand_around_the_fields(before: str, after: str) -> None:
    fast = make(None, ())
    source = plain_template(fast, before + "{prompt}" + after, "{completion}", "{system}|")
    fast.chat_template = source
    turns = [{"role": m.role, "content": m.content} for m in [Message("system", "s"), *TALK]]
    text = fast.apply_chat_template(turns, tokenize=False)
    expected = "".join(before + m.content + after if m.role == "user" else m.content + "</s>" for m in TALK)
    assert text == "s|" + expected


def test_what_is_saved_renders_what_was_trained(tmp_path: Path) -> None:
    fast = make(None, ())
    fast.chat_template = plain_template(fast, "Q: {prompt}\nA:", " {completion}")
    rows = render(TALK, fast)
    fast.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert render(TALK, again) == rows
    trained = [i for i, t in zip(rows[0].ids, rows[0].trained, strict=True) if t]
    assert fast.decode(trained) == " three</s> two</s>"
    assert served(again, TALK[:1]) == rows[0].ids[: rows[0].trained.index(True)]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"prompt": "Q:"}, r"model.chat_template.prompt needs {prompt} in it, once"),
        ({"prompt": "{prompt}", "completion": "A: {completion}"}, "is the model's to write"),
        ({"prompt": "{prompt}", "system": "s"}, r"model.chat_template.system needs {system} in it"),
        ({"question": "{prompt}"}, "unknown key"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: dict[str, str], said: str) -> None:
    recipe = {"name": "t", "data": {"sources": [{"path": "x.jsonl"}]}, "model": {"chat_template": template}}
    with pytest.raises(RecipeError, match=said):
        build_recipe(recipe)
