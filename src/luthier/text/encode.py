"""From text to token ids, and from trained characters to trained tokens.

Two ways lead to the same mask. Where a turn stands between control tokens, as in nearly all templates, the tokens are
counted between these: a tokenizer never joins letters across a control token. Otherwise the tokenizer's offsets tell,
and the prompt is tokenised once more on its own, to see that it gives the same tokens as within the whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from luthier.errors import TemplateError
from luthier.text.layout import Text
from luthier.text.template import TYPED, TYPED_END, any_of
from luthier.text.tokenizer import Tokenizer, control_tokens

SHORT = 64
"""Letters between a control token and a turn that are tokenised again to see that nothing joins across."""
_TYPED = re.compile(f"{TYPED}(.*?){TYPED_END}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Token ids, and for each whether it is trained (contributes to the loss as a label)."""

    ids: list[int]
    trained: list[bool]


class _Tokens(NamedTuple):
    """Ids, and for each the characters [start, end) it stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """Tokenises rendered texts with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.controls = any_of(control_tokens(tokenizer))
        self._atoms = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
        self._short: dict[tuple[str, str], list[int]] = {}
        self._pattern = any_of(frozenset(self._atoms))
        # A normaliser may make a control token of other letters; else each stands in the text as it is written.
        self._normalised = any(token.normalized for token in tokenizer.added_tokens_decoder.values())

    def rows(self, texts: Sequence[Text]) -> list[TrainingRow | TemplateError]:
        """A row for each text, or why it cannot be trained exactly; all in one call of the tokenizer."""
        plain = [text for text in texts if TYPED not in text.whole]
        encoded = iter(self._backend.encode_batch_fast([text.whole for text in plain], add_special_tokens=False))
        rows: list[TrainingRow | TemplateError] = []
        for text in texts:
            row = self._between_anchors(text, next(encoded).ids) if TYPED not in text.whole else None
            try:
                rows.append(row or self._by_offsets(text))
            except TemplateError as error:
                rows.append(error)
        return rows

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text; control tokens that somebody typed become text."""
        return self._encode(text).ids

    def _between_anchors(self, text: Text, ids: list[int]) -> TrainingRow | None:
        """The mask by counting control tokens; None where a turn does not stand between such."""
        whole = text.whole
        found = list(self._pattern.finditer(whole))
        places = self._places([self._atoms[match.group()] for match in found], ids)
        if places is None:
            return None
        trained = [False] * len(ids)
        k = 0
        for start, end in text.spans:
            while k < len(found) and found[k].end() <= start:
                k += 1
            before = found[k - 1]
            last = next((i for i in range(k, len(found)) if found[i].end() == end), None)
            if not k or last is None or start - before.end() > SHORT:
                return None
            head = self._after(before.group(), whole[before.end() : start])
            first = places[k - 1] + 1
            if ids[first : first + len(head)] != head:
                return None
            first += len(head)
            trained[first : places[last] + 1] = [True] * (places[last] + 1 - first)
        trained[:1] = [False]  # nothing stands before the first token that could predict it
        return TrainingRow(ids, trained)

    def _places(self, anchors: Sequence[int], ids: list[int]) -> list[int] | None:
        """Where each of the control tokens of a text stands among its ids; None when they are not all of them."""
        if self._normalised and any(ids.count(anchor) != anchors.count(anchor) for anchor in set(anchors)):
            return None
        places: list[int] = []
        at = 0
        try:
            for anchor in anchors:
                at = ids.index(anchor, at) + 1
                places.append(at - 1)
        except ValueError:
            return None
        return places

    def _after(self, anchor: str, text: str) -> list[int]:
        """The ids of a short text that follows a control token."""
        if not text:
            return []
        key = (anchor, text)
        if key not in self._short:
            self._short[key] = self._backend.encode(anchor + text, add_special_tokens=False).ids[1:]
        return self._short[key]

    def _by_offsets(self, text: Text) -> TrainingRow:
        ids, offsets = self._encode(text.whole)
        trained = [False] * len(ids)
        for start, end in text.spans:
            head = self.ids(text.whole[:start])
            first = last = len(head)
            if ids[:first] != head:
                raise TemplateError("tokenising the prompt alone gives other tokens than tokenising the whole")
            while last < len(ids) and offsets[last][0] < end:
                last += 1
            if last > first and offsets[last - 1][1] > end:
                raise TemplateError("a token reaches over the end of the turn")
            trained[first:last] = [True] * (last - first)
        trained[:1] = [False]
        return TrainingRow(ids, trained)

    def _encode(self, text: str) -> _Tokens:
        """Ids and offsets. What was typed is tokenised as text, piece by piece, so that it cannot become a control."""
        if TYPED not in text and TYPED_END not in text:
            found = self._backend.encode(text, add_special_tokens=False)
            return _Tokens(found.ids, found.offsets)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for at, piece, typed in _pieces(text):
            found = self._piece(piece, typed=typed, first=not ids)
            ids += found.ids
            offsets += [(at + start, at + end) for start, end in found.offsets]
        return _Tokens(ids, offsets)

    def _piece(self, piece: str, *, typed: bool, first: bool) -> _Tokens:
        """One piece of a text.

        After another one it is tokenised behind a line break: some tokenizers put a blank before the first word.
        """
        before = "" if first else "\n"
        lead = len(self._backend.encode(before, add_special_tokens=False).ids) if before else 0
        usual = self._backend.encode_special_tokens
        self._backend.encode_special_tokens = typed
        try:
            found = self._backend.encode(before + piece, add_special_tokens=False)
            if lead and found.ids[:lead] != self._backend.encode(before, add_special_tokens=False).ids:
                found, lead, before = self._backend.encode(piece, add_special_tokens=False), 0, ""
        finally:
            self._backend.encode_special_tokens = usual
        return _Tokens(found.ids[lead:], [(a - len(before), b - len(before)) for a, b in found.offsets[lead:]])


def _pieces(text: str) -> list[tuple[int, str, bool]]:
    """Place, text and whether it was typed, for each piece between marks. A mark without its fellow only divides."""
    pieces: list[tuple[int, str, bool]] = []
    at = 0
    for match in _TYPED.finditer(text):
        pieces += [(at, text[at : match.start()], False), (match.start(1), match.group(1), True)]
        at = match.end()
    pieces.append((at, text[at:], False))
    return [
        (place + inner.start(), inner.group(), typed)
        for place, piece, typed in pieces
        for inner in re.finditer(f"[^{TYPED}{TYPED_END}]+", piece)
    ]
