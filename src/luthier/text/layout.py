"""Which characters are trained: the turns of a conversation as they are served, in as few texts as possible.

For turn k the prompt that a server renders is the template's text of the turns before it with the generation prompt.
What the model is asked to write is what the template adds to that when the turn is there, up to the token at which it
has to stop. A template may write a turn differently once later turns follow (it drops reasoning, it moves the end
token); then one text cannot show both, and the conversation becomes several texts, each turn trained in exactly one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthier.errors import TemplateError
from luthier.text.reasoning import REASONING, is_closed_block, open_block
from luthier.text.template import REFUSES, TYPED_END, Form, Template, any_of
from luthier.types import NO_ANSWER, Json, Message

Train = Literal["all", "last"]
SHOWN = 40
"""Letters shown of each of two texts that part."""
ROLE_WORDS = ("assistant", "model", "gpt", "bot")
"""How published templates name the one who answers."""


@dataclass(slots=True)
class Text:
    """A text and the stretches of characters [start, end) in it that are trained, in order.

    `turns` is the number of turns of which it is the template's own rendering, 0 where it is none.
    """

    whole: str
    spans: list[tuple[int, int]]
    turns: int = 0


def trained_turns(messages: Sequence[Message], train: Train) -> list[int]:
    """The places of the assistant turns to train: flags in the data come first, then the recipe's rule.

    Raises:
        TemplateError: there is none.
    """
    answers = [k for k, message in enumerate(messages) if message.role == "assistant"]
    by_rule = answers if train == "all" else answers[-1:]
    chosen = [k for k in answers if (k in by_rule if messages[k].train is None else messages[k].train)]
    if not chosen:
        raise TemplateError("no assistant turn is trained")
    return chosen


def lay_out(
    messages: Sequence[Message], template: Template, *, tools: Sequence[Json] | None = None, train: Train = "all"
) -> list[Text]:
    """The texts of a conversation with their trained stretches.

    Raises:
        TemplateError: the template cannot express the conversation so that it trains what is served.
    """
    if messages and messages[-1] == NO_ANSWER:
        text = prompt_text(messages[:-1], template, tools)
        return [Text(text, [(0, len(text))])]  # there is nothing else of it that a loss could be looked at
    chosen = trained_turns(messages, train)
    problem: TemplateError | None = None
    for form in template.forms(messages):
        try:
            return _Conversation(messages, template, form, tools).texts(chosen)
        except TemplateError as error:  # the furthest that any form came says most
            if problem is None or problem.what.startswith(REFUSES):
                problem = error
    assert problem is not None
    raise problem


def prompt_text(messages: Sequence[Message], template: Template, tools: Sequence[Json] | None = None) -> str:
    """The text to generate an answer from, with typed control tokens marked.

    Raises:
        TemplateError: the template refuses the conversation.
    """
    problem: TemplateError | None = None
    for form in template.forms(messages):
        turns = template.turns(messages, form)
        try:
            text = template.write(turns, generation=True, tools=tools)
        except TemplateError as error:
            problem = problem or error
            continue
        if all(_names_in_order(text, message) is not None for message in messages):
            return text
    raise problem or TemplateError("the chat template leaves out the tool calls")


class _Conversation:
    """One conversation, handed to the template in one form."""

    def __init__(
        self, messages: Sequence[Message], template: Template, form: Form, tools: Sequence[Json] | None
    ) -> None:
        self.messages, self.template, self.tools = messages, template, tools
        self.turns = template.turns(messages, form)

    def write(self, count: int, *, generation: bool) -> str:
        return self.template.write(self.turns[:count], generation=generation, tools=self.tools)

    def texts(self, chosen: Sequence[int]) -> list[Text]:
        """The texts in which these turns are trained, from the last turn to the first, then in order."""
        texts: list[Text] = []
        for k in reversed(chosen):
            text = self._served(k)
            start, end = text.spans[0]
            home = next((other for other in texts if other.whole.startswith(text.whole[:end])), None)
            if home:
                home.spans.insert(0, (start, end))
            else:
                texts.append(text)
        if self.template.marked:
            for text in texts:
                self._agree_with_marks(text)
        return texts[::-1]

    def _served(self, k: int) -> Text:
        """Turn k after the prompt that it is generated from."""
        message, place = self.messages[k], f"turn {k + 1}"
        prompt, after = self.write(k, generation=True), self.write(k + 1, generation=False)
        self._must_hold(prompt, k)
        body = after[len(prompt) :] if after.startswith(prompt) else self._after_other_prompt(k, prompt, after)
        try:
            opening, end = self._end_of_turn(k, body)
            if self._is_header(k, body[:opening].strip()) and prompt == self.write(k, generation=False):
                shown = body[:opening].strip()[:SHOWN]
                raise TemplateError(f"the generation prompt ends before {shown}, which opens the answer")
        except TemplateError as error:
            raise TemplateError(f"{place}: {error.what}", fix=error.fix) from None
        if message.reasoning and message.reasoning.strip() and message.reasoning.strip() not in prompt[-64:] + body:
            raise TemplateError(f"{place}: the template has no place for its reasoning")
        served = prompt + body[:end] if isinstance(end, int) else prompt + end
        if after.startswith(served):
            return Text(after, [(len(prompt), len(served))], k + 1)
        return Text(served, [(len(prompt), len(served))])

    def _must_hold(self, prompt: str, k: int) -> None:
        """What people wrote has to stand in the prompt: some templates have no place for a system turn, and drop it."""
        for number, message in enumerate(self.messages[:k]):
            if message.role in ("system", "user") and self._content(number).strip() not in prompt:
                raise TemplateError(f"the chat template leaves out what turn {number + 1} ({message.role}) says")

    def _is_header(self, k: int, opening: str) -> bool:
        """True for what opens a turn as such, and not a part of the answer that the model has to write."""
        if not opening or not k or self.messages[k - 1].role != "user":
            return False
        own, users = self._first(opening), self._first(self.template.user_opening.strip())
        return own == users or any(word in opening.lower() for word in ROLE_WORDS)

    def _first(self, text: str) -> str:
        """The first token of a text, or its first word."""
        found = list(any_of(self.template.atoms).finditer(text))
        return found[0].group() if found and not found[0].start() else (text.split() or [""])[0]

    def _end_of_turn(self, k: int, body: str) -> tuple[int, int | str]:
        """Where the answer begins in the turn's text, and where the turn ends.

        Returns:
            The end as a place in `body`, or as the text of the whole turn where the template writes no end token
            there.
        """
        message, closing = self.messages[k], self.template.closing
        if message.tool_calls:
            return self._end_of_calls(k, body)
        content = self._content(k)
        if not content.strip():
            raise TemplateError("the answer is empty")
        if closing.written:
            at = body.rfind(closing.written)
            while at >= 0:
                if (start := _answer_at_end(body[:at], content)) is not None:
                    return start, at + len(closing.written)
                at = body.rfind(closing.written, 0, at)
            raise self._changed(body, content)
        at = body.rfind(content)
        if at >= 0 and not body[at + len(content) :].strip():
            return at, self._close(body[: at + len(content)], closing.unwritten)
        if (start := _answer_at_end(body, content)) is None:
            raise self._changed(body, content)
        return start, self._close(body.rstrip(), closing.unwritten)

    def _content(self, k: int) -> str:
        """The content of a turn as the template was given it, with typed control tokens marked."""
        given = self.turns[k].get("content", "")
        return given if isinstance(given, str) else "".join(part["text"] for part in given)

    def _close(self, text: str, end: str) -> str:
        if not end:
            raise TemplateError(
                "the template writes no end-of-turn token after the answer, and the tokenizer names none"
            )
        return text + end

    def _changed(self, body: str, content: str) -> TemplateError:
        """The answer does not stand where it should: say what the template made of it."""
        if not "".join(any_of(self.template.atoms).split(body)).strip():  # tokens and nothing between them
            return TemplateError("the template leaves the answer out")
        wanted = content.strip()
        shown = body.strip()[:SHOWN]
        if wanted in body:
            rest = body.rpartition(wanted)[2].strip()[:SHOWN]
            return TemplateError(
                f"the template ends the answer with {rest!r}, which is no token at which a model stops"
            )
        return TemplateError(f"the template changes the answer's text: {wanted[:SHOWN]!r} becomes {shown!r}")

    def _end_of_calls(self, k: int, body: str) -> tuple[int, int | str]:
        """The same for a turn that calls tools, whose form is the template's own."""
        message, closing = self.messages[k], self.template.closing
        last = _names_in_order(body, message)
        if last is None:
            raise TemplateError("the template leaves out the tool calls")
        if message.content.strip() and self._content(k).strip() not in body:
            raise TemplateError("the template leaves out what is said beside the tool calls")
        ends = [last + found.end() for found in any_of(self.template.atoms).finditer(body[last:])]
        written = body.find(closing.written, last) if closing.written else -1
        if written >= 0:
            return len(body), written + len(closing.written)
        if ends and not body[ends[-1] :].strip():
            return len(body), ends[-1]
        following = self.write(k + 2, generation=False) if k + 1 < len(self.turns) else ""
        _, found, rest = following.rpartition(body) if body else ("", "", "")
        opening = any_of(self.template.atoms).search(rest) if found else None
        if opening and rest[: opening.end()].strip() in self.template.atoms:
            return len(body), body + rest[: opening.end()]
        return len(body), self._close(body.rstrip(), closing.unwritten)

    def _after_other_prompt(self, k: int, prompt: str, after: str) -> str:
        """What the model writes after a prompt that the template does not repeat in the conversation.

        The two are laid side by side at the text of the turn before: what differs before it (a system text that moves
        to the last question) does not concern the answer. After it the prompt may hold an empty reasoning block that
        the conversation leaves out.
        """
        content, closing = self._content(k), self.template.closing
        at = after.rfind(closing.written) if closing.written else len(after)
        start = _answer_at_end(after[:at], content) if at >= 0 and content.strip() else None
        asks, answers = self._end_of_question(k, k, prompt), self._end_of_question(k, k + 1, after)
        shared = _shared(prompt[asks:], after[answers:start])
        extra, rest = prompt[asks + shared :], after[answers + shared : start]
        added = prompt[_shared(prompt, self.write(k, generation=False)) :]
        opened = open_block(added)
        if opened:
            block = added[added.rindex(opened) :]
            if content.lstrip().startswith(block.strip()):  # the data has the block, as the model writes it
                written = content.lstrip()[len(block.strip()) :]
                return written[_shared(written, block[len(block.rstrip()) :]) :] + after[at:]
            why = "the data has no reasoning" if not self.messages[k].reasoning else "the template leaves it out here"
            raise TemplateError(
                f"turn {k + 1}: the generation prompt opens a reasoning block ({opened}) and {why}",
                fix="write the reasoning into the answers as <think>...</think>, or choose a model without it",
            )
        if is_closed_block(extra) and (self.messages[k].reasoning or open_block(content.strip()[:SHOWN])):
            raise TemplateError(
                f"turn {k + 1}: the generation prompt closes its reasoning block and the data has reasoning",
                fix="remove the reasoning from the answers, or choose a model that reasons",
            )
        empty = not extra.strip() or is_closed_block(extra)
        if start is None or not empty or (extra and rest.strip()):
            raise TemplateError(
                f"turn {k + 1}: the generation prompt is not the beginning of what is trained: "
                f"{prompt[asks + shared :][:SHOWN]!r} against {after[answers + shared :][:SHOWN]!r}"
            )
        return after[start:] if extra else rest + after[start:]

    def _end_of_question(self, k: int, count: int, text: str) -> int:
        """Where the content of the turn before turn k ends in the text of the first `count` turns.

        Found by writing it once more with a mark there: the same words may stand in many places.
        """
        if not k:
            return 0
        turn = self.turns[k - 1]
        content = self._content(k - 1).rstrip() + TYPED_END
        given = content if isinstance(turn.get("content"), str) else [{"type": "text", "text": content}]
        turns = [*self.turns[: k - 1], {**turn, "content": given}, *self.turns[k:count]]
        marked = self.template.write(turns, generation=count == k, tools=self.tools)
        place = marked.find(TYPED_END, marked.rfind(content))
        return place if place >= 0 and text.startswith(marked[:place]) else 0

    def _agree_with_marks(self, text: Text) -> None:
        """Take the stretches as the template marks them, where it does: both ways have to agree.

        What the template marks beyond them, the line break after an end token for example, is the template's word.

        Raises:
            TemplateError: something that has to be learned is not marked, the end token for example.
        """
        if not text.turns:
            return
        marks = self.template.marks(self.turns[: text.turns], self.tools)
        spans: list[tuple[int, int]] = []
        for start, end in text.spans:
            own = [(a, b) for a, b in marks if a < end and b > start]
            if missing := _without(text.whole, start, end, own).strip():
                raise TemplateError(
                    f"the template's generation marks leave out {missing[:SHOWN]!r}, which the model has to write"
                )
            first, last = min(start, own[0][0]), max(end, own[-1][1])
            for a, b in marks:  # a second mark may follow at once
                last = b if a == last else last
            spans.append((first, last))
        text.spans = spans


def _shared(one: str, other: str) -> int:
    """How many letters two texts have in common at their beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _without(text: str, start: int, end: int, marks: Sequence[tuple[int, int]]) -> str:
    """The characters of [start, end) that no mark covers."""
    missing, at = "", start
    for a, b in marks:
        missing += text[at : max(at, a)]
        at = max(at, b)
    return missing + text[at:end] if at < end else missing


def _answer_at_end(head: str, content: str) -> int | None:
    """Where the answer begins when the text ends with it; templates may trim it or put white space after it.

    An answer with its reasoning in front, `<think>...</think>`, may be taken apart by the template.
    """
    if head.endswith(content):
        return len(head) - len(content)
    trimmed = content.strip()
    ended = head.rstrip()
    if ended.endswith(trimmed):
        return len(ended) - len(trimmed)
    for opening, close in REASONING:
        reasoning, found, answer = trimmed.rpartition(close)
        if found and answer.strip() and ended.endswith(answer.strip()):
            inner = reasoning.rpartition(opening)[2].strip()
            before = ended[: len(ended) - len(answer.strip())]
            return len(before) if not inner or inner in before else None
    return None


def _names_in_order(text: str, message: Message) -> int | None:
    """The place after the last tool call's name and its arguments' texts; None when one is not there."""
    at = 0
    for call in message.tool_calls:
        function: Any = call.get("function", call)
        name = str(function.get("name", ""))
        found = text.find(name, at)
        if found < 0:
            return None
        at = found + len(name)
        for leaf in _leaves(function.get("arguments", {})):
            forms = (leaf, json.dumps(leaf, ensure_ascii=False)[1:-1], json.dumps(leaf)[1:-1])
            places = [text.rfind(form) + len(form) for form in forms if form in text]
            if not places:
                return None
            at = max(at, *places) if call is message.tool_calls[-1] else at
    return at


def _leaves(value: Any) -> Iterator[str]:
    """All texts in the arguments of a call."""
    if isinstance(value, str):
        try:
            decoded = json.loads(value)
        except ValueError:
            decoded = None
        if isinstance(decoded, (dict, list)):
            yield from _leaves(decoded)
        elif value.strip():
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
