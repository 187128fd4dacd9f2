"""The comparison: a trained model's testimony with a witness's, and the bounds that a witness has to keep."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from luthier.errors import ParityFailed
from luthier.release.parity.testimony import PROBABLE, Probe, Testimony
from luthier.types import Json


@dataclass(frozen=True, slots=True)
class Bound:
    """What a format has to keep.

    Attributes:
        kl: mean Kullback-Leibler divergence of the next token, in nats, trained to released.
        top: share of places at which both find the same token likeliest; near ties aside.
        gap: largest difference of a log-probability that counts: of the likeliest tokens, in nats; None: not bounded.
        greedy: whether answers have to be the same, up to near ties.
        ends: share of answers that end by themselves may be lower by this, two standard errors aside; where answers
            have to be the same their ends are, too.
    """

    kl: float
    top: float
    gap: float | None
    greedy: bool
    ends: float = 0.0


BOUNDS = {
    "float32": Bound(1e-5, 0.999, 0.02, greedy=True),
    "float16": Bound(1e-4, 0.999, 0.1, greedy=True),
    "bfloat16": Bound(2e-3, 0.97, 0.5, greedy=True),
    "f32": Bound(1e-5, 0.999, 0.02, greedy=True),
    "f16": Bound(1e-4, 0.999, 0.1, greedy=True),
    "bf16": Bound(2e-3, 0.97, 0.5, greedy=True),
    "q8_0": Bound(0.01, 0.95, None, greedy=False, ends=0.05),
    "q6_k": Bound(0.03, 0.92, None, greedy=False, ends=0.1),
    "q5_k_m": Bound(0.06, 0.9, None, greedy=False, ends=0.1),
    "q4_k_m": Bound(0.15, 0.85, None, greedy=False, ends=0.15),
    "served": Bound(5e-3, 0.97, 0.5, greedy=True),
}
"""By format. Those of fewer bits are about six times what llama.cpp's authors measured on Llama 3 8B (mean KL 0.0014 in
Q8_0, 0.0055 in Q6_K, 0.011 in Q5_K_M, 0.031 in Q4_K_M: tools/perplexity/README.md), as smaller models lose more; those
that keep the weights leave room for deeper models than the bundled base, whose numbers are in docs/release.md."""
LIKELY = math.log(1e-3)
"""Log-probability of the trained model below which a token's own difference is not looked at, only its share of KL."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that differs: its kind (`template`, `tokenizer`, `weights`, `numerics`), and what it is."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """One witness. `same`: share of answers that are the trained model's; `ended`: share that ended by themselves."""

    name: str
    form: str
    prompts: int
    ids_equal: bool | None
    kl: float
    top: float
    gap: float
    same: float | None
    ended: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    difference: Difference | None = None
    notes: Sequence[str] = ()
    bound: Bound = BOUNDS["float32"]

    @property
    def holds(self) -> bool:
        """Whether it is the trained model, within the bound of its format."""
        return self.difference is None

    def to_json(self) -> Json:
        """As one JSON object, with the bound."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Table:
    """All witnesses. `trained`: the metrics of the trained model's own answers."""

    prompts: int
    tokens: int
    rows: Sequence[Row]
    trained: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether all of them hold."""
        return all(row.holds for row in self.rows)

    def to_json(self) -> Json:
        """As one JSON object; the first row's numbers stand at the top, too."""
        first = self.rows[0]
        return {
            "prompts": self.prompts,
            "tokens_compared": self.tokens,
            "tokens_equal": first.same == 1.0,
            "largest_difference": first.gap,
            "bound": first.bound.gap,
            "kl": first.kl,
            "holds": self.holds,
            "trained": dict(self.trained),
            "rows": [row.to_json() for row in self.rows],
        }

    def require(self) -> None:
        """Raise unless all hold.

        Raises:
            ParityFailed: with the first that does not, the kind of what differs first, and what it is.
        """
        for row in self.rows:
            if row.difference is not None:
                raise ParityFailed(
                    f"{row.name} is not the trained model; what differs first is of kind {row.difference.kind}: "
                    f"{row.difference.what}",
                    where="parity",
                    fix=FIXES[row.difference.kind],
                )


FIXES = {
    "template": "serve with the chat template that was trained; nothing was released",
    "tokenizer": "ship the tokenizer's files as they were trained; nothing was released",
    "weights": "make the release anew: rm -r its folder, luthier release; nothing was released",
    "numerics": "a wider format keeps more (release.dtype=float32, release.gguf=[q8_0]); nothing was released",
}


def compare(
    name: str,
    form: str,
    trained: Testimony,
    found: Testimony,
    probes: Sequence[Probe],
    *,
    score: Callable[[Sequence[str]], Mapping[str, float]] = lambda _: {},
    diagnose: Callable[[], Difference | None] = lambda: None,
    notes: Sequence[str] = (),
) -> Row:
    """One witness's row.

    Args:
        name: who it is, for people.
        form: its format, of `BOUNDS`.
        trained: what the trained model says.
        found: what the witness says.
        probes: what both were asked.
        score: the metrics of answers' texts.
        diagnose: looks through files for what makes the numbers differ; asked only where they do.
        notes: what the user should know of it.
    """
    bound = bound_of(form, trained.computed, found.computed)
    numbers = _numbers(trained, found)
    same, first = _answers(trained, found, bound) if found.answers else (None, None)
    difference = _reading(trained, found, probes) or _written(trained, found)
    difference = difference or _outside(numbers, bound, first, diagnose)
    ended = _share([a.stopped for a in found.answers]) if found.answers else None
    if difference is None and ended is not None:
        usual, n = _share([a.stopped for a in trained.answers]), len(found.answers)
        fewer = bound.ends * n + 2 * math.sqrt(n * bound.ends * (1 - bound.ends))  # chance on few prompts allowed for
        if not bound.greedy and (usual - ended) * n > fewer + 1e-9:
            what = f"{ended:.0%} of its answers end by themselves, of the trained model's {usual:.0%}"
            difference = diagnose() or Difference("numerics", what)
    return Row(
        name,
        form,
        len(probes),
        None if found.ids is None else found.ids == [p.ids for p in probes],
        numbers.kl,
        numbers.top,
        numbers.gap,
        same,
        ended,
        score([a.text for a in found.answers]) if found.answers else {},
        difference,
        notes,
        bound,
    )


def bound_of(form: str, *computed: str) -> Bound:
    """The bound of a format, widened to that of the formats in which it was computed."""
    bound, wider = BOUNDS[form], [BOUNDS[name] for name in computed]
    gaps = [one.gap for one in (bound, *wider)]
    return replace(
        bound,
        kl=max([bound.kl, *(one.kl for one in wider)]),
        top=min([bound.top, *(one.top for one in wider)]),
        gap=None if None in gaps else max(gap for gap in gaps if gap is not None),
    )


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 1.0


def _reading(trained: Testimony, found: Testimony, probes: Sequence[Probe]) -> Difference | None:
    """Control tokens, then the rendered text, then the ids."""
    if found.controls is not None and trained.controls is not None:
        for key, token in trained.controls.items():
            if found.controls.get(key) != token:
                where = f"token {key}" if key.isdigit() else f"the {key} token"
                return Difference("tokenizer", f"{where} is {token!r} in training, {found.controls.get(key)!r} there")
    if found.rendered is not None and trained.rendered is not None:
        for ours, theirs in zip(trained.rendered, found.rendered, strict=True):
            if ours != theirs:
                return Difference("template", _texts(ours, theirs))
    if found.ids is not None:
        for p, ids in zip(probes, found.ids, strict=True):
            if p.ids != ids:
                return Difference("tokenizer", _ids(p.ids, ids))
    if found.around is not None and trained.around is not None and found.around != trained.around:
        ours, theirs = (" ... ".join(map(str, ids)) for ids in (trained.around, found.around))
        return Difference("tokenizer", f"around a text stands {ours} in training, {theirs} there")
    return None


def _written(trained: Testimony, found: Testimony) -> Difference | None:
    """The text of answers whose ids are the same. SentencePiece takes a space off the beginning, llama.cpp does not."""
    for ours, theirs in zip(trained.answers, found.answers, strict=False):
        if ours.ids and ours.ids == theirs.ids and ours.text != theirs.text and " " + ours.text != theirs.text:
            return Difference("tokenizer", f"the same tokens read {ours.text!r} in training, {theirs.text!r} there")
    return None


def _texts(ours: str, theirs: str) -> str:
    at = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    start = max(0, at - 20)
    return f"the prompt reads ...{ours[start : at + 20]!r} in training, ...{theirs[start : at + 20]!r} there"


def _ids(ours: list[int], theirs: list[int]) -> str:
    if theirs[:1] == ours[:1] and theirs[1:] == ours:
        return f"the begin token {ours[0]} stands there twice"
    at = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return f"ids differ from place {at} on: {ours[at : at + 4]} in training, {theirs[at : at + 4]} there"


@dataclass(frozen=True, slots=True)
class _Numbers:
    kl: float
    top: float
    gap: float


def _numbers(trained: Testimony, found: Testimony) -> _Numbers:
    """Over all places: mean KL, share of equal likeliest tokens (near ties count as equal), largest difference."""
    kls, tops, gap = [], [], 0.0
    for ours, theirs in zip(trained.scores, found.scores, strict=bool(found.scores)):
        for p, q in zip(ours, theirs, strict=False):  # the trained one is asked everywhere, a server not at the end
            kls.append(divergence(p, q))
            best = max(q, key=q.__getitem__)
            apart = max(p.values()) - p.get(best, -math.inf)
            tops.append(apart <= TIE)
            gap = max([gap, *(abs(p[i] - q[i]) for i in p.keys() & q.keys() if p[i] > LIKELY)])
    if not kls:  # a server that gives no probabilities
        return _Numbers(0.0, 1.0, 0.0)
    return _Numbers(sum(kls) / len(kls), sum(tops) / len(tops), gap)


TIE = 0.02
"""Two tokens whose log-probabilities are this near are equally likely; which is taken says nothing."""


def divergence(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """KL(p || q) in nats over the tokens that both name, all others as one: a lower bound of that over all tokens."""
    both = p.keys() & q.keys()
    kl, rest = 0.0, [1.0, 1.0]
    for token in both:
        share = math.exp(p[token])
        kl += share * (p[token] - q[token])
        rest = [rest[0] - share, rest[1] - math.exp(q[token])]
    if len(both) < PROBABLE and max(rest) < 1e-6:
        return max(0.0, kl)
    least = 1e-6  # what is left of 1 after a sum of float32 numbers says nothing below that
    ours, theirs = (max(one, least) for one in rest)
    return max(0.0, kl + ours * math.log(ours / theirs)) if ours > least else max(0.0, kl)


def _answers(trained: Testimony, found: Testimony, bound: Bound) -> tuple[float, str | None]:
    """The share of equal answers, and the first other one that no near tie explains."""
    same, first = 0, None
    near = max(TIE, bound.gap or 0.0)
    for ours, theirs, scores in zip(trained.answers, found.answers, trained.scores, strict=True):
        if (ours.ids, ours.stopped) == (theirs.ids, theirs.stopped):
            same += 1
            continue
        pairs = zip(ours.ids, theirs.ids, strict=False)
        at = next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(ours.ids), len(theirs.ids)))
        places = sorted(scores[at].values(), reverse=True) if at < len(scores) else []
        tie = len(places) > 1 and places[0] - places[1] <= near
        if first is None and not tie and at < len(scores):
            first = f"{ours.text!r} became {theirs.text!r}"
    return same / max(1, len(trained.answers)), first


def _outside(
    numbers: _Numbers, bound: Bound, answer: str | None, diagnose: Callable[[], Difference | None]
) -> Difference | None:
    told: list[Any] = []
    if numbers.kl > bound.kl:
        told.append(f"KL {numbers.kl:.2g}, the bound is {bound.kl:g}")
    if numbers.top < bound.top:
        told.append(f"the same token is likeliest at {numbers.top:.1%} of places, the bound is {bound.top:.1%}")
    if bound.gap is not None and numbers.gap > bound.gap:
        told.append(f"log-probabilities differ by up to {numbers.gap:.2g}, the bound is {bound.gap:g}")
    if bound.greedy and answer is not None:
        told.append(f"an answer differs: {answer}")
    if not told:
        return None
    found = diagnose()
    return Difference(found.kind, f"{found.what} ({told[0]})") if found else Difference("numerics", "; ".join(told))
