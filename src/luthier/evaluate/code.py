"""Tasks whose answers are programs: they run in the sandbox, and pass when the tests do. HumanEval's published file.

Source: Chen et al. 2021, "Evaluating large language models trained on code".
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from luthier.evaluate.items import Decoding, Item, Task
from luthier.evaluate.rows import need, read_rows
from luthier.evaluate.sandbox import Limits, Ran, run_programs
from luthier.evaluate.summaries import pass_at
from luthier.evaluate.taskfile import check_ids
from luthier.types import Message, Score

_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
HUMANEVAL = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")
"""Where the completion of a function ends, as HumanEval's authors cut it, and a fence."""
ROOM = 512
ASKED = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"
LIMITS = Limits()
OUTCOMES = {"pass": "passed", "fail": "wrong", "timeout": "timed_out", "crash": "crashed"}


def humaneval(path: Path, name: str, *, plain: bool = False, samples: int = 1) -> list[Task]:
    """HumanEval's file, `HumanEval.jsonl` or `.jsonl.gz`.

    Args:
        path: the file.
        name: of the metric.
        plain: continue the bare text, as base models are asked; otherwise ask in the chat template.
        samples: programs an item, greedy when it is 1; else at temperature 0.2 and nucleus 0.95, with pass@1 and, from
            20 samples on, pass@10.
    """
    items = []
    for where, row in read_rows(path):
        number, prompt, entry, solution, test = (str(need(row, column, where, HUMANEVAL)) for column in HUMANEVAL)
        more = {
            "prompt": prompt,
            "entry_point": entry,
            "test": test,
            "plain": plain,
        }
        items.append(
            Item(
                id=number,
                prompt=() if plain else (Message("user", ASKED.format(prompt.strip())),),
                expected=solution,
                text=prompt if plain else None,
                more=more,
            )
        )
    check_ids(items, str(path))
    temperature, top_p = (0.2, 0.95) if samples > 1 else (0.0, 1.0)
    decoding = Decoding(ROOM, temperature, top_p, samples, stop=STOPS if plain else ())
    ks = (1, 10) if samples >= 20 else (1,)
    return [
        Task(
            name,
            tuple(items),
            decoding=decoding,
            summarise=pass_at(ks),
            scoring=f"generate humaneval {'plain' if plain else 'chat'} {LIMITS}",
            score_all=partial(score_programs),
        )
    ]


def program_of(answer: str, item: Item) -> str:
    """The whole program of an answer: of a completion with its prompt, of a chat answer its code block."""
    prompt, entry = str(item.more["prompt"]), str(item.more["entry_point"])
    if item.more["plain"]:
        return prompt + answer
    blocks = _FENCE.findall(answer)
    code = next((block for block in blocks if f"def {entry}" in block), blocks[0] if blocks else answer)
    if f"def {entry}" not in code:
        return prompt + code  # the body alone
    head = prompt[: prompt.rfind(f"def {entry}")]  # imports and functions that the answer need not repeat
    return head + code


def code_block(answer: str) -> str:
    """The code of an answer: its first fenced block, or all of it."""
    blocks = _FENCE.findall(answer)
    return blocks[0] if blocks else answer


def tests_of(item: Item) -> str:
    """HumanEval's check, and the call that runs it."""
    return f"{item.more['test']}\ncheck({item.more['entry_point']})\n"


def score_programs(answers: Sequence[str], items: Sequence[Item], *, unsafe: bool = False) -> list[Score]:
    """1 for each program that passes its tests; a sandbox that broke, three times, scores nothing.

    Raises:
        Missing: nothing isolates here, and `unsafe` is false.
    """
    written = [at for at, answer in enumerate(answers) if answer.strip()]
    programs = [
        (program_of(answers[at], items[at]), tests_of(items[at]), items[at].more["prompt"] + items[at].expected)
        for at in written
    ]
    found = dict(zip(written, run_programs(programs, LIMITS, unsafe=unsafe), strict=True))
    return [_score(found.get(at)) for at in range(len(answers))]


def unsandboxed(task: Task) -> Task:
    """The task with its programs run even where nothing isolates them; other tasks as they are."""
    if isinstance(task.score_all, partial) and task.score_all.func is score_programs:
        return replace(task, score_all=partial(score_programs, unsafe=True))
    return task


def _score(ran: Ran | None) -> Score:
    if ran is None:
        return Score(0.0, "empty", dict.fromkeys(OUTCOMES.values(), 0.0))
    parts = {name: float(ran.outcome == outcome) for outcome, name in OUTCOMES.items()}
    return Score(parts["passed"], "failed" if ran.outcome == "sandbox" else "scored", parts)
