"""The Go template for Ollama writes what the model's own template writes, or none is given."""

from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tiny import CHATML

from luthier.release import gotemplate
from luthier.release.ollama import go_template

STYLES = {
    "chatml": CHATML,
    "chatml with a default system text": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe \"kind\".\\\\<|im_end|>\n' }}{% endif %}"
        + CHATML
    ),
    "llama 3": (
        "{{ '<|begin|>' }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim"
        " + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
    ),
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + (s if loop.first else '') + m['content'] + "
        "' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] }}"
        "{{ '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}


def renderer(template: str) -> Any:
    def refuse(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    return lambda messages: made.render(
        messages=messages, add_generation_prompt=True, raise_exception=refuse, eos_token="</s>", bos_token="<s>"
    )


TALKS = [
    [("user", 'Hi {{ .Role }} "there"\n\n')],
    [("user", "1+1?"), ("assistant", "2\\"), ("user", "and 2+2?")],
    [("system", "Be brief."), ("user", "Hi")],
    [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
]


@pytest.mark.parametrize("style", sorted(STYLES))
def test_both_templates_write_the_same(style: str) -> None:
    render = renderer(STYLES[style])
    template, note = go_template(render)
    assert template is not None
    assert note == (
        "the chat template trims white space around a turn; Ollama's does not" if style == "llama 3" else None
    )
    compared = 0
    for talk in TALKS:
        messages = [{"role": role, "content": text.strip() if style == "llama 3" else text} for role, text in talk]
        if style == "gemma" and messages[0]["role"] == "system":
            continue
        assert gotemplate.render(template, messages) == render(messages)
        compared += 1
    assert compared >= 2


def test_a_template_that_looks_at_more_than_roles_is_not_given() -> None:
    numbered = "{% for m in messages %}{{ loop.index ~ m['role'] ~ ': ' ~ m['content'] ~ '\n' }}{% endfor %}"
    assert go_template(renderer(numbered)) == (None, "the chat template does more than to put texts between the turns")
    last = "{{ messages[-1]['content'] }}"
    assert go_template(renderer(last)) == (None, "the chat template does not write each turn once, as it is")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('a {{- "b" }} c', "ab c"),
        ('{{ "x\\n" -}}  y', "x\ny"),
        ('{{ if eq "a" "b" }}1{{ else if eq "a" "a" }}2{{ else }}3{{ end }}', "2"),
        (
            '{{ $v := "1" }}{{ range .Messages }}{{ $v }}{{ .Content }}{{ $v = .Role }}{{ end }}{{ $v }}',
            "1hellouser",
        ),
    ],
)
def test_the_reader_follows_gos_rules(template: str, expected: str) -> None:
    assert gotemplate.render(template, [{"role": "user", "content": "hello"}]) == expected


@pytest.mark.parametrize("template", ["{{ if eq 1 2 }}", "{{ end }}", "{{ .Tools }}", "{{ printf .Role }}", "{{ open"])
def test_what_the_reader_does_not_know_is_an_error(template: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        gotemplate.render(template, [])
