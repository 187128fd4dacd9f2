"""A chat template for models that have none, made from two lines of plain text in the recipe.

It becomes the tokenizer's chat template like any other: it is saved with the tuned model, and what is served renders
the same.
"""

from luthier.text.tokenizer import Tokenizer

_TURN = """\
{{%- for message in messages -%}}
{{%- if message['role'] == 'user' -%}}{{{{- {prompt} -}}}}
{{%- elif message['role'] == 'assistant' -%}}{{{{- {completion} + eos_token -}}}}
{system}{{%- else -%}}{{{{- raise_exception('the template has no place for a turn of ' + message['role']) -}}}}
{{%- endif -%}}
{{%- endfor -%}}"""
_SYSTEM = "{{%- elif message['role'] == 'system' -%}}{{{{- {system} -}}}}\n"


def plain_template(
    tokenizer: Tokenizer, prompt: str, completion: str = "{completion}", system: str | None = None
) -> str:
    """The chat template for turns written as plain text, each answer with the tokenizer's end token.

    Args:
        tokenizer: whether a text begins with its begin token is its own custom.
        prompt: how a question is written, with `{prompt}` where its text stands.
        completion: how an answer is written, with `{completion}` at its place.
        system: how a system text is written, with `{system}`; without it such a turn is refused.
    """
    filled = _SYSTEM.format(system=_expression(system, "system")) if system else ""
    turns = _TURN.format(
        prompt=_expression(prompt, "prompt"), completion=_expression(completion, "completion"), system=filled
    )
    begins = tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    return ("{{- bos_token -}}\n" if begins else "") + turns


def _expression(text: str, field: str) -> str:
    """The text as an expression of Jinja, with the message's content in place of the field."""
    before, _, after = text.partition("{" + field + "}")
    parts = [_quoted(before), "message['content']", _quoted(after)]
    return " + ".join(part for part in parts if part != "''")


def _quoted(text: str) -> str:
    return "'" + text.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"
