# ruff: noqa: RUF001 - the signs are what is meant
"""Which of llama.cpp's ways to divide a text before merging is the tokenizer's own, found by what it does.

A GGUF file names one of the ways that are compiled into llama.cpp. Names and hashes say little once a vocabulary has
changed, so the tokenizer divides a text that shows every difference, and the names whose patterns divide it alike are
the candidates; llama.cpp's own ids decide between them.
"""

from typing import Any

from tokenizers import Regex, pre_tokenizers

_CASELESS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ANY = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"


def _cased(end: str) -> str:
    """Words divided where lower case turns to upper, each with `end`."""
    first = r"[^\r\n\p{L}\p{N}]?"
    return f"{first}{_UPPER}*{_LOWER}+{end}|{first}{_UPPER}+{_LOWER}*{end}"


_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK = r"[一-龥ࠀ-一가-퟿]+"

PATTERNS: dict[str, tuple[list[str], bool]] = {
    "gpt-2": ([_GPT2], False),
    "qwen2": ([rf"{_CASELESS}|{_ANY}|\p{{N}}{_REST}"], False),
    "llama-bpe": ([rf"{_CASELESS}|{_ANY}|\p{{N}}{{1,3}}{_REST}"], True),
    "smaug-bpe": ([rf"{_CASELESS}|{_ANY}|\p{{N}}{{1,3}}{_REST}"], False),
    "smollm": ([r"\p{N}", _GPT2], False),
    "qwen35": (
        [
            rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ],
        False,
    ),
    "tekken": ([_cased("") + r"|\p{N}" + _SLASHED], True),
    "gpt-4o": ([_cased(_CASELESS + "?") + r"|\p{N}{1,3}" + _SLASHED], False),
    "seed-coder": (
        [rf"{_CASELESS}|{_ANY}|\p{{N}}" + r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
        False,
    ),
    "ufakzeka": ([rf"{_ANY}|\p{{N}}{_REST}"], False),
    "bailingmoe": (
        [
            rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_ANY}|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        ],
        False,
    ),
    "bloom": ([r" ?[^(\s|.,!?…。，、।۔،)]+"], False),
    "viking": ([r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"], False),
    "falcon": ([r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"], False),
    "deepseek-v3": (
        [
            r"\p{N}{1,3}",
            _CJK,
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        False,
    ),
    "default": ([r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"], False),
}
"""llama.cpp's name -> the patterns it applies one after the other, and whether a word that is a token is never merged
from its parts. From llama.cpp's table of pre-tokenizers; of several names for one behaviour, the best known."""

PROBE = (
    "Hello World! It's they'LL we've 'Tis DON'T I'd\n\n  two  spaces\tand\ttabs \n\r\n mixed   \n   end. "
    "1 12 123 1234 12345 3.14159 1,000,000 v2.0.1 0x1F half½ ²³ ٣٤٥ x1y22z333 "
    "camelCaseWord HTTPServer snake_case_name __init__ #tag @user a/b\\c http://x.org/?q=1&r=2 "
    "(paren) [brack] {brace} <tag/> \"quoted\" 'single' `tick` $5 €10 50% a+b=c ~approx ^up |pipe| ... --- *** "
    "naïve café Ñandú straße ŒUVRE İstanbul Привет мир Γειά σου שלום مرحبا नमस्ते 你好，世界。こんにちは 안녕하세요 สวัสดี "
    "🙂 👩‍👩‍👧 🇩🇪 e.g. etc… “curly” ‘quotes’ – — ½ № ™ \u00a0nbsp\u2009thin\u3000wide "
    "def f(x):\n    return x**2  # square\n\tif x:\n\n\n\n"
)
"""Shows what the patterns differ in: digits, contractions, marks, line ends, scripts, signs."""


def names_for(tokenizer: Any) -> list[str]:
    """The names whose patterns divide the probe as the tokenizer does, likeliest first.

    Args:
        tokenizer: of the tokenizers library, with a byte-level pre-tokenizer.
    """
    found = _places(tokenizer.pre_tokenizer)
    keeps = bool(getattr(tokenizer.model, "ignore_merges", False))
    alike = [name for name, (patterns, _) in PATTERNS.items() if _places(_like_llama_cpp(patterns)) == found]
    return sorted(alike, key=lambda name: PATTERNS[name][1] != keeps)


def _places(pre_tokenizer: Any) -> list[tuple[int, int]]:
    return [place for _, place in pre_tokenizer.pre_tokenize_str(PROBE)]


def _like_llama_cpp(patterns: list[str]) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns])
