"""transformers as a witness: of the trained model in this process, of a folder or a GGUF file in a new one.

`python -m luthier.release.parity.witness` reads JSON requests, one a line, and writes a testimony for each. It gets
folders and nothing of the training: what it cannot find there, a user's server could not either.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from luthier.errors import ParityFailed
from luthier.models.base import Base
from luthier.models.generate import generate
from luthier.models.load import DTYPES, DtypeName, load_model, quiet
from luthier.release.parity.testimony import PLAIN, POSITIONS, PROBABLE, Probe, Said, Testimony, controls_of, put_around
from luthier.release.weights import Weights
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


SPARE = 0.8
"""Share of the memory that a model in float32 may take."""


def room_for_float32(parameters: int) -> bool:
    """Whether a model of so many parameters fits in float32 where models are computed."""
    if torch.cuda.is_available():
        there = torch.cuda.mem_get_info()[0]
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    return 4 * parameters < SPARE * there


def exact(model: Any) -> Any:
    """The model computing in float32 whatever its weights were stored in: what is compared is the weights.

    One that does not fit stays in its own format; `computed_in` says so, for bounds that allow for it.
    """
    if not room_for_float32(sum(p.numel() for p in model.parameters())):
        return model.eval()
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    return model.float().eval()


def computed_in(model: Any) -> str:
    """The format of the model's numbers, of `BOUNDS`."""
    kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
    return next((name for name in ("bfloat16", "float16") if DTYPES[name] in kinds), "float32")


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
        forced: answers after whose first tokens probabilities are taken; after all of its own when not given.
    """
    written = generate(model, tokenizer, [p.ids for p in probes], stop=stop, max_new_tokens=most)
    answers = [Said(a.ids, a.text, a.stopped) for a in written]
    after = [a.ids for a in answers] if forced is None else [ids[: POSITIONS - 1] for ids in forced]
    scores = [_scores(model, p.ids, ids) for p, ids in zip(probes, after, strict=True)]
    own = [
        probe([Message.from_json(dict(turn)) for turn in p.messages], tokenizer) if p.messages else p for p in probes
    ]
    return Testimony(
        rendered=[p.text or "" for p in own] if probes and probes[0].messages else None,
        ids=[p.ids for p in own],
        around=put_around(tokenizer(PLAIN, add_special_tokens=False)["input_ids"], tokenizer(PLAIN)["input_ids"]),
        controls=controls_of(tokenizer),
        answers=answers,
        scores=scores,
        computed=computed_in(model),
    )


@torch.no_grad()
def _scores(model: Any, prompt: list[int], answer: list[int]) -> list[dict[int, float]]:
    place = next(model.parameters()).device
    row = torch.tensor([prompt + answer], device=place)
    logits = model(input_ids=row, use_cache=False).logits[0]
    logs = logits[-len(answer) - 1 :].float().log_softmax(-1)
    best, order = logs.topk(min(PROBABLE, logs.shape[-1]))
    return [dict(zip(o.tolist(), b.tolist(), strict=True)) for o, b in zip(order, best, strict=True)]


class Elsewhere:
    """A new process that hears what is on disk; it gets folders and prompts, and nothing of the training.

    Loading the libraries takes seconds, so one process hears all witnesses of a release, one after the other.
    """

    def __init__(self, *, trust_remote_code: bool = False) -> None:
        self._trust = trust_remote_code
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def hear(
        self,
        folder: Path,
        probes: Sequence[Probe],
        most: int,
        forced: Sequence[list[int]],
        *,
        gguf: Path | None = None,
    ) -> Testimony:
        """What a model on disk says, loaded in float32.

        Args:
            folder: a model in transformers' format.
            probes: the prompts.
            most: tokens that an answer may have.
            forced: answers after whose tokens probabilities are taken.
            gguf: a GGUF file of that model: its weights are read back by transformers, which then only scores. The
                config is the folder's, since transformers reads no position scalings from such a file.

        Raises:
            ParityFailed: it cannot be loaded there, or cannot render the prompts.
        """
        request = {
            "folder": str(folder), "gguf": str(gguf) if gguf else None, "most": most, "forced": list(forced),
            "trust": self._trust, "probes": [[p.messages, p.text, p.ids] for p in probes],
        }  # fmt: skip
        told = self._ask(request)
        if "error" in told:
            raise ParityFailed(
                f"a new process cannot use the released model: {told['error']}",
                where=str(gguf or folder),
                fix="the message says what is missing; nothing was released",
            )
        return Testimony.from_json(told)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "luthier.release.parity.witness"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                env=os.environ | {"TQDM_DISABLE": "1"},  # bars of libraries would run through the user's terminal
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": "it ended before it was asked"}
        for line in self._process.stdout:
            if line.startswith(TOLD):
                found: dict[str, Any] = json.loads(line.removeprefix(TOLD))
                return found
        return {"error": f"it ended with {self._process.wait()}; is there enough memory?"}


TOLD = "told: "
"""Begins the line that is an answer; libraries may print others."""


def of_folder(
    folder: Path, probes: Sequence[Probe], most: int, forced: Sequence[list[int]], *, trust_remote_code: bool = False
) -> Testimony:
    """What a model's folder says, loaded by this process; see `Elsewhere` for one that knows nothing else."""
    base = Base("released", folder, None, trust_remote_code)
    places = Weights.of_folder(folder).places.values()
    stored: DtypeName = "bfloat16" if any(place.dtype == torch.bfloat16 for place in places) else "float16"
    dtype: DtypeName = "float32" if room_for_float32(sum(prod(place.shape) for place in places)) else stored
    model, tokenizer = load_model(base, dtype), load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return hear(model, tokenizer, stop_ids(tokenizer, base.stop_ids), probes, most, forced)


def _answer(request: dict[str, Any]) -> Testimony:
    probes, folder = [Probe(*one) for one in request["probes"]], Path(request["folder"])
    if request["gguf"]:
        return _read_back(folder, Path(request["gguf"]), probes, request["forced"])
    return of_folder(folder, probes, request["most"], request["forced"], trust_remote_code=request["trust"])


def _read_back(folder: Path, gguf: Path, probes: Sequence[Probe], forced: Sequence[list[int]]) -> Testimony:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder))
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, config=config, dtype=torch.float32
    ).eval()
    pairs = zip(probes, forced, strict=True)
    return Testimony(scores=[_scores(model, p.ids, ids[: POSITIONS - 1]) for p, ids in pairs])


def _serve() -> None:
    """Answer requests, one a line, until there are no more."""
    for line in sys.stdin:
        try:
            told = _answer(json.loads(line)).to_json()
        except Exception as error:  # whatever a file leads a library to, the one who asks wants to know
            told = {"error": str(error).strip() or type(error).__name__}
        print(TOLD + json.dumps(told), flush=True)


if __name__ == "__main__":
    quiet()
    _serve()
