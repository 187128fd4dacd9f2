"""llama.cpp as a witness of a GGUF file: its own template, tokenizer, probabilities and answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.release.gguf.vocabulary import Vocabulary
from luthier.release.llama import ask
from luthier.release.parity.testimony import PLAIN, POSITIONS, PROBABLE, Probe, Said, Testimony, controls_of, put_around
from luthier.text import read_answer
from luthier.text.tokenizer import Tokenizer


def summon_llama_cpp(
    file: Path,
    probes: Sequence[Probe],
    most: int,
    forced: Sequence[list[int]],
    tokenizer: Tokenizer,
    stop: Sequence[int],
    *,
    lora: Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Testimony:
    """What llama.cpp says of a GGUF file.

    Args:
        file: the model.
        probes: the prompts.
        most: tokens that an answer may have.
        forced: answers after whose tokens probabilities are taken.
        tokenizer: the trained one, for the text of the answers.
        stop: ids that end an answer.
        lora: a GGUF adapter to apply; the file is its base then, whose template is not asked.
        vocabulary: what the file was written with; None where a converter wrote it.

    Raises:
        Missing: xllamacpp is not installed.
        ParityFailed: llama.cpp cannot use the file.
    """
    chat = bool(probes) and probes[0].messages is not None and lora is None
    room = max(len(p.ids) for p in probes) + max(most, POSITIONS) + 8
    questions: list[dict[str, Any]] = [{"do": "tokenize", "text": PLAIN, "special": on} for on in (False, True)]
    for p, answer in zip(probes, forced, strict=True):
        asked = {"do": "score", "prompt": p.ids, "answer": answer[: POSITIONS - 1], "probable": PROBABLE}
        questions += [asked, {"do": "write", "prompt": p.ids, "most": most}]
    for p in probes if chat else ():
        questions.append({"do": "chat", "messages": p.messages})
    told = ask(file, questions, context=room, lora=lora)
    scored, written = told[2 : 2 * len(probes) + 2 : 2], told[3 : 2 * len(probes) + 2 : 2]
    read = told[2 * len(probes) + 2 :]
    around, lead = put_around(told[0], told[1]), vocabulary.lead if vocabulary else ""
    bare = vocabulary is not None and not vocabulary.facts["add_bos_token"] and around == [[], []]
    return Testimony(
        rendered=[_as_written(one["text"], one["ids"], tokenizer, lead) for one in read] if chat else None,
        ids=[one["ids"] for one in read] if chat else None,
        around=None if bare else around,  # the file was meant to put nothing there, whatever the tokenizer does
        controls=controls_of(tokenizer) if lora else _controls(file),
        answers=[_said(one, tokenizer, stop) for one in written],
        scores=[[{int(i): p for i, p in place.items()} for place in row] for row in scored],
    )


def _said(told: dict[str, Any], tokenizer: Tokenizer, stop: Sequence[int]) -> Said:
    ids: list[int] = list(told["ids"])
    end = next((k for k, token in enumerate(ids) if token in stop), None)
    kept = ids if end is None else ids[:end]
    return Said(kept, read_answer(kept, tokenizer), end is not None)


def _as_written(text: str, ids: list[int], tokenizer: Tokenizer, lead: str) -> str:
    """The text without the file's lead, and with the begin token that llama.cpp takes off it and puts back as an id."""
    begin, text = tokenizer.bos_token, text.removeprefix(lead)
    return begin + text if begin and ids[:1] == [tokenizer.bos_token_id] and not text.startswith(begin) else text


def _controls(file: Path) -> dict[str, str]:
    """Control tokens and roles as the file has them."""
    from luthier.release.gguf.reading import facts_of_file

    facts = facts_of_file(file)
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    found = {str(i): tokens[i] for i, kind in enumerate(kinds) if kind in (2, 3, 4)}
    for role in ("bos", "eos"):
        if (i := facts.get(f"tokenizer.ggml.{role}_token_id")) is not None and i < len(tokens):
            found[role] = tokens[i]
    return found
