"""Verifiable instructions: does an answer follow what was asked of its form. IFEval's format and kinds, own checkers.

Source: Zhou et al. 2023, "Instruction-following evaluation for large language models". A prompt counts when all its
instructions are followed (`strict`); `loose` also takes the answer without its first line, its last line or its
asterisks; `instructions` is the share of single instructions followed. Adding a kind is a function and a line in
`CHECKERS`.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from luthier.errors import DataError, Missing
from luthier.evaluate.items import Decoding, Item, Task
from luthier.evaluate.lexical import words
from luthier.evaluate.rows import need, read_rows
from luthier.evaluate.summaries import means
from luthier.evaluate.taskfile import check_ids
from luthier.types import Message, Score

ROOM = 512
POSTSCRIPTS = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}
"""The two markers that IFEval's prompts use; blanks may stand between their letters."""
Checker = Callable[[str, Mapping[str, Any]], bool]
_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|Jr|Sr|U\.S)\.", re.IGNORECASE)


def _related(count: int, bound: Any, relation: Any) -> bool:
    return count < int(bound) if relation == "less than" else count >= int(bound)


def _has_words(answer: str, k: Mapping[str, Any]) -> bool:
    return all(re.search(re.escape(str(word)), answer, re.IGNORECASE) for word in k["keywords"])


def _word_count(answer: str, k: Mapping[str, Any]) -> bool:
    found = re.findall(re.escape(str(k["keyword"])), answer, re.IGNORECASE)
    return _related(len(found), k["frequency"], k["relation"])


def _lacks_words(answer: str, k: Mapping[str, Any]) -> bool:
    return not any(re.search(rf"\b{re.escape(str(w))}\b", answer, re.IGNORECASE) for w in k["forbidden_words"])


def _letter_count(answer: str, k: Mapping[str, Any]) -> bool:
    return _related(answer.lower().count(str(k["letter"]).lower()), k["let_frequency"], k["let_relation"])


def _in_language(answer: str, k: Mapping[str, Any]) -> bool:
    return language_of(answer) == str(k["language"])


@cache
def _identifier() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise Missing(
            "instructions about the language of an answer need py3langid",
            where="evaluate.instructions",
            fix="pip install 'luthier[eval]'",
        ) from error
    return py3langid


def language_of(text: str) -> str:
    """The language as an ISO 639-1 code.

    Raises:
        Missing: the package py3langid is not installed.
    """
    return str(_identifier().classify(text)[0])


def count_sentences(text: str) -> int:
    """Sentences: what ends in a full stop, a question or exclamation mark; abbreviations do not end one."""
    bare = _ABBREVIATION.sub(lambda m: m[0].replace(".", ""), text.strip())
    ends = len(_SENTENCE.findall(bare))
    return ends + bool(bare and not _SENTENCE.search(bare[-3:]))


def _sentences(answer: str, k: Mapping[str, Any]) -> bool:
    return _related(count_sentences(answer), k["num_sentences"], k["relation"])


def _paragraphs(answer: str, k: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    inner = parts[(not parts[0]) : len(parts) - (not parts[-1])] if len(parts) > 1 else parts
    return all(inner) and len(inner) == int(k["num_paragraphs"])


def _length(answer: str, k: Mapping[str, Any]) -> bool:
    return _related(len(words(answer)), k["num_words"], k["relation"])


def _nth_paragraph(answer: str, k: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in answer.split("\n\n")]
    count, at = sum(map(bool, parts)), int(k["nth_paragraph"])
    if count != int(k["num_paragraphs"]) or at > count or not parts[at - 1]:
        return False  # an empty paragraph does not count, but keeps its place: so IFEval has it
    first = re.split(r"[.,?!'\"]", parts[at - 1].split()[0].lstrip("'").lstrip('"'))[0]
    return first.lower() == str(k["first_word"]).lower()


def _placeholders(answer: str, k: Mapping[str, Any]) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= int(k["num_placeholders"])


def _postscript(answer: str, k: Mapping[str, Any]) -> bool:
    marker = str(k["postscript_marker"]).strip().lower()
    pattern = POSTSCRIPTS.get(marker, re.escape(marker))
    return bool(re.search(pattern, answer.lower()))


def _bullets(answer: str, k: Mapping[str, Any]) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*]|-).*$", answer, re.MULTILINE)) == int(k["num_bullets"])


def _constrained(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001 - all checkers are called alike
    return any(f"My answer is {word}." in answer for word in ("yes", "no", "maybe"))


def _highlights(answer: str, k: Mapping[str, Any]) -> bool:
    single = [found for found in re.findall(r"\*([^\n*]*)\*", answer) if found.strip()]
    double = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", answer) if found.strip()]
    return len(single) + len(double) >= int(k["num_highlights"])


def _sections(answer: str, k: Mapping[str, Any]) -> bool:
    parts = re.split(rf"\s?{re.escape(str(k['section_spliter']))}\s?\d+\s?", answer)
    return len(parts) - 1 >= int(k["num_sections"])


def _json(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    bare = re.sub(r"^```(?:json)?|```$", "", answer.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(bare)
    except ValueError:
        return False
    return True


def _title(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def _two_answers(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    parts = answer.split("******")
    inner = parts[(not parts[0].strip()) : len(parts) - (not parts[-1].strip())]
    return len(inner) == 2 and all(p.strip() for p in inner) and inner[0].strip() != inner[1].strip()


def _repeats(answer: str, k: Mapping[str, Any]) -> bool:
    return answer.strip().lower().startswith(str(k["prompt_to_repeat"]).strip().lower())


def _ends_with(answer: str, k: Mapping[str, Any]) -> bool:
    return answer.strip().strip('"').lower().endswith(str(k["end_phrase"]).strip().lower())


def _capital_words(answer: str, k: Mapping[str, Any]) -> bool:
    found = [word for word in re.findall(r"[\w'-]+", answer) if word.isupper()]
    return _related(len(found), k["capital_frequency"], k["capital_relation"])


def _latin(answer: str) -> bool:
    """Written in Latin letters: for case that is what English comes down to."""
    letters = [letter for letter in answer if letter.isalpha()]
    return bool(letters) and sum(letter.isascii() for letter in letters) >= 0.95 * len(letters)


def _capitals(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return answer.isupper() and _latin(answer)


def _lowercase(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return answer.islower() and _latin(answer)


def _no_comma(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    return "," not in answer


def _quoted(answer: str, k: Mapping[str, Any]) -> bool:  # noqa: ARG001
    bare = answer.strip()
    return len(bare) > 1 and bare[0] == '"' and bare[-1] == '"'


CHECKERS: dict[str, Checker] = {
    "keywords:existence": _has_words,
    "keywords:frequency": _word_count,
    "keywords:forbidden_words": _lacks_words,
    "keywords:letter_frequency": _letter_count,
    "language:response_language": _in_language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _length,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_answers,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}


def follows(answer: str, item: Item) -> Score:
    """1 when every instruction is followed; parts `loose` and `instructions`."""
    wanted = [(CHECKERS[kind], kwargs) for kind, kwargs in item.more["instructions"]]
    if not answer.strip():
        return Score(0.0, "empty", {"loose": 0.0, "instructions": 0.0})
    strict = [check(answer, kwargs) for check, kwargs in wanted]
    loose = [any(form.strip() and check(form, kwargs) for form in _forms(answer)) for check, kwargs in wanted]
    parts = {"loose": float(all(loose)), "instructions": sum(strict) / len(strict)}
    return Score(float(all(strict)), parts=parts)


def _forms(answer: str) -> list[str]:
    """The answer, without its first line, its last one, both; each with and without asterisks."""
    lines = answer.split("\n")
    cuts = [slice(None), slice(1, None), slice(None, -1), slice(1, -1)]
    texts = ["\n".join(lines[cut]).strip() for cut in cuts]
    return [text.replace("*", "") if bare else text for text, bare in product(texts, (False, True))]


def ifeval(path: Path, name: str) -> list[Task]:
    """IFEval's file: {"key", "prompt", "instruction_id_list", "kwargs"} a line."""
    return [_task(name, [(where, row) for where, row in read_rows(path)], str(path))]


def own_suite(name: str) -> list[Task]:
    """Our own prompts, short ones that a small model can follow: one subject and one instruction each."""
    subjects = ("the sea", "a bicycle", "bread", "the moon", "a library", "rain", "a bridge", "tea")
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("Use no comma.", "punctuation:no_comma", {}),
        ("Write everything in lower case.", "change_case:english_lowercase", {}),
        ("Write everything in capital letters.", "change_case:english_capital", {}),
        ("Put the whole answer in double quotation marks.", "startend:quotation", {}),
        ("End with the words: That is all.", "startend:end_checker", {"end_phrase": "That is all."}),
        ("Answer with a JSON object.", "detectable_format:json_format", {}),
        ("Give a title in double angular brackets, such as <<title>>.", "detectable_format:title", {}),
        (
            "Write exactly three bullet points that begin with *.",
            "detectable_format:number_bullet_lists",
            {"num_bullets": 3},
        ),
        ("Write fewer than 30 words.", "length_constraints:number_words", {"relation": "less than", "num_words": 30}),
        ("Use the word 'green'.", "keywords:existence", {"keywords": ["green"]}),
    ]
    rows = []
    for number, (subject, (words_, kind, kwargs)) in enumerate(product(subjects, forms), 1):
        prompt = f"Say something about {subject}. {words_}"
        rows.append(
            (f"{name}:{number}", {"key": number, "prompt": prompt, "instruction_id_list": [kind], "kwargs": [kwargs]})
        )
    return [_task(name, rows, name)]


def _task(name: str, rows: list[tuple[str, dict[str, Any]]], where: str) -> Task:
    items = []
    for place, row in rows:
        kinds, kwargs = need(row, "instruction_id_list", place), need(row, "kwargs", place)
        for kind in kinds:
            if kind not in CHECKERS:
                raise DataError(f"no checker for '{kind}'", where=place, fix=f"known: {', '.join(sorted(CHECKERS))}")
        given = [{k: v for k, v in (one or {}).items() if v is not None} for one in kwargs]
        items.append(
            Item(
                id=str(need(row, "key", place)),
                prompt=(Message("user", str(need(row, "prompt", place))),),
                expected=" and ".join(kinds),
                group=str(kinds[0]).partition(":")[0],
                more={"instructions": list(zip(kinds, given, strict=True))},
            )
        )
    check_ids(items, where)
    decoding = Decoding(max_new_tokens=ROOM)
    return Task(name, tuple(items), follows, "generate", decoding, means, "generate ifeval", "instructions")
