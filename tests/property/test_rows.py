"""Whatever lies in a file: rows read are fates given, and nothing but a sentence for the user comes out."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.data import SHAPES, RawRow, convert, curate, read_rows
from luthier.data.shingles import shingle_set
from luthier.data.split import clusters, normalise
from luthier.errors import DataError, RecipeError
from luthier.recipe import build_recipe
from luthier.types import Example, Message

CONTEXT = 400
BLANK = b" \t\r\n"


def make_tokenizer() -> Any:
    vocabulary = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return fast


TOKENIZER = make_tokenizer()


ALONE = {"near_duplicates": None}  # short texts of few letters are near duplicates of one another


def run(content: bytes, suffix: str = ".jsonl", **data: Any) -> tuple[dict[str, Any] | None, list[Any]]:
    """Curate one file; the facts, or None when it was refused with a sentence, and the ledger."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out"
        out.mkdir()
        (folder / f"rows{suffix}").write_bytes(content)
        source = {"path": f"rows{suffix}", "shape": data.pop("shape", "auto")}
        recipe = build_recipe(
            {
                "name": "t",
                "data": {"sources": [source], "max_rejected": 1.0, "curate": ALONE, "split": {"twins": 1.0}, **data},
            }
        )
        facts, refused = None, None
        try:
            facts = curate(recipe, folder, TOKENIZER, CONTEXT, out)
        except (DataError, RecipeError) as error:
            refused = error
        assert refused is None or (refused.what and refused.fix), "an error needs a sentence and a way out"
        ledger = out / "ledger.jsonl"
        lines = ledger.read_text(encoding="utf-8").split("\n")[:-1] if ledger.exists() else []
        return facts, [json.loads(line) for line in lines]


def check(facts: dict[str, Any] | None, ledger: list[Any], rows: int) -> None:
    """Each row has one line in the ledger, with a fate and, unless it was kept, a reason."""
    assert len(ledger) == rows
    assert all(line["fate"] and (line["reason"] or line["fate"] == "kept") for line in ledger)
    if facts is None:
        return
    assert facts["read"] == rows == sum(facts["fates"].values())
    sides = [line["split"] for line in ledger]
    assert [line["fate"] == "kept" for line in ledger] == [side is not None for side in sides]
    for name in ("train", "validation"):
        assert facts[name]["rows"] == sides.count(name) > 0
        assert 0 < facts[name]["trained_tokens"] <= facts[name]["tokens"]
        assert facts[name]["longest"] <= CONTEXT


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "messages conversations role content from value instruction input output system history prompt completion question "
    "answer text"
)
keys = st.sampled_from(KEYS.split())
turns = st.lists(st.dictionaries(keys, json_values, max_size=3) | json_values, max_size=3)
near_rows = st.dictionaries(keys, turns | json_values | st.text(max_size=6), max_size=4)
sound_rows = st.builds(
    lambda q, a: {"question": q, "answer": a}, st.text("abc", min_size=1, max_size=3), st.text("xyz", min_size=1)
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()  # escapes keep lone surrogates in ASCII


lines = st.one_of(
    near_rows.map(encoded),
    sound_rows.map(encoded),
    json_values.map(encoded),
    st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")),
    st.tuples(sound_rows.map(encoded), st.integers(1, 20)).map(lambda p: p[0][: p[1]]),
    st.tuples(sound_rows.map(encoded), st.integers(0, 30), st.binary(min_size=1, max_size=3)).map(
        lambda p: (p[0][: p[1]] + p[2] + p[0][p[1] :]).replace(b"\n", b"")
    ),
    st.sampled_from(
        [
            b"[" * 3000,
            b'{"messages":' * 3000,
            b'{"text": ' + b"1" * 5000 + b"}",
            rb'{"text": "\ud800"}',
            rb'{"question": "\udc00\ud800", "answer": "a"}',
            b'{"text": NaN}',
            b"\0",
            b'\xef\xbb\xbf{"text": "a"}',
            b'{"text": "' + b"a" * 100_000 + b'"}',
            encoded({f"column {i}": i for i in range(2000)}),
            encoded({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 500}),
        ]
    ),
)
endings = st.sampled_from([b"\n", b"\r\n"])


UTF_16 = {b"\xff\xfe": "le", b"\xfe\xff": "be", b"{\0": "le", b"[\0": "le", b"\0{": "be", b"\0[": "be"}


def lines_of(content: bytes) -> list[bytes]:
    """The lines as a person counts them: in UTF-16 where the file is, with carriage returns between rows as ends."""
    kind = UTF_16.get(content[:2])
    if kind and (content[0] in (0xFF, 0xFE)) <= (b"\0" in content[:4]):
        content = content.decode(f"utf-16-{kind}", "replace").encode()
    found: list[bytes] = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        parts = [part.strip() for part in line.rstrip(b"\r").split(b"\r")]
        rows = all(part[:1] + part[-1:] in (b"", b"{}") for part in parts)
        found += parts if rows else [line]
    return found


@given(st.lists(lines, max_size=12), endings, st.sampled_from(["auto", *SHAPES]), st.none() | st.text(max_size=5))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@example([b"\xff\xfe{\0", b'{"text": "a"}'], b"\n", "auto", None)
@example([b'{"text": "a"}', b'{"text": "b"}', b"\xef\xbb\xbf"], b"\n", "auto", "")
def test_rows_in_are_fates_out(rows: list[bytes], ending: bytes, shape: str, system: str | None) -> None:
    content = ending.join(rows)
    facts, ledger = run(content, shape=shape, system=system)
    expected = sum(bool(line.strip(BLANK)) for line in lines_of(content))
    refused_whole = facts is None and not ledger  # no rows at all
    check(facts, ledger, 0 if refused_whole else expected)
    assert not refused_whole or not expected


@given(st.lists(near_rows | sound_rows | json_values, max_size=8), st.booleans(), st.integers(0, 10))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_documents_too(rows: list[Any], wrapped: bool, cut: int) -> None:
    content = encoded({"rows": rows} if wrapped else rows)
    facts, ledger = run(content, ".json")
    check(facts, ledger, len(rows))
    assert run(content[: len(content) - 1 - cut], ".json") == (None, [])


SUFFIXES = ["", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".csv.gz", ".json.zst", ".txt", ".html"]
SUFFIXES += [".pdf", ".docx"]
STARTS = [b"", gzip.compress(b"{}")[:-4], b"PAR1", b"%PDF-1.4\n", b"PK\3\4", b"a,b\n", b"[{"]


@given(st.tuples(st.sampled_from(STARTS), st.binary(max_size=200)).map(b"".join), st.sampled_from(SUFFIXES))
@settings(max_examples=120)
def test_bytes_of_any_kind_end_in_a_sentence(content: bytes, suffix: str) -> None:
    run(content, suffix)


def test_a_hundred_thousand_columns() -> None:
    facts, ledger = run(encoded({f"column {i}": i for i in range(100_000)}) + b'\n{"text": "a"}\n{"text": "b"}\n')
    check(facts, ledger, 3)
    assert "and 99992 more" in ledger[0]["reason"]


letters = st.characters(exclude_categories=["Cs"])
said = st.text(letters, min_size=1, max_size=12).filter(lambda text: text.strip() and "<|" not in text)
pairs = st.lists(st.tuples(said, said), min_size=1, max_size=3)


def as_messages(chat: list[tuple[str, str]]) -> Any:
    roles = ("user", "assistant")
    return {"messages": [{"role": r, "content": c} for pair in chat for r, c in zip(roles, pair, strict=True)]}


def as_sharegpt(chat: list[tuple[str, str]]) -> Any:
    return {
        "conversations": [{"from": r, "value": c} for pair in chat for r, c in zip(("human", "gpt"), pair, strict=True)]
    }


def as_alpaca(chat: list[tuple[str, str]]) -> Any:
    return {
        "instruction": chat[-1][0],
        "input": "",
        "output": chat[-1][1],
        "history": [list(pair) for pair in chat[:-1]],
    }


def as_prompt(chat: list[tuple[str, str]]) -> Any:
    whole = as_messages(chat)["messages"]
    return {"prompt": whole[:-1], "completion": whole[-1:]}


def as_question(chat: list[tuple[str, str]]) -> Any:
    return {"question": chat[0][0], "answer": chat[0][1]}


def as_text(chat: list[tuple[str, str]]) -> Any:
    return {"text": chat[0][0]}


WRITERS: dict[str, Callable[[list[tuple[str, str]]], Any]] = {
    "messages": as_messages,
    "sharegpt": as_sharegpt,
    "alpaca": as_alpaca,
    "prompt_completion": as_prompt,
    "question_answer": as_question,
    "text": as_text,
}


def one_cluster(chats: list[list[tuple[str, str]]], shape: str) -> bool:
    """True when all ask the same or say the same, or belong together through others."""
    sets = [shingle_set("\n\n".join(texts_of(WRITERS[shape](chat)))).tobytes() for chat in chats]
    prompts = [normalise(chat[0][0]) for chat in chats]
    rows = range(len(chats))
    alike = [(i, j) for i in rows for j in rows if prompts[i] == prompts[j] or sets[i] == sets[j]]
    return len(set(clusters(alike).values())) == 1


def texts_of(row: Any) -> list[str]:
    found = convert(RawRow("f", 1, row, None, ""))[1]
    assert isinstance(found, Example)
    return [found.text] if found.text is not None else [turn.content for turn in found.messages]


@given(st.lists(pairs, min_size=2, max_size=6), st.sampled_from(list(WRITERS)), st.booleans(), st.booleans())
@settings(max_examples=120)
def test_sound_conversations_are_kept_in_every_shape(
    chats: list[list[tuple[str, str]]], shape: str, forced: bool, escaped: bool
) -> None:
    content = b"\n".join(json.dumps(WRITERS[shape](chat), ensure_ascii=escaped).encode() for chat in chats)
    facts, ledger = run(content, shape=shape if forced else "auto")
    assert {line["fate"] for line in ledger} <= {"kept", "duplicate"}
    assert len(ledger) == len(chats)
    assert {line["shape"] for line in ledger} == {shape}
    if facts is None:  # the one thing that may still be wrong: all belong together
        assert one_cluster(chats, shape)
    else:
        check(facts, ledger, len(chats))


@given(st.lists(pairs, min_size=1, max_size=4))
@settings(max_examples=40)
def test_content_comes_through_byte_for_byte(chats: list[list[tuple[str, str]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        path.write_bytes(b"\n".join(encoded(as_sharegpt(chat)) for chat in chats))
        for row, chat in zip(read_rows(path, "rows.jsonl"), chats, strict=True):
            found = convert(row)[1]
            assert isinstance(found, Example)
            roles = ("user", "assistant")
            assert found.messages == tuple(Message(r, c) for pair in chat for r, c in zip(roles, pair, strict=True))
            assert Example.from_json(json.loads(json.dumps(found.to_json()))) == found
