"""Section `evaluate`: what is measured before and after."""

from typing import Annotated

from pydantic import Field

from luthier.recipe.section import Section


class Evaluate(Section):
    """Tasks, asked of the base and of the tuned model, on the same prompts."""

    tasks: list[str] | None = None
    """Scorers for the answers to the validation prompts: `exact_match`, `squad_em`, `f1`, `final_number`, `number`,
    `contains`, `regex`, `json_equal`, `rouge`, `bleu`; or tasks of your own, `task.yaml` (see docs/evaluation.md). When
    not given: `exact_match` for conversations, none for plain text."""
    retention: list[str] | None = None
    """Suites that should not get worse: `ukulele-skills`, a .jsonl file of {"prompt", "answer"}, a task of your own in
    YAML, or a published format with its path, `humaneval:HumanEval.jsonl.gz` (see docs/evaluation.md). When not given:
    `ukulele-skills` for the bundled base, none for others."""
    safety: list[str] = Field(default_factory=list)
    """Suites of unsafe and of harmless prompts, judged together: `luthier-safety`, or `xstest:FILE`,
    `jailbreakbench:FILE`, `advbench:FILE`, `harmbench:FILE`."""
    instructions: list[str] = Field(default_factory=list)
    """Suites of verifiable instructions: `luthier-instructions`, or `ifeval:FILE`."""
    regressions: list[str] = Field(default_factory=list)
    """Files of fixed prompts with expected behaviour, of which every one must hold (see docs/evaluation.md)."""
    max_items: Annotated[int, Field(ge=1)] = 200
    """Most validation prompts to answer. All validation rows count for the loss."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer of every task; a quarter longer than a task's longest expected one when not given."""
    unsafe_code: bool = False
    """Run programs that a model wrote even where this machine offers no isolation: with limits, but with your files."""
