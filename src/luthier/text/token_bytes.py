"""The bytes that one token stands for, also where they are no whole letter."""

import re
from functools import cache

from luthier.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(token: int, tokenizer: Tokenizer) -> bytes:
    """The bytes of a token as it stands within a text.

    Byte-level tokenizers write each byte as a letter of its own (GPT-2's table); SentencePiece has a token `<0xE2>` for
    each byte that is no letter it knows, and a low line of its own for a blank.
    """
    written = tokenizer.convert_ids_to_tokens(token)
    if written is None or token in tokenizer.added_tokens_decoder:
        return str(tokenizer.decode([token])).encode()
    if found := _BYTE.fullmatch(written):
        return bytes([int(found.group(1), 16)])
    table = _letters()
    if "ByteLevel" in str(tokenizer.backend_tokenizer.decoder) and all(letter in table for letter in written):
        return bytes(table[letter] for letter in written)
    return str(written).replace("\u2581", " ").encode("utf-8", "replace")


@cache
def _letters() -> dict[str, int]:
    """The letter that stands for each byte: printable ones for themselves, the others from U+0100 on, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + k): byte for k, byte in enumerate(others)}
