"""The one door to tokenizers: loading, and which tokens end an answer."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.errors import DataError, Missing

Tokenizer = Any  # transformers' fast tokenizers carry no types


def load_tokenizer(place: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Tokenizer:
    """Load a fast tokenizer from a folder or the hub.

    Raises:
        DataError: there is none, or it is a slow one (which cannot give the offsets that the loss mask needs).
        Missing: it is a SentencePiece model alone, and what reads such is not installed.
    """
    from transformers import AutoTokenizer

    _need_sentencepiece(Path(place))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the libraries below raise whatever a damaged file leads them to
        raise DataError(
            f"no tokenizer can be loaded: {_first_line(error)}",
            where=str(place),
            fix="check model.base: a folder with tokenizer.json, or a hub id that you can reach",
        ) from error
    if not tokenizer.is_fast:
        raise DataError("only a slow tokenizer is there", where=str(place), fix="convert it to tokenizer.json first")
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def _need_sentencepiece(folder: Path) -> None:
    """Raise where `tokenizer.model` is all there is and cannot be read: transformers takes it for something else."""
    if not (folder / "tokenizer.model").is_file() or (folder / "tokenizer.json").is_file():
        return
    if missing := [name for name in ("sentencepiece", "google.protobuf") if not _there(name)]:
        raise Missing(
            f"the tokenizer is a SentencePiece model, and what reads it is not installed: {' and '.join(missing)}",
            where=str(folder / "tokenizer.model"),
            fix="pip install 'luthier[sentencepiece]'",
        )


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def stop_ids(tokenizer: Tokenizer, configured: int | Iterable[int] | None = None) -> tuple[int, ...]:
    """The ids that end an answer: those of the generation config, and the tokenizer's end token."""
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(ids))


def control_tokens(tokenizer: Tokenizer) -> frozenset[str]:
    """The strings that the tokenizer reads as control tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return frozenset(token.content for token in added if token.special)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
