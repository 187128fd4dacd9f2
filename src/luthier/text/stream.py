"""An answer while it is written: tokens in, pieces of text out that never have to be taken back.

The pieces make up what `read_answer` reads from all tokens. So a piece is held back while it is not sure: half of a
letter, what may turn out to be reasoning, the beginning of a text that ends the answer.
"""

import re
from collections.abc import Sequence

from luthier.text.reasoning import REASONING, open_block
from luthier.text.render import read_answer
from luthier.text.template import template_of
from luthier.text.tokenizer import Tokenizer

HALF = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no whole letter yet."""
_TAG = re.compile(r"<[^<>]*>")


class Letters:
    """Text from tokens, each letter as soon as it is whole.

    Only the last tokens are decoded again: some tokenizers write a token otherwise at the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        self._from = self._told = 0

    def add(self, token: int) -> None:
        """One more token."""
        self.ids.append(token)
        known = str(self._tokenizer.decode(self.ids[self._from : self._told]))
        now = str(self._tokenizer.decode(self.ids[self._from :]))
        if len(now) > len(known) and not now.endswith(HALF):
            self.text += now[len(known) :]
            self._from, self._told = self._told, len(self.ids)


class AnswerStream:
    """The answer so far.

    Attributes:
        ids: the tokens added.
        text: what was handed out.
        ended: a text that ends the answer has come; nothing more will be handed out.
    """

    def __init__(self, tokenizer: Tokenizer, *, stops: Sequence[str] = (), prompt: str = "", raw: bool = False) -> None:
        """Begin an answer.

        Args:
            tokenizer: the model's.
            stops: texts that end the answer; they and what follows are cut off.
            prompt: the text before it, which may have opened a block of reasoning.
            raw: everything that is written belongs to the answer, reasoning and all.
        """
        self._tokenizer, self._raw = tokenizer, raw or not tokenizer.chat_template
        self._stops = [stop for stop in stops if stop]
        self._letters = Letters(tokenizer)
        self._opening = "" if self._raw else template_of(tokenizer).opening.strip()
        block = None if self._raw else open_block(prompt)
        self._thinks = block is not None and prompt.rstrip().endswith(block)
        self.text = ""
        self.ended = False

    @property
    def ids(self) -> list[int]:
        """The tokens added so far."""
        return self._letters.ids

    def add(self, token: int) -> str:
        """One more token.

        Returns:
            What is sure by now and was not handed out yet; often one word, sometimes nothing.
        """
        if self.ended:
            return ""
        self._letters.add(token)
        return self._hand_out(self._sure(self._letters.text), final=False)

    def finish(self) -> str:
        """The rest, once the last token is added."""
        if self.ended:
            return ""
        ids = self._letters.ids
        whole = str(self._tokenizer.decode(ids)) if self._raw else read_answer(ids, self._tokenizer)
        return self._hand_out(whole, final=True)

    def _hand_out(self, answer: str, *, final: bool) -> str:
        cuts = [at for stop in self._stops if (at := answer.find(stop)) >= 0]
        if cuts:
            answer, self.ended = answer[: min(cuts)], True
        elif not final:
            answer = answer[: len(answer) - self._held(answer)]
        if not answer.startswith(self.text):  # what was told cannot be taken back
            return ""
        piece = answer[len(self.text) :]
        self.text = answer
        return piece

    def _held(self, answer: str) -> int:
        """Letters at the end that may be the beginning of a text that ends the answer."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(answer)), 0, -1):
            if any(stop.startswith(answer[-size:]) for stop in self._stops):
                return size
        return 0

    def _sure(self, text: str) -> str:
        """What is certainly the beginning of the answer, whatever is written next."""
        if self._raw:
            return text
        if self._opening and self._opening in text:
            return text.rpartition(self._opening)[2].lstrip()
        for _, close in REASONING:
            if close in text:
                return text.rpartition(close)[2].lstrip()
        return "" if self._may_think(text.lstrip()) else text

    def _may_think(self, text: str) -> bool:
        """Whether what is written so far is reasoning, or may become a block of it."""
        first = _TAG.match(self._opening)
        marks = [opening for opening, _ in REASONING] + ([first.group()] if first else [self._opening])
        return self._thinks or any(mark and (text.startswith(mark) or mark.startswith(text)) for mark in marks)
