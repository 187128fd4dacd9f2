"""Scorers: how good an answer is, between 0 and 1. Adding one is a function and a line in `SCORERS`.

| scorer | source |
| --- | --- |
| squad_em, f1 | Rajpurkar et al. 2016: lower case, no punctuation, no articles; the best of all references |
| rouge | Lin 2004, through the package rouge-score, with stemming |
| bleu | Papineni et al. 2002, through the package sacrebleu (13a tokens), summed over the corpus |
"""

import inspect
import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

from luthier.errors import Missing, RecipeError
from luthier.evaluate.items import Item, Scorer
from luthier.types import Score

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+(?:[eE][+-]?\d+)?")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_FENCE = re.compile(r"```(?:\w+)?\s*\n(.*?)```", re.DOTALL)
NO_ANSWER = Score(0.0, "empty")
NOT_PARSED = Score(0.0, "unparsed")


def exact_match(answer: str, item: Item) -> Score:
    """1 when the answer is an expected one, but for white space at both ends."""
    if not answer.strip() and item.expected.strip():
        return NO_ANSWER
    return Score(float(any(answer.strip() == right.strip() for right in item.right)))


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and articles, single blanks."""
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def squad_em(answer: str, item: Item) -> Score:
    """1 when the normal forms are equal."""
    if not answer.strip():
        return NO_ANSWER
    return Score(float(any(normalise(answer) == normalise(right) for right in item.right)))


def f1(answer: str, item: Item) -> Score:
    """Harmonic mean of precision and recall over words of the normal form; the part `em` is the exact match."""
    if not answer.strip():
        return Score(0.0, "empty", {"em": 0.0})
    return Score(max(_f1(answer, right) for right in item.right), parts={"em": squad_em(answer, item).value})


def _f1(answer: str, right: str) -> float:
    given, wanted = normalise(answer).split(), normalise(right).split()
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def final_number(answer: str, item: Item) -> Score:
    """1 when the last number, after `####` where there is one, is the expected one; so grade-school-math is scored."""
    return number(answer, item)


def number(answer: str, item: Item, *, relative: float = 0.0, absolute: float = 0.0) -> Score:
    """1 when the last number is within `absolute` or `relative` (a share of the expected one) of the expected one."""
    if not answer.strip():
        return NO_ANSWER
    found = _last_number(answer)
    if found is None:
        return NOT_PARSED
    wanted = [x for right in item.right if (x := _last_number(right)) is not None]
    return Score(float(any(math.isclose(found, x, rel_tol=relative, abs_tol=absolute) for x in wanted)))


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(text.rpartition("####")[2])
    return float(numbers[-1].replace(",", "")) if numbers else None


def contains(answer: str, item: Item, *, ignore_case: bool = True) -> Score:
    """1 when an expected text stands somewhere in the answer."""
    if not answer.strip():
        return NO_ANSWER
    fold: Callable[[str], str] = str.casefold if ignore_case else str
    return Score(float(any(fold(right) in fold(answer) for right in item.right if right)))


def regex(answer: str, item: Item, *, pattern: str | None = None) -> Score:
    """1 when the pattern, the item's expected text unless one is given, is found.

    A pattern with a group gives what the group caught, compared with the expected text; an answer without it is
    unparsed.
    """
    if not answer.strip():
        return NO_ANSWER
    try:
        found = re.search(pattern or item.expected, answer)
    except re.error as error:
        raise RecipeError(f"not a regular expression: {error}", where=f"item {item.id}", fix="mend it") from error
    if pattern is None or not re.compile(pattern).groups:
        return Score(float(found is not None))
    if found is None:
        return NOT_PARSED
    return Score(float((found[1] or "").strip() in {right.strip() for right in item.right}))


def parse_json(answer: str) -> Any:
    """The JSON value of an answer: the whole of it, or its one fenced block.

    Raises:
        ValueError: there is none.
    """
    blocks = _FENCE.findall(answer)
    return json.loads(blocks[0] if len(blocks) == 1 else answer)


def json_equal(answer: str, item: Item) -> Score:
    """1 when the answer is JSON equal to the expected value; the part `fields` is the share of its fields."""
    if not answer.strip():
        return NO_ANSWER
    try:
        found, wanted = parse_json(answer), json.loads(item.expected)
    except ValueError:
        return Score(0.0, "unparsed", {"fields": 0.0})
    fields = float(found == wanted)
    if isinstance(found, dict) and isinstance(wanted, dict) and wanted:
        names = found.keys() | wanted.keys()
        fields = sum(name in found and name in wanted and found[name] == wanted[name] for name in names) / len(names)
    return Score(float(found == wanted), parts={"fields": fields})


def json_schema(answer: str, item: Item, *, schema: dict[str, Any] | None = None) -> Score:
    """1 when the answer is JSON that fits the schema, the item's own where it has one; what is no JSON is unparsed.

    Raises:
        Missing: the package jsonschema is not installed.
        RecipeError: there is no schema, or it is none.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise _needs("json_schema", "jsonschema") from error
    rules = item.more.get("schema", schema)
    if rules is None:
        raise RecipeError("json_schema has no schema", where=f"item {item.id}", fix="give one in the task or the item")
    if not answer.strip():
        return NO_ANSWER
    try:
        value = parse_json(answer)
    except ValueError:
        return NOT_PARSED
    try:
        kind = validator_for(rules)
        kind.check_schema(rules)
    except SchemaError as error:
        raise RecipeError(f"not a JSON Schema: {error.message}", where=f"item {item.id}", fix="mend it") from error
    return Score(float(kind(rules).is_valid(value)))


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _needs("rouge", "rouge-score") from error
    return RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)


def rouge(answer: str, item: Item, *, kind: Literal["rouge1", "rouge2", "rougeLsum"] = "rougeLsum") -> Score:
    """F-measure of ROUGE over the best reference of each kind; all three are parts. Lines are sentences to Lsum.

    Raises:
        Missing: the package rouge-score is not installed.
    """
    found = _rouge().score_multi(list(item.right), answer)
    parts = {name: float(value.fmeasure) for name, value in found.items()}
    return Score(parts[kind], "scored" if answer.strip() else "empty", parts)


@cache
def _bleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise _needs("bleu", "sacrebleu") from error
    return BLEU(effective_order=True)


BLEU_PARTS = ("length", "reference", *(f"correct{n}" for n in range(1, 5)), *(f"total{n}" for n in range(1, 5)))
"""What corpus BLEU is computed from; the parts of a sentence, to be summed."""


def bleu(answer: str, item: Item) -> Score:
    """BLEU of the sentence, 0 to 1, with the counts that corpus BLEU sums; the metric is that of the corpus.

    Raises:
        Missing: the package sacrebleu is not installed.
    """
    found = _bleu().sentence_score(answer, list(item.right))
    counts = (found.sys_len, found.ref_len, *found.counts, *found.totals)
    parts = dict(zip(BLEU_PARTS, map(float, counts), strict=True))
    return Score(found.score / 100, "scored" if answer.strip() else "empty", parts)


def _needs(scorer: str, package: str) -> Missing:
    return Missing(f"the scorer '{scorer}' needs {package}", where="evaluate", fix="pip install 'luthier[eval]'")


SCORERS: dict[str, Callable[..., Score]] = {
    "exact_match": exact_match,
    "squad_em": squad_em,
    "f1": f1,
    "final_number": final_number,
    "number": number,
    "contains": contains,
    "regex": regex,
    "json_equal": json_equal,
    "json_schema": json_schema,
    "rouge": rouge,
    "bleu": bleu,
}


def find_scorer(name: str, settings: dict[str, Any] | None = None, *, where: str = "evaluate.tasks") -> Scorer:
    """The scorer of this name with its settings.

    Raises:
        RecipeError: there is no such scorer, or it has no such setting.
    """
    if name not in SCORERS:
        known = ", ".join(SCORERS)
        raise RecipeError(f"there is no scorer '{name}'; known: {known}", where=where, fix="choose from these")
    known_settings = [p.name for p in inspect.signature(SCORERS[name]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for setting in settings or {}:
        if setting not in known_settings:
            has = ", ".join(known_settings) or "none"
            raise RecipeError(f"'{name}' has no setting '{setting}'; it has: {has}", where=where, fix="remove it")
    return partial(SCORERS[name], **settings) if settings else SCORERS[name]
