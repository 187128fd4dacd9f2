# ruff: noqa: RUF001 - published control tokens have full-width bars
"""Chat templates in the styles that published models have, and tokenizers of the three usual kinds, for tests of text.

Each style says how it writes an answer and what ends it; the templates are short ones of our own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from luthier.types import Message

TEXT = [
    "What is the sum of one and two? It is three.",
    "Name the colour of the sky: blue. The user asked the assistant for a model.",
    "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:;!?'()[]{}<>|/\\\n\t",
] * 3
BOS = "{{ bos_token }}"
HEAD = "{% for m in messages %}"
TAIL = "{% endfor %}"
ASK = "{% if add_generation_prompt %}"
ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)


def same(text: str) -> str:
    """Templates that write the answer as it is."""
    return text


@dataclass(frozen=True)
class Style:
    """A template, the tokens it writes, what it makes of an answer, and what ends one."""

    source: str
    controls: tuple[str, ...]
    end: str
    answer: Callable[[str], str] = same
    system: bool = True
    bos: str = "<s>"
    eos: str | None = None
    """The tokenizer's end token where it is another one."""
    parts: bool = False
    """Content has to be a list of parts."""
    rows: int = 1
    """Rows of a conversation with two answers."""


STYLES = {
    "llama2": Style(
        "{% if messages and messages[0].role == 'system' %}{% set sys = '<<SYS>>\n' + messages[0].content"
        " + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}"
        + HEAD
        + ALTERNATE
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first else '') }}"
        "{{ m.content|trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content|trim + ' ' + eos_token }}{% endif %}" + TAIL,
        (),
        "</s>",
        lambda a: f" {a.strip()} ",
    ),
    "llama3": Style(
        HEAD + "{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
        "m.content|trim + '<|eot_id|>' }}"
        + TAIL
        + ASK
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        str.strip,
    ),
    "chatml": Style(
        HEAD
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        + TAIL
        + ASK
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
    ),
    "mistral": Style(  # the system text stands in the last question, wherever that is
        "{% if messages and messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}"
        + BOS
        + HEAD
        + "{% if m.role == 'user' %}{{ '[INST] ' + (sys if loop.last else '') + m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}" + TAIL,
        ("[INST]", "[/INST]"),
        "</s>",
        lambda a: f" {a}",
    ),
    "gemma": Style(
        BOS
        + "{% if messages and messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + HEAD
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ m.content|trim + '<end_of_turn>\n' }}" + TAIL + ASK + "{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        str.strip,
        system=False,
    ),
    "phi": Style(  # one more token ends the conversation
        HEAD
        + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        eos="<|endoftext|>",
    ),
    "zephyr": Style(
        HEAD + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% if loop.last and add_generation_prompt %}"
        "{{ '<|assistant|>\n' }}{% endif %}" + TAIL,
        ("<|system|>", "<|user|>", "<|assistant|>"),
        "</s>",
    ),
    "deepseek": Style(  # with full-width bars
        BOS
        + HEAD
        + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}"
        + TAIL
        + ASK
        + "{{ '<｜Assistant｜>' }}{% endif %}",
        ("<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>",
    ),
    "strips": Style(
        HEAD
        + "{{ '<|' + m.role + '|>' + m.content.strip() + '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|assistant|>' }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        str.strip,
    ),
    "reasons": Style(  # an empty reasoning block in the last answer, none in earlier ones
        "{% set last = namespace(at=-1) %}"
        + HEAD
        + "{% if m.role == 'user' %}{% set last.at = loop.index0 %}{% endif %}"
        + TAIL
        + HEAD
        + "{% if m.role == 'assistant' and loop.index0 > last.at %}{{ '<|im_start|>assistant\n<think>\n' + "
        "(m.reasoning_content or '') + '\n</think>\n\n' + m.content + '<|im_end|>\n' }}{% else %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
        + TAIL
        + ASK
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        lambda a: f"<think>\n\n</think>\n\n{a}",
        rows=2,
    ),
    "closed_reasoning": Style(  # the prompt brings an empty block that the conversation leaves out
        HEAD
        + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        + TAIL
        + ASK
        + "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        rows=2,
    ),
    "raises": Style(
        BOS
        + HEAD
        + "{% if m.role not in ['user', 'assistant', 'system'] %}{{ raise_exception('unknown role ' + m.role) }}"
        "{% endif %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|assistant|>' }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
    ),
    "dated": Style(
        BOS
        + "{{ '<|system|>Today: ' + strftime_now('%d %b %Y') + '<|end|>' }}"
        + HEAD
        + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|assistant|>' }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
    ),
    "marked": Style(
        HEAD + "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        + TAIL
        + ASK
        + "{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
    ),
    "role_ends": Style(  # the next turn's token ends the answer
        BOS + HEAD + "{{ '<|' + m.role + '|>\n' + m.content }}" + TAIL + ASK + "{{ '<|assistant|>\n' }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>"),
        "<|user|>",
        eos="<|user|>",
    ),
    "late_end": Style(  # the end token is written when the next turn begins
        BOS
        + HEAD
        + "{% if m.role == 'user' %}{{ (eos_token if loop.index0 > 1 else '') + 'USER: ' + m.content + ' ASSISTANT:' }}"
        "{% elif m.role == 'system' %}{{ m.content + '\n' }}{% else %}{{ ' ' + m.content }}{% endif %}" + TAIL,
        (),
        "</s>",
        lambda a: f" {a}",
    ),
    "no_end": Style(  # plain words, no token at all: the tokenizer's end token has to be learned
        HEAD + "{{ m.role + ': ' + m.content + '\n\n' }}" + TAIL + ASK + "{{ 'assistant:' }}{% endif %}",
        (),
        "</s>",
        lambda a: f" {a}",
        rows=2,
    ),
    "always_asks": Style(  # begins the next answer whether that is asked for or not
        HEAD + "{{ '<|start|><|' + m.role + '|>' + m.content + '<|stop|>' }}" + TAIL + "{{ '<|start|><|assistant|>' }}",
        ("<|start|>", "<|stop|>", "<|system|>", "<|user|>", "<|assistant|>"),
        "<|stop|>",
    ),
    "channels": Style(  # the model writes the name of a channel; the last turn ends otherwise
        HEAD
        + "{{ '<|start|>' + m.role + ('<|channel|>final' if m.role == 'assistant' else '') }}"
        + "{{ '<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|start|>assistant' }}{% endif %}",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
        "<|return|>",
        lambda a: f"<|channel|>final<|message|>{a}",
        rows=2,
    ),
    "parts": Style(  # content is a list of parts
        BOS
        + HEAD
        + "{{ '<|' + m.role + '|>' }}{% for p in m.content %}{{ p['text'] }}{% endfor %}{{ '<|end|>' }}"
        + TAIL
        + ASK
        + "{{ '<|assistant|>' }}{% endif %}",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        parts=True,
    ),
}
TOOLS_SOURCE = (
    "{% if tools %}{{ '<|system|>' + tools|tojson + '<|end|>' }}{% endif %}"
    + HEAD
    + "{% if m.tool_calls %}{{ '<|assistant|>' + (m.content or '') }}{% for c in m.tool_calls %}"
    "{{ '<|call|>' + c.function.name + ' ' + c.function.arguments|tojson }}{% endfor %}{{ '<|end|>' }}"
    "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}"
    + TAIL
    + ASK
    + "{{ '<|assistant|>' }}{% endif %}"
)
KINDS = ("bytes", "sentencepiece", "metaspace", "wordpiece")
LOSSLESS = ("bytes",)


@cache
def tokenizer(style: str = "chatml", kind: str = "bytes") -> Any:
    """A tokenizer of one kind with the template and the control tokens of one style."""
    found = STYLES[style]
    eos = found.eos or found.end
    return make(found.source, found.controls, bos=found.bos, eos=eos, kind=kind)


def make(
    source: str | None, controls: tuple[str, ...], *, bos: str = "<s>", eos: str = "</s>", kind: str = "bytes"
) -> Any:
    """A tokenizer of one kind with any template."""
    inner = {"bytes": _bytes, "sentencepiece": _sentencepiece, "metaspace": _metaspace, "wordpiece": _wordpiece}[kind]()
    named = dict.fromkeys(["<pad>", bos, eos, *controls])
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token="<pad>")
    fast.chat_template = source
    return fast


def _bytes() -> Tokenizer:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    )
    return inner


def _sentencepiece() -> Tokenizer:
    """BPE over the whole text with blanks as letters and bytes for what is unknown, as Llama 2 and Mistral have."""
    spaced = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.normalizer = spaced
    trainer = trainers.BpeTrainer(
        vocab_size=240, special_tokens=["<unk>"], min_frequency=2, show_progress=False, max_token_length=6
    )
    learned.train_from_iterator(TEXT, trainer)
    import json

    model = json.loads(learned.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    merges = [tuple(merge) for merge in model["merges"]]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = spaced
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return inner


def _metaspace() -> Tokenizer:
    """BPE within words that keep their blank, the first one given one, as converted SentencePiece models have."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=260, special_tokens=["<unk>"], min_frequency=1, show_progress=False)
    )
    return inner


def _wordpiece() -> Tokenizer:
    """Words in lower case and their parts, as BERT has; white space is lost."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=260, special_tokens=["[UNK]"], show_progress=False)
    )
    return inner


def served(fast: Any, messages: list[Message], *, parts: bool = False, **more: Any) -> list[int]:
    """The prompt that transformers itself makes of a conversation, typed control tokens kept as text."""
    turns = [plain(message) for message in messages]
    if parts:
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    found = fast.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True, **more
    )
    return list(found)


def plain(message: Message) -> dict[str, Any]:
    """A turn as chat APIs write it."""
    turn = message.to_json()
    if "reasoning" in turn:
        turn["reasoning_content"] = turn.pop("reasoning")
    turn.pop("train", None)
    return turn


def stretches(row: Any) -> list[tuple[int, list[int]]]:
    """The trained stretches of a row: where each starts, and its ids."""
    found: list[tuple[int, list[int]]] = []
    for place, (token, trained) in enumerate(zip(row.ids, row.trained, strict=True)):
        if trained and (not place or not row.trained[place - 1]):
            found.append((place, []))
        if trained:
            found[-1][1].append(token)
    return found
