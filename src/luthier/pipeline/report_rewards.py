"""What the report says of a run that learned from rewards: how both scores went, and answers from before and after."""

from typing import Any

from luthier.events import Validated
from luthier.pipeline.report_answers import shorten
from luthier.pipeline.story import Story
from luthier.types import Json

ROWS = 14
MOMENTS = ("before", "best", "last")
TITLES = {"before": "before training", "best": "the weights that are kept", "last": "at the end"}


def rewards_of(story: Story) -> Json | None:
    """The curve, a line a look, thinned; the sentence of a run that was gamed; and examples."""
    looks = [look for look in story.validations if "held_out" in look.metrics]
    if not looks:
        return None
    kept = story.rollouts or {}
    best = max(looks, key=lambda look: (look.metrics["greedy"], -look.step))
    every = max(1, -(-len(looks) // ROWS))
    shown = sorted({*range(0, len(looks), every), len(looks) - 1, looks.index(best)})
    return {
        "gamed": kept.get("gamed"),
        "rows": [_row(looks[i], best) for i in shown],
        "examples": [_example(example) for example in kept.get("examples", ())[:4]],
    }


def _row(look: Validated, best: Validated) -> Json:
    return {
        "step": look.step,
        "best": look.step == best.step,
        **{name: look.metrics.get(name) for name in ("greedy", "held_out", "reward", "kl", "length", "truncated")},
    }


def _example(example: Json) -> Json:
    answers: list[Any] = []
    for moment in MOMENTS:
        said = example[moment]
        if moment != "before" and answers and answers[-1]["step"] == said["step"]:
            answers[-1]["title"] += f", {TITLES[moment]}"
            continue
        answers.append({**said, "answer": shorten(said["answer"], 300)[0], "title": TITLES[moment]})
    return {"prompt": shorten(example["prompt"], 300)[0], "answers": answers}
