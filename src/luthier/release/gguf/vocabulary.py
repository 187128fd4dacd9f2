"""A tokenizer as llama.cpp's: tokens with their kinds, merges or scores, and what is put around a text.

What a fast tokenizer does stands in its JSON; from that come one or more candidates, likeliest first. Which one gives
the tokenizer's own ids is for llama.cpp to say (`choose`): nothing is written that was not seen to give equal ids.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from luthier.errors import RecipeError
from luthier.release.gguf.pretokenizers import PROBE, names_for
from luthier.text.tokenizer import Tokenizer

_BYTE = re.compile("<0x[0-9A-F]{2}>")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
FIX = "leave release.gguf out and serve the merged model, or set release.llama_cpp to a llama.cpp checkout"


class Kind(IntEnum):
    """What a token is, by the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What stands in a GGUF file's `tokenizer.ggml` keys.

    `facts` are those with one value. `lead` is put before every prompt by the file's chat template, where llama.cpp
    cannot do itself what the tokenizer does to the beginning of a text alone.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    lead: str = ""

    @property
    def about(self) -> str:
        """In a few words."""
        prefix = self.facts.get("add_space_prefix")
        return f"{self.model}/{self.pre}" + ("" if prefix is None else f", space in front: {'yes' if prefix else 'no'}")


def candidates(tokenizer: Tokenizer, rows: int, stop: Sequence[int], prompts: Sequence[str] = ()) -> list[Vocabulary]:
    """The ways in which llama.cpp might read as the tokenizer does, likeliest first.

    Args:
        tokenizer: a fast one.
        rows: of the embedding; ids without a token are filled up to there.
        stop: ids that end an answer.
        prompts: rendered prompts, where there is a chat template.

    Raises:
        RecipeError: it is of a kind that llama.cpp does not have, or has more tokens than the embedding rows.
    """
    inner = tokenizer.backend_tokenizer
    spec: dict[str, Any] = json.loads(inner.to_str())
    _refuse_unknown(spec)
    kind, model = spec["model"]["type"], spec["model"]
    tokens, kinds = _tokens(tokenizer, spec, rows)
    facts = _facts(tokenizer, stop, prompts)
    if kind == "BPE" and _byte_level(spec):
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        names = names_for(inner)
        if not names:
            raise _cannot("divides a text before merging in a way that llama.cpp does not have")
        return [Vocabulary("gpt2", name, tokens, kinds, None, pairs, facts) for name in names]
    prefixed = _space_in_front(spec)
    orders = [prefixed, not prefixed]
    if kind == "Unigram":
        found = list(_unigram(model, spec, tokens, kinds, facts, orders))
    elif kind == "BPE":
        found = list(_spaced_bpe(model, tokens, kinds, facts, orders))
    else:
        found = []
    if found and _scheme(spec) == "first" and prompts:
        found += [replace(one, lead=" ") for one in found if not one.facts.get("add_space_prefix")]
    if found:
        return found
    raise _cannot(f"is of kind {kind}, which llama.cpp's text models do not have")


def choose(
    found: Sequence[Vocabulary],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    ids: Callable[[Vocabulary, Sequence[str]], list[list[int]] | None],
) -> Vocabulary:
    """The first candidate that gives the tokenizer's ids for every text.

    Args:
        found: candidates.
        tokenizer: the model's.
        texts: rendered prompts and other texts; control tokens in them are read as such.
        ids: llama.cpp's ids of the texts with a candidate, or None where it breaks.

    Raises:
        RecipeError: none does; the best one's first difference is named.
    """
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    best: tuple[int, str] = (-1, "llama.cpp cannot load it")
    for vocabulary in found:
        given = ids(vocabulary, [vocabulary.lead + text for text in texts])
        if given is None:
            continue
        wrong = [k for k, (a, b) in enumerate(zip(expected, given, strict=True)) if a != b]
        if not wrong:
            return vocabulary
        if len(texts) - len(wrong) > best[0]:
            best = len(texts) - len(wrong), _difference(tokenizer, texts[wrong[0]], expected[wrong[0]], given[wrong[0]])
    raise RecipeError(f"llama.cpp does not give this tokenizer's ids: {best[1]}", where="release.gguf", fix=FIX)


def probes(tokenizer: Tokenizer, prompts: Sequence[str] = ()) -> list[str]:
    """Texts that show what tokenizers differ in, those of other scripts one by one.

    What llama.cpp cannot repeat (see `limits`) is left out. A tokenizer that puts a space before the first text only
    is tried as the prompts begin: after a control token, or plain.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    texts = [PROBE, *PROBE.split("\n"), *PROBE.split(" ")[:40], "trailing ", "a  b   c    d", "\n\n"]
    if not _normalises(spec):
        texts.append("decomposed e\N{COMBINING ACUTE ACCENT}, \N{LATIN SMALL LIGATURE FI} ligature")
    ends = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    scheme = _scheme(spec)
    if scheme is None:
        texts += [" leading", "  two", *(f"{end}word {end} word{end}\n" for end in ends[:16])]
    elif scheme == "always":
        texts += [f"{end}word{end}more{end}\n" for end in ends[:16]]
    else:
        begin = next((end for end in ends if prompts and prompts[0].startswith(end)), "")
        texts = [begin + text for text in texts if begin or not text.startswith("\n")]
        texts += [f"{begin}word{end}more{end}\n" for end in ends[:16] if prompts]  # as further turns stand in a prompt
    texts = [text for text in texts if text and (scheme is None or not text.startswith(" "))]
    if _charsmap(spec):
        texts = [text for text in texts if "\r" not in text]
    return [text for text in texts if not _bytes_of_unigram(tokenizer, spec, text)]


def _charsmap(spec: dict[str, Any]) -> bytes | None:
    """SentencePiece's table of replacements."""
    found = (part for part in _parts(spec["normalizer"]) if part["type"] == "Precompiled")
    return next((base64.b64decode(part["precompiled_charsmap"]) for part in found), None)


def _bytes_of_unigram(tokenizer: Tokenizer, spec: dict[str, Any], text: str) -> bool:
    """Whether a text has letters for which the tokenizer has only bytes, which llama.cpp's Unigram cannot write."""
    if not _unigram_with_bytes(spec):
        return False
    return any(_BYTE.fullmatch(token) for token in tokenizer.tokenize(text))


def _unigram_with_bytes(spec: dict[str, Any]) -> bool:
    return spec["model"]["type"] == "Unigram" and bool(spec["model"].get("byte_fallback"))


def limits(tokenizer: Tokenizer, chosen: Vocabulary) -> list[str]:
    """What of the tokenizer llama.cpp does not repeat with the vocabulary that was chosen."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    notes = []
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    if begins and not chosen.facts["add_bos_token"]:
        notes.append(
            f"llama.cpp begins no text with {tokenizer.bos_token}, as the chat template does not: plain texts "
            "have to be given with it"
        )
    if chosen.model == "t5" and _unigram_with_bytes(spec):
        notes.append(
            "llama.cpp has no single bytes beside this kind of tokenizer (Unigram): letters outside its "
            f"vocabulary are {tokenizer.unk_token} there, so use the file for texts like the prompts that were compared"
        )
    if chosen.lead:
        notes.append(
            "the file's chat template writes a space before the prompt, where the tokenizer puts one before "
            "the first text only; plain texts have to be given with it"
        )
    elif _scheme(spec) == "first":
        notes.append("the tokenizer puts a space before the first text only: the file does it as the prompts need it")
    if _scheme(spec) is not None and (chosen.lead or chosen.facts.get("add_space_prefix")):
        notes.append("llama.cpp puts a second space before a text that begins with one; the tokenizer does not")
    if _charsmap(spec):
        notes.append("llama.cpp reads a carriage return before a line feed as a space of its own")
    if _normalises(spec) and spec["model"]["type"] == "BPE":
        notes.append("the tokenizer composes characters written in parts (NFC); llama.cpp does not")
    return notes


def _scheme(spec: dict[str, Any]) -> str | None:
    """When `Metaspace` puts a space before a text that has none; None where it does not, or a normaliser does."""
    for part in [*_parts(spec["normalizer"]), *_parts(spec["pre_tokenizer"])]:
        if part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            return str(part.get("prepend_scheme", "always"))
    return None


def _difference(tokenizer: Tokenizer, text: str, expected: list[int], given: list[int]) -> str:
    at = next(
        (k for k, (a, b) in enumerate(zip(expected, given, strict=False)) if a != b), min(len(expected), len(given))
    )
    here, there = (tokenizer.convert_ids_to_tokens(ids[at : at + 3]) for ids in (expected, given))
    return f"{text[:40]!r} begins to differ at token {at}: {here} here, {there} there"


def _refuse_unknown(spec: dict[str, Any]) -> None:
    for token in spec["added_tokens"]:
        if token["lstrip"] or token["single_word"]:
            raise _cannot(f"strips what stands before '{token['content']}', which llama.cpp does not")


def _cannot(what: str) -> RecipeError:
    return RecipeError(f"the tokenizer {what}", where="release.gguf", fix=FIX)


def _parts(section: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A normalizer or pre-tokenizer and those inside it."""
    if not section:
        return
    if section["type"] == "Sequence":
        for part in section.get("pretokenizers") or section.get("normalizers") or ():
            yield from _parts(part)
    else:
        yield section


def _byte_level(spec: dict[str, Any]) -> bool:
    found = [part for part in _parts(spec["pre_tokenizer"]) if part["type"] == "ByteLevel"]
    if any(part["add_prefix_space"] for part in found):
        raise _cannot("puts a space before every text, which llama.cpp's byte-level one does not")
    return bool(found)


def _normalises(spec: dict[str, Any]) -> bool:
    return any(part["type"] in ("NFC", "NFKC", "NFD", "NFKD", "Precompiled") for part in _parts(spec["normalizer"]))


def _space_in_front(spec: dict[str, Any]) -> bool:
    for part in [*_parts(spec["normalizer"]), *_parts(spec["pre_tokenizer"])]:
        if part["type"] == "Prepend":
            return True
        if part["type"] == "Metaspace":
            return bool(part.get("prepend_scheme", "always") != "never")
    return False


def _tokens(tokenizer: Tokenizer, spec: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Every id's text and kind; ids without a token get a name that no text contains."""
    vocabulary = {i: token for token, i in tokenizer.get_vocab().items()}
    if max(vocabulary) >= rows:
        raise _cannot(f"has {max(vocabulary) + 1:,} tokens, and the model {rows:,} embeddings")
    tokens = [vocabulary.get(i, f"[PAD{i}]") for i in range(rows)]
    kinds = [int(Kind.NORMAL if i in vocabulary else Kind.UNUSED) for i in range(rows)]
    if spec["model"].get("byte_fallback"):
        for value in range(256):
            if (i := tokenizer.get_vocab().get(f"<0x{value:02X}>")) is not None:
                kinds[i] = Kind.BYTE
    for added in spec["added_tokens"]:
        kinds[added["id"]] = int(Kind.CONTROL if added["special"] else Kind.USER_DEFINED)
        if not added["special"]:
            tokens[added["id"]] = added["content"].replace(SPACE, " ")
    unknown = tokenizer.unk_token_id
    if unknown is not None and not _byte_level_quietly(spec):
        kinds[unknown] = int(Kind.UNKNOWN)
    return tokens, kinds


def _byte_level_quietly(spec: dict[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(spec["pre_tokenizer"]))


def _facts(tokenizer: Tokenizer, stop: Sequence[int], prompts: Sequence[str]) -> dict[str, Any]:
    """Ids of the tokens with a role. Without a begin or end token llama.cpp would take ids of its own for them.

    llama.cpp puts the begin token before every text or none, prompts of chats too; a tokenizer leaves those as the
    template writes them. So the prompts decide, where there are some.
    """
    ends = list(dict.fromkeys([i for i in (tokenizer.eos_token_id, *stop) if i is not None]))
    begins = tokenizer.bos_token_id
    plain = tokenizer("a")["input_ids"]
    facts: dict[str, Any] = {
        "add_bos_token": begins is not None and plain[:1] == [begins] and _may_begin(tokenizer.bos_token, prompts),
        "add_eos_token": False,  # an answer that begins after the end is none
    }
    if ends:
        facts["eos_token_id"] = ends[0]
        facts["bos_token_id"] = begins if begins is not None else ends[0]
    elif begins is not None:
        facts["bos_token_id"] = facts["eos_token_id"] = begins
    facts |= dict(zip(("eot_token_id", "eom_token_id"), ends[1:], strict=False))
    if tokenizer.pad_token_id is not None:
        facts["padding_token_id"] = tokenizer.pad_token_id
    if tokenizer.unk_token_id is not None:
        facts["unknown_token_id"] = tokenizer.unk_token_id
    return facts


def _may_begin(bos: str, prompts: Sequence[str]) -> bool:
    """Whether the begin token before every text leaves the prompts as they are: they begin with it, or are none."""
    return all(prompt.startswith(bos) for prompt in prompts)


def _spaced_bpe(
    model: dict[str, Any], tokens: list[str], kinds: list[int], facts: dict[str, Any], orders: list[bool]
) -> Iterator[Vocabulary]:
    """BPE over text with visible spaces: by scores, as SentencePiece merges, or by its merges where no space leads."""
    if not model.get("byte_fallback"):
        raise _cannot("has no tokens for single bytes, so llama.cpp breaks at an unknown character")
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    worst = float(len(pairs) + 1)
    scores = [-float(ranks[t]) if t in ranks else -worst for t in tokens]
    for prefix in orders:
        yield Vocabulary("llama", "default", tokens, kinds, scores, None, facts | {"add_space_prefix": prefix})
    merges = [" ".join(pair) for pair in pairs]
    yield Vocabulary("gpt2", "sarvam-moe", tokens, kinds, None, merges, facts)


def _unigram(
    model: dict[str, Any], spec: dict[str, Any], tokens: list[str], kinds: list[int], facts: dict[str, Any],
    orders: list[bool],
) -> Iterator[Vocabulary]:  # fmt: skip
    """The likeliest division by the tokens' log-probabilities, with SentencePiece's table of replacements."""
    known = {token: float(score) for token, score in model["vocab"]}
    least = min(known.values()) - 10
    scores = [known.get(token, least) for token in tokens]
    more: dict[str, Any] = {"remove_extra_whitespaces": _merges_spaces(spec)}
    if charsmap := _charsmap(spec):
        more["precompiled_charsmap"] = list(charsmap)
    for prefix in orders:
        made = Vocabulary("t5", "default", tokens, kinds, scores, None, facts | more | {"add_space_prefix": prefix})
        yield made
        if model.get("byte_fallback"):
            yield replace(made, model="llama", facts=facts | {"add_space_prefix": prefix})


def _merges_spaces(spec: dict[str, Any]) -> bool:
    for part in _parts(spec["normalizer"]):
        if part["type"] == "Replace" and (pattern := part["pattern"].get("Regex")) and not pattern.strip(" {2,}+"):
            return True
        if part["type"] == "Strip" and part.get("strip_left"):
            return True
    return False
