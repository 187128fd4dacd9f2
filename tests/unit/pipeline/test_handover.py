"""What is handed over can be read by the engine that it is for, and its rewards say what ours say."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch

from luthier.errors import RecipeError
from luthier.pipeline import run_recipe
from luthier.pipeline.handover import hand_over
from luthier.runs import Run

GRPO = {
    "kind": "grpo",
    "rewards": [{"kind": "scorer", "scorer": "exact_match"}, {"kind": "python", "path": "mine.py", "weight": 0.5}],
    "prompts": 8,
    "answers": 4,
    "max_new_tokens": 6,
    "kl": 0.01,
}
PPO = {"kind": "ppo", "rewards": [{"kind": "scorer", "scorer": "exact_match"}], "kl_target": 2.0, "prompts": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, rows, pairs and a reward function."""
    folder = tmp_path_factory.mktemp("handover")
    scenes.make_base(folder / "base")
    scenes.write_rows(folder / "rows.jsonl", scenes.conversations(40))
    pairs = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no", "margin": 2.0} for i in range(20)]
    scenes.write_rows(folder / "pairs.jsonl", pairs)
    (folder / "mine.py").write_text("def reward(answer, item):\n    return float(len(answer) < 5)\n")
    return folder


def planned(place: Path, objective: dict[str, Any], rows: str = "rows", tuning: str = "lora") -> Run:
    """A run up to its plan."""
    body = scenes.recipe(place / "base", place / f"{rows}.jsonl", objective=objective, tuning={"kind": tuning})
    body["training"].pop("batch_tokens")
    body["gate"] = {"rules": []}
    path = scenes.write_recipe(place / "recipe.yaml", body)
    return run_recipe(path, [f"name=x-{objective['kind']}"], root=place / "runs", until="plan")


def command(folder: Path) -> list[str]:
    """The words of the command line."""
    import shlex

    return shlex.split((folder / "run.sh").read_text().partition("set -e\n")[2].replace("\\\n", " "))


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("handed", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_verl_gets_its_columns_and_rewards(place: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = place / "verl"
    hand_over(planned(place, GRPO), "verl", out)
    rows = parquet.read_table(out / "train.parquet").to_pylist()
    rows += parquet.read_table(out / "validation.parquet").to_pylist()
    assert len(rows) == 40
    row = rows[0]
    assert row["prompt"][-1]["role"] == "user"
    given = (row["data_source"], "", row["reward_model"]["ground_truth"], row["extra_info"])
    score = module(out / "reward.py").compute_score
    right = row["reward_model"]["ground_truth"]
    assert score(given[0], right, right, given[3]) == 1 + 0.5 * (len(right) < 5)
    assert score(given[0], "a very wrong answer", right, given[3]) == 0
    said = dict(word.split("=", 1) for word in command(out)[3:])
    assert said["algorithm.adv_estimator"] == "grpo"
    assert said["actor_rollout_ref.rollout.n"] == "4"
    assert said["data.max_response_length"] == "6"
    assert said["actor_rollout_ref.actor.kl_loss_coef"] == "0.01"
    assert said["actor_rollout_ref.actor.loss_agg_mode"] == "token-mean"


@pytest.mark.parametrize(
    "objective", [GRPO, PPO, {**GRPO, "kind": "rloo"}, {**GRPO, "loss": "dr_grpo"}], ids=["grpo", "ppo", "rloo", "dr"]
)
def test_verls_own_configuration_knows_every_setting(objective: dict[str, Any], place: Path) -> None:
    verl = pytest.importorskip("verl", reason="pip install --no-deps verl")
    hydra = pytest.importorskip("hydra")
    pytest.importorskip("pyarrow")
    out = place / "composed"
    hand_over(planned(place, objective), "verl", out)
    settings = [word for word in command(out)[3:] if "train_files" not in word]
    with hydra.initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        found = hydra.compose("ppo_trainer", overrides=settings)
    assert found.data.train_batch_size == 8
    assert found.actor_rollout_ref.actor.ppo_mini_batch_size <= 8


def test_openrlhf_gets_prompts_and_rewards(place: Path) -> None:
    out = place / "openrlhf"
    hand_over(planned(place, PPO), "openrlhf", out)
    rows = [json.loads(line) for side in ("train", "validation") for line in (out / f"{side}.jsonl").open()]
    assert len(rows) == 40
    asked, right = json.loads(rows[0]["label"])
    assert asked == rows[0]["input"]
    given = module(out / "reward.py").reward_func(
        ["Q" + right + "<|end|>", "Q" + right, "Qno"], ["Q"] * 3, [rows[0]["label"]] * 3
    )
    assert torch.equal(given["rewards"], torch.tensor([1.0, 1.0, 0.0]))
    words = command(out)
    assert words[words.index("--algo.advantage.estimator") + 1] == "gae"
    assert words[words.index("--rollout.max_new_tokens") + 1].isdigit()
    assert os.access(out / "run.sh", os.X_OK)


def test_openrlhf_gets_pairs(place: Path) -> None:
    for objective, trainer in (({"kind": "dpo", "beta": 0.3}, "train_dpo"), ({"kind": "reward"}, "train_rm")):
        out = place / trainer
        hand_over(planned(place, objective, "pairs"), "openrlhf", out)
        rows = [json.loads(line) for side in ("train", "validation") for line in (out / f"{side}.jsonl").open()]
        assert len(rows) == 20
        assert rows[0]["chosen"] == [{"role": "assistant", "content": "yes"}]
        assert rows[0]["margin"] == 2.0
        assert f"openrlhf.cli.{trainer}" in command(out)


def test_what_cannot_be_handed_over_is_told(place: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(RecipeError, match="verl is handed prompts, and the run learns 'dpo'"):
        hand_over(planned(place, {"kind": "dpo"}, "pairs"), "verl", place / "no")
    with pytest.raises(RecipeError, match="there is no engine 'ray'"):
        hand_over(planned(place, PPO), "ray", place / "no")
    counted = {**GRPO, "rewards": [{"kind": "length", "goal": 3}]}
    with pytest.raises(RecipeError, match="'length', which counts tokens"):
        hand_over(planned(place, counted), "verl", place / "no")
