"""Section `evaluate`: what is measured before and after."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.section import Section


class Guard(Section):
    """A guard model that says which answers are unsafe, in place of the detector of refusals."""

    model: str
    """A folder or a hub id: a sequence classifier, or a causal model that writes safe or unsafe, such as Llama
    Guard."""
    label: str | None = None
    """A classifier's label that means unsafe, where it is not called so (`unsafe`, `toxic`, `harmful`, ...)."""


class RedTeam(Section):
    """A tool of yours that attacks: a program that reads and writes JSON lines (see docs/evaluation.md)."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program and its arguments; it runs in the recipe's folder, without a shell."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w-]{0,40}$")] = "red-team"
    """The metric is `NAME.unsafe_compliance`."""
    judges: bool = True
    """Whether the tool judges the answers; else the guard does, or the detector of refusals."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the tool may take each time it is started."""
    install: str = "install the tool, or remove evaluate.red_team"
    """The command that installs it, told to whoever lacks it."""


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
    guard: Guard | None = None
    """A guard model as the judge of unsafe answers."""
    red_team: RedTeam | None = None
    """A red-team tool, whose attacks start from the unsafe prompts of `safety`, or of `luthier-safety`."""
    instructions: list[str] = Field(default_factory=list)
    """Suites of verifiable instructions: `luthier-instructions`, or `ifeval:FILE`."""
    regressions: list[str] = Field(default_factory=list)
    """Files of fixed prompts with expected behaviour, of which every one must hold (see docs/evaluation.md)."""
    max_items: Annotated[int, Field(ge=1)] = 200
    """Most validation prompts to answer. All validation rows count for the loss."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer of every task; a quarter longer than a task's longest expected one when not given."""
    sampler: Literal["in_process", "vllm"] = "in_process"
    """What writes the answers: the model itself, or vLLM on the same GPU (`pip install vllm`) with its weights or LoRA
    adapter. Choices and texts are scored by the model itself all the same."""
    unsafe_code: bool = False
    """Run programs that a model wrote even where this machine offers no isolation: with limits, but with your files."""

    @model_validator(mode="after")
    def _the_guard_has_something_to_judge(self) -> "Evaluate":
        own = self.red_team is not None and not self.red_team.judges
        if self.guard and not self.safety and not own:
            raise ValueError("evaluate.guard judges nothing; name a suite in evaluate.safety, or remove it")
        return self
