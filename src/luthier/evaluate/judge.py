"""A language model as judge: which of two answers is better, or whether one is right.

Judges prefer what stands first, and what is long. So a pair is shown in both orders and only a verdict that both give
counts; and a judge is trusted as far as it agrees with people: `calibrate` gives Cohen's kappa against their labels
(Zheng et al. 2023, "Judging LLM-as-a-judge"). A judge is an endpoint that speaks OpenAI's protocol, or a local model.
"""

import json
import math
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.artifact import digest
from luthier.errors import Missing, RecipeError
from luthier.evaluate.items import Item
from luthier.evaluate.preference import kappa
from luthier.evaluate.resample import bootstrap
from luthier.types import Metric, Score

Ask = Callable[[Sequence[str]], list[str | None]]
"""From prompts to answers; None where none came."""
Verdict = Literal["first", "second", "tie"]
LABELS = 100
"""Pairs with a human label below which a calibration says little."""
RESAMPLES = 500
TRIES, AT_ONCE, TIMEOUT = 3, 8, 120.0

PAIR = """Compare two answers to a question. Judge which one helps more: it is correct, does what was asked, and says
no more than is useful. Neither order nor length is a merit.

[question]
{question}

[answer 1]
{one}

[answer 2]
{two}

Say in one sentence why. Then end with a line of its own: VERDICT: 1, VERDICT: 2 or VERDICT: tie"""
ONE = """Judge whether an answer meets this criterion: {criterion}

[question]
{question}

[reference answer]
{expected}

[answer]
{answer}

Say in one sentence why. Then end with a line of its own: VERDICT: yes or VERDICT: no"""
_VERDICT = re.compile(r"VERDICT:\s*\W*(1|2|tie|yes|no)\b", re.IGNORECASE)
CRITERION = "it is correct and says what the reference answer says"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind OpenAI's chat protocol. The key is read from the environment and never written anywhere."""

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    timeout: float = TIMEOUT
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A hash of what judges: another judge is another measure."""
        return digest([self.url, self.model, PAIR, ONE, self.more])[:16]

    def __call__(self, prompts: Sequence[str]) -> list[str | None]:
        """Answers, several at a time; one that fails three times is None.

        Raises:
            Missing: none came at all.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self._one, prompts))
        errors = [answer for answer in found if isinstance(answer, Exception)]
        if prompts and len(errors) == len(prompts):
            raise Missing(
                f"the judge gives no answers: {_reason(errors[0])}", where=self.url, fix="check url, model and key"
            )
        return [None if isinstance(answer, Exception) else answer for answer in found]

    def _one(self, prompt: str) -> str | Exception:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **self.more}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_env):
            headers["Authorization"] = f"Bearer {key}"
        url = self.url.rstrip("/") + "/chat/completions"
        if not url.startswith(("http://", "https://")):
            raise RecipeError(f"'{self.url}' is no http address", where="judge", fix="give the address of the endpoint")
        error: Exception = TimeoutError()
        for attempt in range(TRIES):
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - checked above
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:  # noqa: S310
                    return str(json.load(reply)["choices"][0]["message"]["content"] or "")
            except (
                urllib.error.URLError,
                TimeoutError,
                OSError,
                ValueError,
                KeyError,
                IndexError,
                TypeError,
            ) as caught:
                error = caught
                if isinstance(caught, urllib.error.HTTPError) and caught.code in (400, 401, 403, 404):
                    break  # asking again changes nothing
                time.sleep(0.5 * 2**attempt)
        return error


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


def local(candidate: Any, *, room: int = 256) -> Ask:
    """A local model as judge: a `Candidate`, which answers greedily."""

    def ask(prompts: Sequence[str]) -> list[str | None]:
        from luthier.evaluate.asking import said
        from luthier.evaluate.items import Decoding, Task
        from luthier.types import Message

        items = tuple(Item(str(i), (Message("user", prompt),)) for i, prompt in enumerate(prompts))
        found = said(candidate, Task("judge", items, decoding=Decoding(max_new_tokens=room)))
        return [row[0].get("text") for row in found]

    return ask


def _said(reply: str | None) -> str | None:
    """The last verdict in a reply."""
    found = _VERDICT.findall(reply or "")
    return str(found[-1]).lower() if found else None


def compare(ask: Ask, pairs: Sequence[tuple[str, str, str]]) -> list[Verdict | None]:
    """Which of two answers is better, asked in both orders.

    Args:
        ask: the judge.
        pairs: (question, first answer, second answer).

    Returns:
        For each pair the verdict that both orders give; None where they contradict, or one has none.
    """
    prompts = [PAIR.format(question=q, one=one, two=two) for q, a, b in pairs for one, two in ((a, b), (b, a))]
    replies = [_said(reply) for reply in ask(prompts)]
    forward: dict[str | None, Verdict] = {"1": "first", "2": "second", "tie": "tie"}
    backward: dict[str | None, Verdict] = {"2": "first", "1": "second", "tie": "tie"}
    found: list[Verdict | None] = []
    for k in range(len(pairs)):
        one, other = forward.get(replies[2 * k]), backward.get(replies[2 * k + 1])
        found.append(one if one == other else None)
    return found


def judge_win_rate(verdicts: Sequence[Verdict | None]) -> Metric:
    """How often the second answer is better, ties half, over the pairs on which both orders agree."""
    points = {"first": 0.0, "tie": 0.5, "second": 1.0}
    agreed = [points[verdict] for verdict in verdicts if verdict is not None]
    failed = len(verdicts) - len(agreed)
    if not agreed:
        return Metric("judge win rate", float("nan"), 0.0, 1.0, 0, failed=failed)
    value, low, high = bootstrap(agreed)
    return Metric("judge win rate", value, low, high, len(agreed), failed=failed)


def calibrate(verdicts: Sequence[Verdict | None], labels: Sequence[Verdict]) -> dict[str, Any]:
    """How far the judge agrees with people, over the pairs it decided.

    Returns:
        `kappa` with a 95 % interval `low` to `high` from pairs drawn anew, `agreement` as a share, `n` pairs decided,
        `undecided` others, and whether those are `enough` to go by.
    """
    both = [(v, label) for v, label in zip(verdicts, labels, strict=True) if v is not None]
    found = _kappa(both)
    draw = random.Random(0)
    drawn = sorted(x for _ in range(RESAMPLES) if both and not math.isnan(x := _kappa(draw.choices(both, k=len(both)))))
    low, high = (drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn))]) if drawn else (math.nan, math.nan)
    agreement = sum(v == label for v, label in both) / len(both) if both else math.nan
    return {
        "kappa": found,
        "low": low,
        "high": high,
        "agreement": agreement,
        "n": len(both),
        "undecided": len(labels) - len(both),
        "enough": len(both) >= LABELS,
    }


def _kappa(both: Sequence[tuple[str, str]]) -> float:
    return kappa([v for v, _ in both], [label for _, label in both]) if both else math.nan


def score_all(answers: Sequence[str], items: Sequence[Item], *, ask: Ask, criterion: str = CRITERION) -> list[Score]:
    """1 for each answer that meets the criterion, by the judge; where it says nothing, the answer is not scored."""
    written = [at for at, answer in enumerate(answers) if answer.strip()]
    prompts = [
        ONE.format(
            criterion=criterion,
            question="\n".join(turn.content for turn in items[at].asked if turn.role != "system"),
            expected=items[at].expected,
            answer=answers[at],
        )
        for at in written
    ]
    replies = dict(zip(written, ask(prompts) if prompts else [], strict=True))
    found = []
    for at in range(len(answers)):
        if at not in replies:
            found.append(Score(0.0, "empty"))
            continue
        said = _said(replies[at])
        found.append(Score(float(said == "yes"), "scored" if said in ("yes", "no") else "failed"))
    return found
