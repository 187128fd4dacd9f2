"""A model's own chat template: what it writes for a conversation, and how it closes an answer.

Nothing here knows a family of models. What has to be known of a template, such as the token that ends a turn, is asked
of the template itself, by rendering a short conversation whose turns are words that occur nowhere else.
"""

import re
import weakref
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple

from luthier.errors import TemplateError
from luthier.text.tokenizer import Tokenizer, control_tokens
from luthier.types import Json, Message

TYPED, TYPED_END = "\ufdd0", "\ufdd1"
"""Stand around a control token that somebody typed. Unicode keeps both for such inner use: no text may hold them."""
ASKED, ANSWERED, ASKED_AGAIN = "qzvasked", "qzvanswered", "qzvagain"
REFUSES = "the chat template refuses the conversation"
_FAILURES = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Form(NamedTuple):
    """One of the ways in which a turn may be handed to a template; templates differ in what they can read."""

    parts: bool = False
    """Content as a list of parts, as models for pictures want it."""
    arguments_as_text: bool = False
    """The arguments of a call as JSON text and not as an object."""
    silent_calls: bool = False
    """A turn that only calls has no content at all, where others read an empty one."""


USUAL = Form()


class Closing(NamedTuple):
    """How a template ends an answer, from its last letter to the token at which the model has to stop."""

    written: str
    """As it stands when the conversation ends here; empty when nothing is written then."""
    unwritten: str
    """What the model has to write in that case: the template's own text before the next turn, or the end token."""


class Template:
    """The chat template of a tokenizer.

    Raises:
        TemplateError: there is none, or it is no template.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        # What transformers itself compiles: the same sandbox, filters and functions as where the model is served.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self.source = source
        self._typed = any_of(control_tokens(tokenizer))
        self.bos, self.eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
        self.atoms = frozenset(token.content for token in tokenizer.added_tokens_decoder.values())
        self.marked = bool(_MARKS.search(source))
        # As transformers does it, but one day for all rows: a prompt and its turn must not fall on two.
        now = datetime.now()  # noqa: DTZ005
        self._always = {**tokenizer.special_tokens_map, "strftime_now": now.strftime, "documents": None}
        try:
            self._compiled: Any = _compile_jinja_template(source)
        except Exception as error:  # jinja's own errors, which are imported with it
            raise TemplateError(f"the chat template cannot be read: {error}") from error
        self._names = {**self._compiled.globals, **self._always}

    def write(self, turns: Sequence[Json], *, generation: bool, tools: Sequence[Json] | None = None) -> str:
        """The text of a conversation, with the prompt for an answer at its end or without.

        Raises:
            TemplateError: the template refuses it, in its own words.
        """
        from jinja2 import TemplateError as JinjaError
        from jinja2.runtime import new_context

        given = {"messages": turns, "tools": list(tools) if tools else None, "add_generation_prompt": generation}
        try:  # what `render` does, with the names that never change put together once: it takes half the time
            template = self._compiled
            names = {**self._names, **given}
            context = new_context(template.environment, template.name, template.blocks, names, shared=True)
            return "".join(template.root_render_func(context))
        except (JinjaError, *_FAILURES) as error:
            raise TemplateError(f"{REFUSES}: {error}") from error

    def marks(self, turns: Sequence[Json], tools: Sequence[Json] | None = None) -> list[tuple[int, int]]:
        """The stretches of characters that the template marks as generated, in order."""
        from transformers.utils.chat_template_utils import render_jinja_template

        _, found = render_jinja_template(
            [list(turns)],
            tools=list(tools) if tools else None,
            chat_template=self.source,
            return_assistant_tokens_mask=True,
            **{name: value for name, value in self._always.items() if name != "strftime_now"},  # no plain data
        )
        return [(start, end) for start, end in found[0] if end > start]

    def turns(self, messages: Iterable[Message], form: Form = USUAL) -> list[Json]:
        """The turns as the template takes them. Control tokens that somebody typed are marked, so that they stay text.

        Raises:
            TemplateError: a text holds the two characters that mark them.
        """
        return [self._turn(message, form, number) for number, message in enumerate(messages, 1)]

    def _turn(self, message: Message, form: Form, number: int) -> Json:
        content = mark_typed(message.content, self._typed, f"turn {number}")
        turn: Json = {"role": message.role, "content": content}
        if form.parts:
            turn["content"] = [{"type": "text", "text": content}]
        if message.reasoning is not None:
            reasoning = mark_typed(message.reasoning, self._typed, f"turn {number}")
            turn |= {"reasoning_content": reasoning, "thinking": reasoning}  # the two names that templates read
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, as_text=form.arguments_as_text) for call in message.tool_calls]
            if form.silent_calls and not message.content:
                del turn["content"]
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            turn["name"] = message.name
        return turn

    def forms(self, messages: Sequence[Message]) -> list[Form]:
        """The ways to hand these turns over, the usual one first."""
        parts = self._takes_parts_only
        if not any(message.tool_calls for message in messages):
            return [Form(parts)]
        return [Form(parts, text, silent) for silent, text in product((False, True), repeat=2)]

    @cached_property
    def _takes_parts_only(self) -> bool:
        """True when a plain text would be lost or refused and a list of parts is not."""
        return self._probe(USUAL) is None and self._probe(Form(parts=True)) is not None

    def _probe(self, form: Form, *, further: bool = False) -> str | None:
        """What the template writes after an answer: to the end, or to the next turn's text. None: it cannot say."""
        talk = [Message("user", ASKED), Message("assistant", ANSWERED)]
        if further:
            talk.append(Message("user", ASKED_AGAIN))
        for before in ([], [Message("system", "qzvsystem")]):  # some want a system turn, many want none
            try:
                text = self.write(self.turns([*before, *talk], form), generation=False)
            except TemplateError:
                continue
            asked, _, after = text.rpartition(ANSWERED)
            if ASKED not in asked or (further and after.count(ASKED_AGAIN) != 1):
                continue
            return after.partition(ASKED_AGAIN)[0]
        return None

    @cached_property
    def user_opening(self) -> str:
        """What stands between the end of an answer and the user's next text."""
        between = self._probe(Form(self._takes_parts_only), further=True) or ""
        return between.removeprefix(self.closing.written or self.closing.unwritten)

    @cached_property
    def closing(self) -> Closing:
        """How an answer ends.

        Where the template ends the turn in the same way at the end of the conversation and before a next turn, that is
        it: all of it, since some write two tokens. Where the last turn ends otherwise, it is the last one's: it is
        what the model wrote. Where nothing is written at the end, it is what the template writes before the next turn,
        the next turn's first token for example, or else the tokenizer's end token.
        """
        form = Form(self._takes_parts_only)
        at_end, between = self._probe(form) or "", self._probe(form, further=True) or ""
        ends = _after_tokens(at_end, self.atoms)
        shared = [end for end in ends if between.startswith(at_end[:end])]
        stops = [end for end in shared or ends if self.eos and at_end[:end].endswith(self.eos)]
        if shared:
            if len(shared) > 1 and at_end[shared[-1] :].strip():  # a next turn is begun without being asked for
                shared.pop()
            return Closing(at_end[: stops[0] if stops else shared[-1]], "")
        if ends:
            return Closing(at_end[: (stops or ends)[0]], "")
        opening = _after_tokens(between, self.atoms)
        token = between[: opening[0]].strip() if opening else ""
        if token in self.atoms and (token == self.eos or token not in self.bos + self._prompt):
            return Closing("", between[: opening[0]])
        return Closing("", self.eos)

    @cached_property
    def opening(self) -> str:
        """What a model without reasoning writes before its answer: an empty reasoning block, a channel's name."""
        form = Form(self._takes_parts_only)
        turns = self.turns([Message("user", ASKED), Message("assistant", ANSWERED)], form)
        try:
            prompt, whole = self.write(turns[:1], generation=True), self.write(turns, generation=False)
        except TemplateError:
            return ""
        return whole[len(prompt) :].partition(ANSWERED)[0] if whole.startswith(prompt) else ""

    @property
    def _prompt(self) -> str:
        """What the template writes after a question to ask for an answer. A token in it begins turns, it ends none."""
        turns = self.turns([Message("user", ASKED)], Form(self._takes_parts_only))
        try:
            return self.write(turns, generation=True).partition(ASKED)[2]
        except TemplateError:
            return ""


def mark_typed(text: str, controls: re.Pattern[str], place: str = "the text") -> str:
    """The text with each typed control token between the two marks.

    Raises:
        TemplateError: the text holds a mark itself.
    """
    if TYPED in text or TYPED_END in text:
        raise TemplateError(f"{place} holds U+FDD0 or U+FDD1, which are no characters")
    return controls.sub(rf"{TYPED}\g<0>{TYPED_END}", text)


_KNOWN: "weakref.WeakKeyDictionary[Any, dict[tuple[str, int], Template]]" = weakref.WeakKeyDictionary()


def template_of(tokenizer: Tokenizer, tools: Sequence[Json] | None = None) -> Template:
    """The template that a tokenizer uses for a conversation with these tools; made once.

    Raises:
        TemplateError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            "the model has no chat template, so a conversation has no defined text",
            fix="give model.chat_template in the recipe, choose a chat model, or train on rows with one `text` field",
        )
    source = tokenizer.chat_template
    if not isinstance(source, str):  # several, of which one is for tools
        source = tokenizer.get_chat_template(tools=list(tools) if tools else None)
    known = _KNOWN.setdefault(tokenizer, {})
    key = (source, len(tokenizer))
    found = known.get(key)
    if found is None:
        found = known[key] = Template(tokenizer, source)
    return found


def _call(call: Json, *, as_text: bool) -> Json:
    """A tool call with its arguments as an object or as text, whichever way the row has them."""
    import json

    function = dict(call.get("function", call))
    given = function.get("arguments", {})
    if as_text and not isinstance(given, str):
        function["arguments"] = json.dumps(given, ensure_ascii=False)
    if not as_text and isinstance(given, str):
        try:
            function["arguments"] = json.loads(given)
        except ValueError:
            function["arguments"] = given
    rest = {key: value for key, value in call.items() if key not in ("name", "arguments")}
    return {**rest, "type": call.get("type", "function"), "function": function}


@lru_cache(maxsize=64)
def any_of(tokens: frozenset[str]) -> re.Pattern[str]:
    """Finds any of these strings, the longest where one begins like another; blank ones are no control tokens."""
    ordered = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _after_tokens(text: str, tokens: frozenset[str]) -> list[int]:
    """The places in a text right after each of these tokens in it."""
    return [found.end() for found in any_of(tokens).finditer(text)]
