"""A run's prompts or pairs as files for engines that are built for many GPUs, with a command line that trains on them.

| engine | prompts | pairs |
| --- | --- | --- |
| verl 0.9 | Parquet: prompt, data_source, ability, reward_model, extra_info | has no trainer for pairs |
| openrlhf 0.11 | JSON lines: input, label | JSON lines: prompt, chosen, rejected, margin |

Rewards go along as a Python file in the form that the engine asks for. It needs Luthier in that engine's environment,
without its dependencies: `pip install --no-deps luthier pydantic`.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.artifact import make_folder, write_text
from luthier.errors import DataError, Missing, RecipeError
from luthier.models.base import find_base
from luthier.recipe import Dpo, Grpo, ModelReward, Policy, Ppo, PythonReward, Reward, Rloo
from luthier.runs import Run
from luthier.types import Example, Json, Message, Pair

ADVANTAGES = {
    "verl": {"ppo": "gae", "grpo": "grpo", "rloo": "rloo"},
    "openrlhf": {"ppo": "gae", "grpo": "group_norm", "rloo": "rloo"},
}
SIDES = ("train", "validation")
Settings = dict[str, Any]


def hand_over(run: Run, engine: str, out: Path) -> list[Path]:
    """Write everything that an engine needs into a folder.

    Args:
        run: with its dataset and its plan.
        engine: `verl` or `openrlhf`.
        out: the folder; files of these names in it are replaced.

    Returns:
        What was written, the command line last.

    Raises:
        RecipeError: the engine has nothing for this objective.
        Missing: Parquet is to be written, and pyarrow is not installed.
    """
    if engine not in ENGINES:
        raise RecipeError(f"there is no engine '{engine}'; known: {', '.join(ENGINES)}", fix="choose one of them")
    make_folder(out)
    written, command = ENGINES[engine](run, out)
    script = out / "run.sh"
    write_text(script, "#!/bin/sh\nset -e\n" + _lines(command) + "\n")
    script.chmod(0o755)
    return [*written, script]


def _lines(command: list[str]) -> str:
    return " \\\n  ".join(shlex.quote(part) for part in command)


def _rows(run: Run, side: str) -> Iterator[Json]:
    with run.artifact("dataset").path(f"{side}.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _prompts(run: Run, side: str) -> Iterator[tuple[list[Json], str, str]]:
    """What is asked, the row's own answer, and where it was read."""
    for example in map(Example.from_json, _rows(run, side)):
        if example.messages:
            yield _plain(example.messages[:-1]), example.messages[-1].content, example.where


def _plain(turns: tuple[Message, ...]) -> list[Json]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _policy(run: Run, engine: str) -> Ppo | Grpo | Rloo:
    objective = run.recipe.objective
    if not isinstance(objective, Ppo | Grpo | Rloo):
        known = ", ".join(ADVANTAGES[engine])
        raise RecipeError(
            f"{engine} is handed prompts, and the run learns '{objective.kind}'", where="objective.kind", fix=known
        )
    return objective


def _longest(run: Run) -> tuple[int, int]:
    """Tokens of the longest row, and of an answer: as the recipe says, else the longest trained part and a quarter."""
    facts = run.artifact("dataset").json("facts.json")["train"]
    objective = run.recipe.objective
    asked = objective.max_new_tokens if isinstance(objective, Policy) else None
    longest = int(facts["longest"])
    return longest, asked or longest


def _base(run: Run) -> str:
    base = find_base(run.recipe.model, run.home)
    return base.name if base.revision else str(base.folder.resolve())


def _verl(run: Run, out: Path) -> tuple[list[Path], list[str]]:
    """Prompts as Parquet, and `verl.trainer.main_ppo`."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise Missing("Parquet files need pyarrow", fix="pip install 'luthier[data]'") from error
    section = _policy(run, "verl")
    written = []
    for side in SIDES:
        rows = [
            {
                "data_source": run.recipe.name,
                "prompt": asked,
                "ability": "",
                "reward_model": {"style": "rule", "ground_truth": expected},
                "extra_info": {"split": side, "index": i, "source": where, "asked": json.dumps(asked)},
            }
            for i, (asked, expected, where) in enumerate(_prompts(run, side))
        ]
        if not rows:
            raise DataError("there is no conversation to take prompts from", where=side, fix="give conversations")
        parquet.write_table(pa.Table.from_pylist(rows), out / f"{side}.parquet")
        written.append(out / f"{side}.parquet")
    written.append(_reward_file(run, section, out, VERL_REWARD))
    return written, [
        "python3",
        "-m",
        "verl.trainer.main_ppo",
        *(f"{name}={value}" for name, value in _verl_settings(run, section, out).items()),
    ]


def _verl_settings(run: Run, section: Any, out: Path) -> Settings:
    plan, training = run.artifact("plan").json("plan.json"), run.recipe.training
    longest, room = _longest(run)
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    updates = section.prompts * section.answers // section.minibatches
    found: Settings = {
        "algorithm.adv_estimator": ADVANTAGES["verl"][section.kind],
        "data.train_files": (out / "train.parquet").resolve(),
        "data.val_files": (out / "validation.parquet").resolve(),
        "data.train_batch_size": section.prompts,
        "data.max_prompt_length": longest,
        "data.max_response_length": room,
        "data.seed": run.recipe.seed,
        "actor_rollout_ref.model.path": _base(run),
        f"{actor}.optim.lr": plan["learning_rate"],
        f"{actor}.ppo_mini_batch_size": max(1, updates // section.answers),
        f"{actor}.ppo_epochs": section.passes,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.clip_ratio_low": section.clip,
        f"{actor}.clip_ratio_high": section.clip_high or section.clip,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": section.answers,
        f"{rollout}.temperature": section.temperature,
        "reward.custom_reward_function.path": (out / "reward.py").resolve(),
        "reward.custom_reward_function.name": "compute_score",
        "trainer.project_name": run.recipe.name,
        "trainer.experiment_name": run.name,
        "trainer.logger": "['console']",
        "trainer.n_gpus_per_node": training.devices or 8,
        "trainer.nnodes": 1,
        "trainer.total_epochs": max(1, round(training.epochs)),
    }
    if isinstance(section, Ppo):
        found |= {
            "algorithm.gamma": section.gamma,
            "algorithm.lam": section.lam,
            "algorithm.use_kl_in_reward": section.kl > 0,
            "algorithm.kl_ctrl.kl_coef": section.kl,
            "critic.model.path": _base(run),
            "critic.optim.lr": plan["learning_rate"],
            "critic.cliprange_value": section.value_clip or 1e9,
        }
        if section.kl_target is not None:
            found |= {"algorithm.kl_ctrl.type": "adaptive", "algorithm.kl_ctrl.target_kl": section.kl_target}
    elif section.kl:
        in_loss = isinstance(section, Grpo)
        found |= {f"{actor}.use_kl_loss": in_loss, "algorithm.use_kl_in_reward": not in_loss}
        coefficient = f"{actor}.kl_loss_coef" if in_loss else "algorithm.kl_ctrl.kl_coef"
        found |= {coefficient: section.kl} | ({f"{actor}.kl_loss_type": "low_var_kl"} if in_loss else {})
    if isinstance(section, Grpo):
        found[f"{actor}.loss_agg_mode"] = VERL_MEANS[section.loss]
        found["algorithm.norm_adv_by_std_in_grpo"] = section.loss != "dr_grpo"
    if plan["method"] in ("lora", "qlora"):
        tuning = plan["tuning"]
        found |= {"actor_rollout_ref.model.lora_rank": tuning["rank"]}
        found |= {"actor_rollout_ref.model.lora_alpha": int(tuning["alpha"])}
    return found


VERL_MEANS = {"grpo": "seq-mean-token-mean", "dapo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm"}


def _openrlhf(run: Run, out: Path) -> tuple[list[Path], list[str]]:
    """Prompts, or pairs, as JSON lines."""
    if run.recipe.objective.rows == "pairs":
        return _openrlhf_pairs(run, out)
    section = _policy(run, "openrlhf")
    written = []
    for side in SIDES:
        rows = ({"input": asked, "label": json.dumps([asked, expected])} for asked, expected, _ in _prompts(run, side))
        written.append(_write_lines(out / f"{side}.jsonl", rows))
    written.append(_reward_file(run, section, out, OPENRLHF_REWARD))
    plan = run.artifact("plan").json("plan.json")
    longest, room = _longest(run)
    high = section.clip_high or section.clip
    given: Settings = {
        "actor.model_name_or_path": _base(run),
        "algo.advantage.estimator": ADVANTAGES["openrlhf"][section.kind],
        "reward.remote_url": (out / "reward.py").resolve(),
        "data.prompt_dataset": (out / "train.jsonl").resolve(),
        "data.input_key": "input",
        "data.label_key": "label",
        "data.max_len": longest + room,
        "rollout.max_new_tokens": room,
        "rollout.batch_size": section.prompts,
        "rollout.n_samples_per_prompt": section.answers,
        "rollout.temperature": section.temperature,
        "train.batch_size": max(1, section.prompts * section.answers // section.minibatches),
        "train.max_epochs": section.passes,
        "train.num_episodes": max(1, round(run.recipe.training.epochs)),
        "train.seed": run.recipe.seed,
        "actor.adam.lr": plan["learning_rate"],
        "actor.eps_clip_low_high": f"{section.clip} {high}",
        "algo.kl.init_coef": section.kl,
        "actor.num_gpus_per_node": run.recipe.training.devices or 8,
        "vllm.num_engines": run.recipe.training.devices or 8,
        "ckpt.output_dir": (out / "model").resolve(),
    }
    if isinstance(section, Grpo) and section.loss == "dr_grpo":
        given["algo.advantage.estimator"] = "dr_grpo"
    if isinstance(section, Ppo):
        given |= {"algo.advantage.gamma": section.gamma, "algo.advantage.lambd": section.lam}
        given |= {"critic.model_name_or_path": _base(run), "critic.value_clip": section.value_clip or 1e9}
    flags = ["--data.apply_chat_template", "--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep"]
    flags += ["--algo.kl.use_loss", "--algo.kl.estimator", "k3"] if isinstance(section, Grpo) and section.kl else []
    return written, ["python3", "-m", "openrlhf.cli.train_ppo_ray", *_flags(given | _lora(plan)), *flags]


def _openrlhf_pairs(run: Run, out: Path) -> tuple[list[Path], list[str]]:
    objective = run.recipe.objective
    if not isinstance(objective, Dpo | Reward):
        raise RecipeError(
            f"openrlhf has no trainer for '{objective.kind}'", where="objective.kind", fix="choose dpo or reward"
        )
    written = []
    for side in SIDES:
        pairs = map(Pair.from_json, _rows(run, side))
        rows = (
            {"prompt": _plain(p.prompt), "chosen": _plain(p.chosen), "rejected": _plain(p.rejected)}
            | ({} if p.margin is None else {"margin": p.margin})
            for p in pairs
        )
        written.append(_write_lines(out / f"{side}.jsonl", rows))
    plan = run.artifact("plan").json("plan.json")
    given: Settings = {
        "data.dataset": (out / "train.jsonl").resolve(),
        "data.prompt_key": "prompt",
        "data.chosen_key": "chosen",
        "data.rejected_key": "rejected",
        "data.max_len": _longest(run)[0],
        "train.max_epochs": max(1, round(run.recipe.training.epochs)),
        "adam.lr": plan["learning_rate"],
        "ckpt.output_dir": (out / "model").resolve(),
    }
    if isinstance(objective, Dpo):
        given = {"model.model_name_or_path": _base(run), **given, "model.beta": objective.beta or 0.1}
        trainer = "train_dpo"
    else:
        given, trainer = {"model.model_name_or_path": _base(run), **given}, "train_rm"
    flags = ["--data.apply_chat_template"]
    return written, ["deepspeed", "--module", f"openrlhf.cli.{trainer}", *_flags(given | _lora(plan)), *flags]


def _lora(plan: Mapping[str, Any]) -> Settings:
    if plan["method"] not in ("lora", "qlora"):
        return {}
    tuning = plan["tuning"]
    return {"ds.lora.rank": tuning["rank"], "ds.lora.alpha": int(tuning["alpha"])}


def _flags(settings: Settings) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", *str(value).split(" "))]


def _write_lines(path: Path, rows: Iterator[Json]) -> Path:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


REWARD = '''"""The rewards of the recipe '{name}', written by Luthier for {engine}.

It needs: pip install --no-deps luthier pydantic
"""

import json
from pathlib import Path

from pydantic import TypeAdapter

from luthier.evaluate.items import Item
from luthier.recipe import RewardPart
from luthier.train.rewards import Place, Written, make_rewards
from luthier.types import Message

SECTIONS = json.loads({sections!r})
PARTS = [TypeAdapter(RewardPart).validate_python(section) for section in SECTIONS]
REWARDS = make_rewards(PARTS, Place(Path({home!r}), {room}))


def judged(answer, asked, expected):
    """What an answer is worth; a reward that fails raises, since no engine here can leave an answer out."""
    item = Item("", tuple(Message(turn["role"], turn["content"]) for turn in asked), expected)
    worth = REWARDS([Written(item, answer, len(answer.split()), True)])
    if worth.total[0] is None:
        raise RuntimeError(", ".join(worth.failed))
    return worth.total[0]

'''
VERL_REWARD = (
    REWARD
    + '''
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """What verl asks for each answer."""
    return judged(solution_str, json.loads(extra_info["asked"]), ground_truth)
'''
)
OPENRLHF_REWARD = (
    REWARD
    + '''
def reward_func(queries, prompts, labels):
    """What OpenRLHF asks for a batch: a query is the prompt with the answer, as text."""
    import torch

    found = []
    for query, prompt, label in zip(queries, prompts, labels):
        answer = query[len(prompt):]
        for end in {ends!r}:
            answer = answer.removesuffix(end)
        found.append(judged(answer, *json.loads(label)))
    rewards = torch.tensor(found)
    return {{"rewards": rewards, "scores": rewards, "extra_logs": {{}}}}
'''
)


def _reward_file(run: Run, section: Policy, out: Path, form: str) -> Path:
    """The rewards as a Python file.

    Raises:
        RecipeError: one of them cannot be handed over.
    """
    models = [part for part in section.rewards if isinstance(part, ModelReward)]
    counted = [part.kind for part in section.rewards if part.kind in ("length", "overlong")]
    if models or counted:
        what = "a reward model" if models else f"'{counted[0]}', which counts tokens"
        raise RecipeError(
            f"{what} is no function of the text; the engine has settings of its own for it",
            where="objective.rewards",
            fix="remove it from the recipe that is handed over, and name it on the engine's command line",
        )
    for part in section.rewards:
        if isinstance(part, PythonReward) and (run.home / part.path).is_file():
            write_text(out / Path(part.path).name, (run.home / part.path).read_text(encoding="utf-8"))
    sections = [part.model_dump(mode="json", exclude_unset=True) for part in section.rewards]
    for body in sections:
        if body["kind"] == "python":
            body["path"] = Path(body["path"]).name
    tokenizer = find_base(run.recipe.model, run.home).tokenizer()
    text = form.format(
        name=run.recipe.name,
        engine="verl" if form is VERL_REWARD else "OpenRLHF",
        sections=json.dumps(sections),
        home=str(out.resolve()),
        room=_longest(run)[1],
        ends=[token for token in (tokenizer.eos_token, tokenizer.pad_token) if token],
    )
    write_text(out / "reward.py", text)
    return out / "reward.py"


ENGINES: dict[str, Callable[[Run, Path], tuple[list[Path], list[str]]]] = {"verl": _verl, "openrlhf": _openrlhf}
