"""transformers as a witness: of the trained model in this process, of a folder or a GGUF file in a new one.

`python -m luthier.release.parity.witness` reads one JSON request from standard input and writes one testimony. It gets
a folder and nothing of the training: what it cannot find there, a user's server could not either.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DataError, ParityFailed
from luthier.models.base import Base
from luthier.models.generate import generate
from luthier.models.load import load_model, quiet
from luthier.models.tuning import causal_model
from luthier.release.parity.testimony import PLAIN, POSITIONS, PROBABLE, Probe, Said, Testimony, controls_of
from luthier.text import load_tokenizer, render_prompt, stop_ids
from luthier.text.tokenizer import Tokenizer
from luthier.types import Message


def probe(messages: Sequence[Message], tokenizer: Tokenizer) -> Probe:
    """The probe that a conversation up to an answer makes: its text is what a server renders, its ids those trained."""
    turns = [{key: value for key, value in turn.to_json().items() if key != "train"} for turn in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return Probe(turns, text, render_prompt(list(messages), tokenizer))


def read_as_trained(found: Probe, tokenizer: Tokenizer) -> bool:
    """Whether the text alone gives the ids: not where somebody typed a control token, which no server can know."""
    return bool(tokenizer(found.text, add_special_tokens=False)["input_ids"] == found.ids)


def exact(model: Any) -> Any:
    """The model computing in float32 whatever its weights were stored in: what is compared is the weights."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    return model.float().eval()


def hear(
    model: Any,
    tokenizer: Tokenizer,
    stop: Sequence[int],
    probes: Sequence[Probe],
    most: int,
    forced: Sequence[list[int]] | None = None,
) -> Testimony:
    """What a model in this process says.

    Args:
        model: of transformers or PEFT.
        tokenizer: its own.
        stop: ids that end an answer.
        probes: the prompts.
        most: tokens that an answer may have.
        forced: answers after whose tokens probabilities are taken; its own when not given.
    """
    written = generate(model, tokenizer, [p.ids for p in probes], stop=stop, max_new_tokens=most)
    answers = [Said(a.ids, a.text, a.stopped) for a in written]
    after = forced if forced is not None else [a.ids for a in answers]
    scores = [_scores(model, p.ids, ids[: POSITIONS - 1]) for p, ids in zip(probes, after, strict=True)]
    own = [
        probe([Message.from_json(dict(turn)) for turn in p.messages], tokenizer) if p.messages else p for p in probes
    ]
    return Testimony(
        rendered=[p.text or "" for p in own] if probes and probes[0].messages else None,
        ids=[p.ids for p in own],
        plain=list(tokenizer(PLAIN)["input_ids"]),
        controls=controls_of(tokenizer),
        answers=answers,
        scores=scores,
    )


@torch.no_grad()
def _scores(model: Any, prompt: list[int], answer: list[int]) -> list[dict[int, float]]:
    place = next(model.parameters()).device
    row = torch.tensor([prompt + answer], device=place)
    logits = model(input_ids=row, use_cache=False).logits[0]
    logs = logits[-len(answer) - 1 :].float().log_softmax(-1)
    best, order = logs.topk(min(PROBABLE, logs.shape[-1]))
    return [dict(zip(o.tolist(), b.tolist(), strict=True)) for o, b in zip(order, best, strict=True)]


def summon(
    folder: Path,
    probes: Sequence[Probe],
    most: int,
    forced: Sequence[list[int]],
    *,
    gguf: str | None = None,
    trust_remote_code: bool = False,
) -> Testimony:
    """What a model on disk says, loaded in float32 by a new process.

    Args:
        folder: a model in transformers' format, or the folder of a GGUF file.
        probes: the prompts.
        most: tokens that an answer may have.
        forced: answers after whose tokens probabilities are taken.
        gguf: name of a GGUF file in the folder: its weights are read back by transformers, which then only scores.
        trust_remote_code: whether the recipe says so for the base.

    Raises:
        ParityFailed: it cannot be loaded there, or cannot render the prompts.
    """
    request = {
        "folder": str(folder), "gguf": gguf, "most": most, "forced": list(forced), "trust": trust_remote_code,
        "probes": [[p.messages, p.text, p.ids] for p in probes],
    }  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-m", "luthier.release.parity.witness"],
        input=json.dumps(request), capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if told.returncode:
        lines = [line for line in told.stderr.splitlines() if line.strip()]
        raise ParityFailed(
            f"a new process cannot use the released model: {lines[-1] if lines else told.returncode}",
            where=str(folder / gguf if gguf else folder),
            fix="the message above says what is missing; nothing was released",
        )
    return Testimony.from_json(json.loads(told.stdout.strip().splitlines()[-1]))


def _answer(request: dict[str, Any]) -> Testimony:
    probes = [Probe(*one) for one in request["probes"]]
    if request["gguf"]:
        return _read_back(Path(request["folder"]), request["gguf"], probes, request["forced"])
    base = Base("released", Path(request["folder"]), None, request["trust"])
    model, tokenizer = load_model(base, "float32"), load_tokenizer(base.folder, trust_remote_code=request["trust"])
    return hear(model, tokenizer, stop_ids(tokenizer, base.stop_ids), probes, request["most"], request["forced"])


def _read_back(folder: Path, gguf: str, probes: Sequence[Probe], forced: Sequence[list[int]]) -> Testimony:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=gguf, dtype=torch.float32).eval()
    if causal_model(model) is None:
        raise DataError("transformers reads no model from it", where=gguf)
    pairs = zip(probes, forced, strict=True)
    return Testimony(scores=[_scores(model, p.ids, ids[: POSITIONS - 1]) for p, ids in pairs])


if __name__ == "__main__":
    quiet()
    print(json.dumps(_answer(json.load(sys.stdin)).to_json()), flush=True)
