"""PPO, GRPO and RLOO: what is trained is what was sampled, alike in any batch, and goes on to the same bits."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pair
import pytest
import rollouts
import torch
from rollouts import POLICIES, SMALL, Death, curve, dataset, job, mortal, own_logprobs, ready, run, same_end
from tiny import seen, stop, tokenizer

from luthier import events
from luthier.errors import Missing
from luthier.models.attention import NAME, attention
from luthier.models.generate import Sampling, generate
from luthier.models.head import Bend, frozen_logprobs
from luthier.models.load import load_model
from luthier.models.tuning import causal_model, untuned
from luthier.recipe import dump_recipe, load_recipe
from luthier.train import launch
from luthier.train.experience import Experience
from luthier.train.fit import _settings
from luthier.train.objectives.policy import answer_kl
from luthier.train.reinforce import gae, kl, token_rewards, whiten
from luthier.train.sampler import Drawn, WithVllm

ONCE = {"max_steps": 1, "schedule": "constant"}


def rolled(folder: Path, kind: str, tuning: str = "lora", **changes: Any) -> tuple[Any, Any, Experience]:
    """A model, its objective and the first rollout."""
    model, objective, source = ready(job(folder, POLICIES[kind] | changes, tuning))
    with attention(causal_model(model), NAME):
        source.update(0)
    return model, objective, objective.experience


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_first_update_finds_the_policy_that_wrote_the_answers(kind: str, tuning: str, tmp_path: Path) -> None:
    log = run(job(tmp_path, POLICIES[kind], tuning, ONCE))
    first = seen(log, events.Step)[0].metrics
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["clipped"] == 0
    assert first["kl_from_old"] == pytest.approx(0, abs=1e-6)
    rollout = seen(log, events.RolledOut)[0].metrics
    assert rollout["sampler_ratio"] == pytest.approx(1, abs=1e-4)
    assert rollout["sampler_ratio_max"] == pytest.approx(1, abs=1e-3)
    assert rollout["kl"] == pytest.approx(0, abs=1e-4)


def test_the_ids_that_were_sampled_are_trained_with_the_end_that_the_model_wrote(tmp_path: Path) -> None:
    model, _, source = ready(job(tmp_path, POLICIES["grpo"]))
    with torch.no_grad():  # make the end likely, so that some answers have one and some do not
        causal_model(model).model.embed_tokens.weight[stop()] *= 3
    with attention(causal_model(model), NAME):
        source.update(0)
    experience = source.objective.experience
    seeds = []
    original = source.sampler
    for i in range(len(experience.rows)):
        row = experience.rows.row(i)
        start = row.trained.index(True)
        assert all(row.trained[start:])
        answer = row.ids[start:]
        ended = bool(experience.facts["ended"][i])
        assert (answer[-1] == stop()) == ended
        assert stop() not in answer[:-1]
        assert ended or len(answer) == SMALL["max_new_tokens"]
        assert 0 not in answer  # the pad token is not the end token, and no padding is learned
        seeds.append(ended)
    assert original.exact
    assert True in seeds
    assert False in seeds


def test_what_is_known_of_a_token_is_what_the_models_own_logits_say(tmp_path: Path) -> None:
    model, _, experience = rolled(tmp_path, "ppo", temperature=0.7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.normal_(std=0.05)
    model.eval()
    _, objective, source = ready(job(tmp_path / "again", POLICIES["ppo"] | {"temperature": 1.0}))
    source.model.load_state_dict(model.state_dict())
    with attention(causal_model(source.model), NAME):
        source.update(0)
    experience = objective.experience
    torch.testing.assert_close(experience.labels["old"], own_logprobs(source.model, experience), rtol=1e-4, atol=1e-4)
    with untuned(source.model):
        before = own_logprobs(source.model, experience)
    torch.testing.assert_close(experience.labels["reference"], before, rtol=1e-4, atol=1e-4)
    assert answer_kl(experience).abs().max() > 1e-3


def test_log_probabilities_are_those_at_the_temperature_of_the_sampling(tmp_path: Path) -> None:
    _, _, hot = rolled(tmp_path, "grpo", temperature=1.7)
    model, _, _ = ready(job(tmp_path, POLICIES["grpo"]))
    found = []
    for i in range(len(hot.rows)):
        row = hot.rows.row(i)
        places = [k for k, trained in enumerate(row.trained) if trained]
        logits = causal_model(model)(input_ids=torch.tensor([row.ids])).logits[0].float() / 1.7
        found += [torch.log_softmax(logits[k - 1], -1)[row.ids[k]].item() for k in places]
    assert hot.labels["old"].tolist() == pytest.approx(found, abs=1e-4)


def test_ppo_learns_from_the_formulas_of_its_docstring(tmp_path: Path) -> None:
    model, objective, experience = rolled(tmp_path, "ppo")
    mask, section = experience.mask, objective.section
    penalties = section.kl * kl(experience.padded("old"), experience.padded("reference"))
    rewards = token_rewards(experience.facts["scores"], penalties, mask)
    expected, returns = gae(rewards, experience.padded("values"), mask, gamma=section.gamma, lam=section.lam)
    assert torch.equal(experience.labels["advantages"], whiten(expected, mask)[mask])
    assert torch.equal(experience.labels["returns"], returns[mask])
    assert not experience.labels["values"].any()  # the head begins at 0
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"critic.head.weight"} < names
    assert any(".value." in name for name in names)
    assert all("lora" in name or "critic" in name for name in names)


def test_one_base_serves_policy_values_and_reference(tmp_path: Path) -> None:
    plain = sum(p.numel() for p in load_model(job(tmp_path, POLICIES["ppo"]).base, "float32").parameters())
    model, _, _ = ready(job(tmp_path, POLICIES["ppo"]))
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora" in name or "critic" in name)
    assert sum(p.numel() for p in model.parameters()) == plain + adapters
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B.value" in name:
                p.fill_(7.0)  # whatever the values learn, the policy does not hear of it
    ids = torch.tensor([[3, 9, 27, 81]])
    bare = load_model(job(tmp_path, POLICIES["ppo"]).base, "float32")
    assert torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("loss", ["", "grpo", "dr_grpo"])
def test_the_update_is_the_same_however_it_is_cut_and_laid_out(kind: str, loss: str, tmp_path: Path) -> None:
    if loss and kind != "grpo":
        pytest.skip("of GRPO")
    objective = POLICIES[kind] | ({"loss": loss} if loss else {})
    training = {"max_steps": 3, "learning_rate": 1e-3}
    whole = curve(run(job(tmp_path / "whole", objective, "lora", training, micro_batch_tokens=100_000)))
    for name, plan in (
        ("halves", {"micro_batch_tokens": 60}),
        ("one by one", {"micro_batch_tokens": 1}),
        ("padded", {"micro_batch_tokens": 60, "packing": False}),
    ):
        found = curve(run(job(tmp_path / name, objective, "lora", training, **plan)))
        assert found == pytest.approx(whole, rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize(
    ("kind", "tuning", "at"), [("ppo", "lora", 4), ("ppo", "full", 3), ("grpo", "lora", 3), ("grpo", "full", 4)]
)
def test_ended_amid_a_rollout_the_next_step_has_the_same_bits(kind: str, tuning: str, at: int, tmp_path: Path) -> None:
    def die(step: events.Step, _: int) -> None:
        if step.step == at:
            raise Death

    whole, half = mortal(tmp_path / "whole", kind, tuning), mortal(tmp_path / "half", kind, tuning)
    expected = run(whole)
    with pytest.raises(Death):
        run(half, die)
    log = run(half)
    assert seen(log, events.Resumed)[-1].step == at - 1
    assert curve(log) == curve(expected)
    same_end(half, whole, tuning)


def test_killed_amid_a_rollout_of_ppo_the_next_step_has_the_same_bits(tmp_path: Path) -> None:
    """By SIGKILL in a process of its own: nothing can be tidied up, and nothing is left in memory to go on from."""
    whole, half = mortal(tmp_path / "whole", "ppo", "lora"), mortal(tmp_path / "half", "ppo", "lora")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(rollouts.__file__).parent)}
    command = [sys.executable, rollouts.__file__, str(tmp_path / "half"), "ppo", "lora", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(seen(events.Log(tmp_path / "half" / "events.jsonl"), events.Step)) == 3
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected, log = run(whole), run(half)
    finally:
        torch.set_num_threads(threads)
    assert seen(log, events.Resumed)[-1].step == 2
    assert curve(log) == curve(expected)
    same_end(half, whole, "lora")


def test_a_recipe_that_was_written_out_has_the_patience_of_the_one_that_was_given(tmp_path: Path) -> None:
    """A resumed run reads its recipe with every default written out; looks without a better one do not end it."""
    task = job(tmp_path, POLICIES["grpo"])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(task.recipe))
    again = replace(task, recipe=load_recipe(tmp_path / "recipe.yaml"))
    limits = [_settings(one, 40, 1, tokenizer(), packed=True) for one in (task, again)]
    assert limits[0] == limits[1]
    assert limits[0].patience > 40


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    training = {"max_steps": 3, "learning_rate": 1e-3}
    data = dataset(tmp_path / "data")
    expected = {}
    (tmp_path / "jobs").mkdir()
    kinds = POLICIES | {"online_dpo": {**SMALL, "kind": "online_dpo"}}
    for kind, objective in kinds.items():
        expected[kind] = curve(run(replace(job(tmp_path / kind, objective, "lora", training), dataset=data)))
        two = job(tmp_path / f"{kind}-2", objective, "lora", training, processes=2, parallel="ddp")
        body = launch._to_json(replace(two, dataset=data)) | {"die_at": None}
        (tmp_path / "jobs" / f"{kind}.job").write_text(json.dumps(body))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = str(Path(pair.__file__).parent)
    shared = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_PORT": port}
    shared["MASTER_ADDR"] = "127.0.0.1"
    command = [sys.executable, pair.__file__, str(tmp_path / "jobs")]
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in started:
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said[-3000:]
    for kind in kinds:
        found = curve(events.Log(tmp_path / "jobs" / f"{kind}.jsonl"))
        assert found == pytest.approx(expected[kind], rel=2e-3, abs=2e-4), kind


def test_a_group_of_equal_rewards_has_no_gradient_not_even_of_the_kl(tmp_path: Path) -> None:
    equal = {"kind": "length", "goal": 6}  # every answer has its six tokens
    log = run(job(tmp_path, POLICIES["grpo"] | {"rewards": [equal], "kl": 0.5}, "lora", {"max_steps": 2}))
    assert [step.gradient_norm for step in seen(log, events.Step)] == [0, 0]
    assert seen(log, events.RolledOut)[0].metrics["undecided"] == 1


def test_prompts_are_asked_in_turn_and_again_in_another_order(tmp_path: Path) -> None:
    _, _, source = ready(job(tmp_path, POLICIES["rloo"] | {"prompts": 5}))
    asked = [source._asked(number) for number in range(6)]
    flat = [i for part in asked for i in part]
    assert sorted(flat[:12]) == list(range(12))
    assert sorted(flat[12:24]) == list(range(12))
    assert flat[:12] != flat[12:24]
    assert source._asked(3) == asked[3]


def test_generation_gives_the_log_probability_of_what_it_drew() -> None:
    from tiny import base, prompts

    model = load_model(base(), "float32")
    asked = prompts(4)
    drawn = generate(
        model, tokenizer(), asked, stop=[stop()], max_new_tokens=5,
        sampling=Sampling(1.3, seeds=range(4), logprobs=True),
    )  # fmt: skip
    for prompt, answer in zip(asked, drawn, strict=True):
        ids = [*answer.ids, *([answer.end] if answer.end is not None else [])]
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].float() / 1.3
        found = [torch.log_softmax(logits[len(prompt) + k - 1], -1)[token].item() for k, token in enumerate(ids)]
        assert list(answer.logprobs) == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("cap", [None, 5.0])
def test_the_gradient_beside_a_frozen_head_knows_the_temperature(cap: float | None) -> None:
    source = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=source, dtype=torch.float64).float() for n in (6, 20))
    targets = torch.randint(0, 20, (6,), generator=source)
    bend = Bend(scale=0.7, cap=cap, temperature=1.9)
    found = []
    for way in ("ours", "plain"):
        states = hidden.clone().requires_grad_(True)
        if way == "ours":
            logprobs = frozen_logprobs(states, weight, None, targets, bend, 4)
        else:
            logits = 0.7 * states @ weight.T
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            logprobs = torch.log_softmax(logits / 1.9, -1).gather(1, targets[:, None])[:, 0]
        logprobs.square().sum().backward()
        found.append((logprobs.detach(), states.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


class Elsewhere:
    """A sampler that draws from another distribution than is trained: its log-probabilities are off by a constant."""

    exact = False

    def __init__(self, inner: Any, off: float) -> None:
        self.inner, self.off = inner, off

    def __call__(self, *given: Any) -> list[Drawn]:
        drawn = self.inner(*given)
        return [replace(one, logprobs=tuple(x - self.off for x in one.logprobs)) for one in drawn]


@pytest.mark.parametrize(("off", "weight"), [(0.3, math.exp(0.3)), (-0.5, math.exp(-0.5)), (5.0, 1.5)])
def test_tokens_of_another_sampler_are_weighted_by_truncated_ratios(off: float, weight: float, tmp_path: Path) -> None:
    model, objective, source = ready(job(tmp_path, POLICIES["rloo"] | {"truncate": 1.5}))
    found = []
    for sampler in (source.sampler, Elsewhere(source.sampler, off)):
        source.sampler, source.number = sampler, -1
        with attention(causal_model(model), NAME):
            rows, update = source.update(0)
            batch = source.setting.forward.lay(rows, update[0])
            model.zero_grad()
            objective.loss(model, batch).total.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert objective.experience.labels["weights"].tolist() == pytest.approx([weight] * 96, rel=1e-3)
    for plain, weighted in zip(*found, strict=True):
        torch.testing.assert_close(weighted, plain * weight, rtol=2e-3, atol=1e-6)
    log = seen(events.Log(tmp_path / "ready.jsonl"), events.RolledOut)
    assert log[-1].metrics["sampler_ratio"] == pytest.approx(math.exp(off), rel=1e-3)  # raw, not truncated


def test_vllm_is_refused_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"objective.sampler=vllm needs"):
        ready(job(tmp_path, POLICIES["rloo"] | {"sampler": "vllm"}))


def test_vllm_is_asked_with_the_adapter_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface as of 0.3x, played by the model in this process."""
    asked: list[Any] = []
    given: list[str] = []

    class Played:
        def __init__(self, model: str, **settings: Any) -> None:
            assert Path(model, "config.json").exists()
            assert settings["enable_lora"]
            assert settings["logprobs_mode"] == "processed_logprobs"

        def generate(self, prompts: Any, parameters: Any, lora_request: Any, **_: Any) -> list[Any]:
            assert (Path(lora_request[2]) / "adapter_model.safetensors").exists()
            asked.append((lora_request[0], parameters[0]["temperature"]))
            given.append(lora_request[2])
            one = SimpleNamespace(token_ids=[9, stop()], finish_reason="stop")
            one.logprobs = [{9: SimpleNamespace(logprob=-1.0)}, {stop(): SimpleNamespace(logprob=-2.0)}]
            return [SimpleNamespace(outputs=[one]) for _ in prompts]

    vllm = SimpleNamespace(LLM=Played, SamplingParams=lambda **given: given)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=lambda *given: given))
    task = job(tmp_path, POLICIES["rloo"])
    model, _, _ = ready(task)
    monkeypatch.setattr("luthier.models.vllm.device", lambda: torch.device("cuda"))
    sampler = WithVllm(model, tokenizer(), task.base, [stop()], 6, 0.8)
    first, second = sampler([[3, 4]], [1], 0), sampler([[3, 4]], [1], 4)
    assert asked == [("adapter-1", 0.8), ("adapter-2", 0.8)]  # a name is never used twice
    assert first == second == [Drawn((9, stop()), tokenizer().decode([9]), ended=True, logprobs=(-1.0, -2.0))]
    assert not any(Path(folder).exists() for folder in given)
