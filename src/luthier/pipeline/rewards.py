"""What the rewards of a recipe are made of, looked for before an hour of training and not after."""

from pathlib import Path

from luthier.artifact import file_digest
from luthier.errors import RecipeError
from luthier.evaluate.scorers import find_scorer
from luthier.models.base import find_base
from luthier.recipe import Model, ModelReward, Policy, PythonReward, Recipe, ScorerReward
from luthier.runs import open_run, run_folder

WHERE = "objective.rewards"


def reward_inputs(recipe: Recipe, home: Path) -> dict[str, str]:
    """The hash of everything outside of the recipe that its rewards rest on, by what the recipe calls it.

    Raises:
        RecipeError: a file, a scorer or a reward model is not there.
        DataError: the run of a reward model has no model yet.
    """
    objective = recipe.objective
    if not isinstance(objective, Policy):
        return {}
    found: dict[str, str] = {}
    for part in (*objective.rewards, *objective.held_out):
        if isinstance(part, ScorerReward):
            find_scorer(part.scorer, part.settings, where=WHERE)
        elif isinstance(part, PythonReward):
            path = next((p for p in (home / part.path, Path(part.path)) if p.is_file()), None)
            if path is None:
                raise RecipeError(f"there is no file '{part.path}'", where=WHERE, fix="check the path")
            found[part.path] = file_digest(path)
        elif isinstance(part, ModelReward):
            found |= {name: _model(name, home) for name in part.models}
    return found


def _model(name: str, home: Path) -> str:
    folder = run_folder(home / name) or run_folder(Path(name))
    if folder is None:
        return find_base(Model(base=name), home).identity()
    run = open_run(folder)
    if run.recipe.objective.kind != "reward":
        what = f"the run learned '{run.recipe.objective.kind}', so it gives no score"
        raise RecipeError(what, where=f"{WHERE}: {name}", fix="give a run of objective.kind=reward")
    return run.artifact("model").sha256
