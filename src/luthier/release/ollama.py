"""An Ollama Modelfile: the GGUF file, its chat template in Go's language, and where an answer ends.

Ollama does not read Jinja. What the model's template puts before, between and after the turns is found by rendering
conversations with it, written as a Go template, and that is rendered again: it is used only where both give the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.artifact import write_text
from luthier.release import gotemplate
from luthier.release.gguf.reading import facts_of_file
from luthier.text.tokenizer import Tokenizer
from luthier.types import Json

MARKS = ("FIRSTcontentA", "SECONDcontentB", "THIRDcontentC", "FOURTHcontentD")
Render = Callable[[Sequence[Json]], str]


def write_modelfile(folder: Path, file: Path, tokenizer: Tokenizer, stop: Sequence[int], lead: str = "") -> list[str]:
    """Write `Modelfile` beside a GGUF file.

    Args:
        folder: where.
        file: the GGUF file, in the same folder.
        tokenizer: with the chat template.
        stop: ids that end an answer.
        lead: what the file's own template writes before every prompt.

    Returns:
        What the user should know; where the template cannot be said in Go, that, and no file is written.
    """
    begins = bool(facts_of_file(file).get("tokenizer.ggml.add_bos_token"))
    render = _renderer(tokenizer, tokenizer.bos_token if begins else None, lead)
    template, reason = go_template(render)
    if template is None:
        return [f"no Modelfile for Ollama: {reason}"]
    ends = [tokenizer.convert_ids_to_tokens(i) for i in stop]
    lines = [
        f"FROM ./{file.name}",
        f'TEMPLATE """{template}"""',
        *(f"PARAMETER stop {gotemplate.quote(e)}" for e in ends),
    ]
    write_text(folder / "Modelfile", "\n".join(lines) + "\n")
    return [f"Ollama: {reason}"] if reason else []


def _renderer(tokenizer: Tokenizer, begin: str | None, lead: str) -> Render:
    """The prompt of a conversation after its lead; without the begin token where Ollama puts it there itself."""

    def render(messages: Sequence[Json]) -> str:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return lead + (text.removeprefix(begin) if begin else text)

    return render


def go_template(render: Render) -> tuple[str | None, str | None]:
    """The template in Go's language, or None and why not; with it, a note where it differs in small things.

    Args:
        render: the prompt that the model's own template makes of a conversation.
    """
    try:
        template = _written(render)
    except ValueError as error:
        return None, str(error)
    for talk in _talks("hello", "good day"):
        try:
            expected = render(talk)
        except Exception:  # noqa: S112 - the template refuses such a conversation: there is nothing to equal
            continue
        if gotemplate.render(template, talk) != expected:
            return None, "the chat template does more than to put texts between the turns"
    try:
        spaced = render([{"role": "user", "content": "  a  "}])
    except Exception:
        return template, None
    if gotemplate.render(template, [{"role": "user", "content": "  a  "}]) != spaced:
        return template, "the chat template trims white space around a turn; Ollama's does not"
    return template, None


def _talks(*words: str) -> list[list[Json]]:
    """Conversations of one to four turns, with a system text and without."""
    system: Json = {"role": "system", "content": f"Be {words[0]}."}
    turns: list[Json] = [
        {"role": ("user", "assistant")[k % 2], "content": f"{words[k % len(words)]} {k}"} for k in range(5)
    ]
    return [start + turns[:count] for start in ([], [system]) for count in (1, 3, 5)]


def _written(render: Render) -> str:
    """A Go template from what stands around the contents.

    Raises:
        ValueError: the contents are not written as they are, or not in this order.
    """
    user, answer, more, system = ({"role": r, "content": m} for r, m in zip(
        ("user", "assistant", "user", "system"), MARKS, strict=True
    ))  # fmt: skip
    start, end = _around(render([user]), MARKS[:1])
    _, to_answer, to_user, _ = _around(render([user, answer, more]), MARKS[:3])
    begin = None
    try:
        begin, to_first, _ = _around(render([system, user]), (MARKS[3], MARKS[0]))
    except Exception:  # the template has no place for a system text
        to_first = ""
    q = gotemplate.quote
    first = f'{{{{- else if eq $before "system" -}}}}{{{{- {q(to_first)} -}}}}' if begin is not None else ""
    told = (
        f'{{{{- if eq .Role "system" -}}}}{{{{- {q(begin)} -}}}}{{{{- .Content -}}}}{{{{- else '
        if begin is not None
        else "{{- "
    )
    return (
        '{{- $before := "" -}}\n{{- range .Messages -}}\n'
        f'{told}if eq .Role "user" -}}}}\n'
        f'{{{{- if eq $before "" -}}}}{{{{- {q(start)} -}}}}{first}'
        f"{{{{- else -}}}}{{{{- {q(to_user)} -}}}}{{{{- end -}}}}\n"
        "{{- .Content -}}\n"
        f'{{{{- else if eq .Role "assistant" -}}}}{{{{- {q(to_answer)} -}}}}{{{{- .Content -}}}}\n'
        "{{- end -}}\n{{- $before = .Role -}}\n{{- end -}}\n"
        f"{{{{- {q(end)} -}}}}"
    )


def _around(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError("the chat template does not write each turn once, as it is")
        parts.append(before)
    return [*parts, text]
