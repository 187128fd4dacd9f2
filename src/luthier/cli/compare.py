"""`luthier compare`: two models on the same prompts, by statistics or by people."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.console import RUNS, AsJson, Runs, console, document, put

if TYPE_CHECKING:
    from luthier.evaluate.votes import Votes

VOTES = Path("votes.sqlite")
KEYS = {"l": "left", "r": "right", "t": "tie", "b": "both bad"}


def compare(
    first: Annotated[str, typer.Argument(help="A model: a run, a folder, ukulele, or a hub id.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="What to ask; ukulele-skills unless given.")
    ] = None,
    vote: Annotated[bool, typer.Option("--vote", help="Show the answers blind, and let a person choose.")] = False,
    rater: Annotated[str | None, typer.Option("--rater", help="Who votes; your user name unless given.")] = None,
    votes: Annotated[Path, typer.Option("--votes", help="The file of votes.")] = VOTES,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Let this model judge: a run, a folder, or with --judge-url its name there."),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option("--judge-url", help="An endpoint that speaks OpenAI's protocol, up to /v1.")
    ] = None,
    judge_key: Annotated[
        str, typer.Option("--judge-key", help="The environment variable that holds its key.")
    ] = "OPENAI_API_KEY",
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Pairs that people judged, to measure the judge against.")
    ] = None,
    most: Annotated[int, typer.Option("--most-labels", min=1, help="Pairs of --labels that the judge is asked.")] = 500,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare two models on the same prompts: paired differences, blind votes with --vote, or a judge with --judge."""
    _check_options(judge, judge_url, labels, vote=vote)
    from luthier.pipeline.suites import ask_suites, differences, load_suites

    tasks = load_suites(suite or ["ukulele-skills"])
    one, two = ask_suites(first, tasks, runs), ask_suites(second, tasks, runs)
    if vote:
        store = _put_up(votes, first, second, tasks, one, two)
        if not as_json:
            _ask_votes(store, (first, second), rater or getpass.getuser())
        _tell_votes(store, first, second, as_json=as_json)
        return
    if judge:
        judging = (judge, judge_url, judge_key, runs)
        _tell_judge(judging, tasks, (first, second), (one, two), votes, labels, most, as_json=as_json)
        return
    rows = differences(tasks, one, two)
    if as_json:
        put(document(None, differences=rows))
        return
    screen = console(out=True)
    for row in rows:
        bounds = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        screen.print(
            f"{row['name']:<24} {row['first']:.3f} -> {row['second']:.3f}  {row['difference']:+.3f} {bounds} "
            f"n={row['n']} p={row['p']:.2g}",
            markup=False,
        )


def _check_options(judge: str | None, url: str | None, labels: Path | None, *, vote: bool) -> None:
    """Nothing is given that would do nothing."""
    from luthier.errors import RecipeError

    if judge is None and (url or labels):
        what = "--judge-url" if url else "--labels"
        raise RecipeError(f"{what} without --judge", fix="name the model that judges: --judge MODEL")
    if judge is not None and vote:
        raise RecipeError("--judge and --vote at once", fix="vote first; the judge is then measured against the votes")


def _tell_judge(
    judging: tuple[str, str | None, str, Path],
    tasks: Any,
    names: tuple[str, str],
    answers: tuple[Any, Any],
    votes: Path,
    labels: Path | None,
    most: int,
    *,
    as_json: bool,
) -> None:
    """The judge's win rate over verdicts that both orders give, beside its agreement with people."""
    from luthier.pipeline.judged import calibrate_judge, judge_models, open_judge, read_labels, voted

    known, left_out = read_labels(labels, most) if labels else (voted(votes, names), 0)  # before the judge is paid for
    ask = open_judge(*judging)
    facts = judge_models(ask, tasks, names, *answers)
    if known:
        facts["calibration"] = calibrate_judge(ask, known) | {"labels": str(labels or votes), "left_out": left_out}
    if as_json:
        put(document(None, **facts))
        return
    screen = console(out=True)
    if not facts["n"]:
        screen.print("the judge decided nothing: its two orders contradict each other everywhere")
    else:
        rate = f"{facts['win_rate']:.3f} [{facts['low']:.3f}, {facts['high']:.3f}]"
        screen.print(f"{names[1]} wins {rate} against {names[0]} on {facts['n']} pairs by {judging[0]}", markup=False)
        if facts["length_controlled"] is not None:
            screen.print(f"at equal lengths {facts['length_controlled']:.3f}")
    screen.print(f"undecided, for the two orders contradict: {facts['undecided']}; answers alike: {facts['same']}")
    if (found := facts.get("calibration")) is None:
        screen.print("not measured against people: give --labels, or vote with --vote")
        return
    screen.print(
        f"agreement with people: kappa {found['kappa']:.2f} [{found['low']:.2f}, {found['high']:.2f}] "
        f"on {found['n']} pairs ({found['undecided']} undecided, {left_out} rows left out)"
        + ("" if found["enough"] else "; fewer than 100 say little")
    )


def _put_up(path: Path, first: str, second: str, tasks: Any, one: Any, two: Any) -> "Votes":
    """Every prompt on which the two say different things."""
    from luthier.evaluate.votes import Votes

    store = Votes(path)
    for task in tasks:
        other = {(answer.item, answer.sample): answer for answer in two[task.name]}
        for answer in one[task.name]:
            match = other.get((answer.item, answer.sample))
            if match is not None and answer.answer.strip() != match.answer.strip():
                prompt = "\n\n".join(turn.content for turn in answer.prompt)
                store.add(prompt, first, answer.answer, second, match.answer)
    return store


def _ask_votes(store: "Votes", models: tuple[str, str], rater: str) -> None:
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    from luthier.pipeline.words import visible

    screen = console(out=True)
    while (shown := store.next(rater, models)) is not None:
        screen.print(Panel(Text(visible(shown.prompt)), title="prompt"))
        answers = {"left": shown.left, "right": shown.right}
        panels = [Panel(Text(visible(text) or " "), title=side) for side, text in answers.items()]
        screen.print(Columns(panels, equal=True, expand=True))
        key = _key()
        if key == "q":
            return
        store.vote(shown, rater, KEYS[key])


def _key() -> str:
    """A vote's key, or q; the end of the input is one."""
    while True:
        try:
            said = input("[l]eft, [r]ight, [t]ie, [b]oth bad, [q]uit: " if sys.stdin.isatty() else "")
        except EOFError:
            return "q"
        key = said.strip().lower()[:1]
        if key in KEYS or key == "q":
            return key


def _tell_votes(store: "Votes", first: str, second: str, *, as_json: bool) -> None:
    """Win rate with its interval, at equal lengths, and how many votes would decide; rankings where there are more."""
    from luthier.evaluate.preference import length_controlled, ranking, votes_needed, win_rate

    ballots = store.ballots()
    mine = [b for b in ballots if {b.first, b.second} == {first, second}]
    facts: dict[str, Any] = store.summary()
    if mine:
        rate = win_rate(mine, second)
        facts |= {"win_rate": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
        facts["length_controlled"] = length_controlled(mine, second)
        facts["votes_needed"] = votes_needed(rate.value)
    if len({name for b in ballots for name in (b.first, b.second)}) > 2:
        ranked = ranking(ballots, first)
        facts["ranking"] = [{"model": m.name, "elo": m.value, "low": m.low, "high": m.high} for m in ranked]
    if as_json:
        put(document(None, **facts))
        return
    screen = console(out=True)
    if not mine:
        screen.print("no votes yet; run this with --vote in a terminal")
        return
    equal = f"at equal lengths {facts['length_controlled']:.3f}"
    screen.print(f"{second} wins {rate} against {first}; {equal}", markup=False)
    if rate.low <= 0.5 <= rate.high:
        more = max(0, facts["votes_needed"] - len(mine)) if facts["votes_needed"] else 0
        screen.print(f"undecided; about {more:,} more votes would decide" if more else "undecided")
    for name in ("votes", "ties", "both_bad", "self_agreement", "kappa"):
        if facts[name] is not None:
            screen.print(f"{name.replace('_', ' ')}: {facts[name]}")
