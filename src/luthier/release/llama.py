"""llama.cpp at work on a GGUF file: its ids, its probabilities, its answers, in a process of its own.

llama.cpp ends its process where a file is wrong, so it runs beside ours: `python -m luthier.release.llama` reads one
JSON request from standard input, serves the file on a free port of this machine for as long as it asks itself, and
writes one JSON answer. Everything is computed in float32: the cache too, and without flash attention.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import Missing, ParityFailed

INSTALL = "pip install 'luthier[gguf]'"
MORE_PROBABLE = 64
"""Likeliest tokens whose probabilities are compared where the vocabulary is large."""
ONE_THREAD = 200 * 2**20
"""Bytes of a file up to which one thread is enough."""
QUIET = -1


def need_llama_cpp() -> None:
    """Raise unless llama.cpp can be run.

    Raises:
        Missing: the package is not installed.
    """
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        raise Missing("running a GGUF file needs xllamacpp", where="release.gguf", fix=INSTALL) from error


def ask(model: Path, questions: Sequence[Mapping[str, Any]], *, context: int, lora: Path | None = None) -> list[Any]:
    """llama.cpp's answers to questions, in their order.

    Args:
        model: a GGUF file.
        questions: each `{"do": ...}` with `tokenize` (text), `chat` (messages: the prompt it would answer), `score`
            (prompt, answer: ids) or `write` (prompt: ids, most: tokens).
        context: tokens that a sequence may have.
        lora: a GGUF adapter to apply.

    Raises:
        Missing: xllamacpp is not installed.
        ParityFailed: llama.cpp cannot load the file or breaks at a question.
    """
    need_llama_cpp()
    body = {"model": str(model), "lora": str(lora) if lora else None, "context": context, "questions": list(questions)}
    told = subprocess.run(
        [sys.executable, "-m", "luthier.release.llama"],
        input=json.dumps(body),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    line = told.stdout.strip().splitlines()[-1] if told.stdout.strip() else ""
    if told.returncode or not line:
        reason = [text for text in told.stderr.splitlines() if "rror" in text or "unknown" in text or "what()" in text]
        raise ParityFailed(
            f"llama.cpp cannot run the file: {(reason or told.stderr.splitlines() or ['it ended'])[-1].strip()}",
            where=str(model),
            fix="look at the file with gguf-dump; leave release.gguf out to release without it",
        )
    answers: list[Any] = json.loads(line)
    return answers


def _serve(request: Mapping[str, Any]) -> list[Any]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = request["model"]
    params.n_ctx, params.n_parallel, params.warmup = request["context"], 1, False
    # More threads than a small model keeps busy wait for each other by spinning, which a busy machine pays for.
    threads = 1 if Path(request["model"]).stat().st_size < ONE_THREAD else os.cpu_count() or 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.fit_params, params.use_jinja = 0, False, True
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.swa_full = (
        True  # a sliding cache that is cut short gives wrong numbers for a prompt that begins like another
    )
    params.verbosity = QUIET
    if request["lora"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(request["lora"], 1.0)]
    server = xllamacpp.Server(params)
    place = server.listening_address
    return [_answer(place, question) for question in request["questions"]]


def _answer(place: str, question: Mapping[str, Any]) -> Any:
    if question["do"] == "tokenize":
        special = bool(question.get("special", False))
        body = {"content": question["text"], "add_special": special, "parse_special": True}
        return _post(place, "/tokenize", body)["tokens"]
    if question["do"] == "chat":
        text = _post(place, "/apply-template", {"messages": question["messages"]})["prompt"]
        body = {"content": text, "add_special": True, "parse_special": True}  # as its chat does
        return {"text": text, "ids": _post(place, "/tokenize", body)["tokens"]}
    if question["do"] == "score":
        return _score(place, question["prompt"], question["answer"], question["probable"])
    found = _complete(place, question["prompt"], question["most"], 1)
    return {"ids": found["tokens"], "text": found["content"], "stopped": found["stop_type"] in ("eos", "word")}


def _score(place: str, prompt: list[int], answer: list[int], probable: int) -> list[dict[str, float]]:
    """Log-probabilities of the likeliest next tokens after the prompt and after each token of the answer."""
    rows = []
    # A token that ends the answer, or half a character, would come without probabilities. What is drawn does not matter
    # here, as the probabilities are those before anything is ruled out: so an ordinary letter is.
    letter = _post(place, "/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
    for end in range(len(answer) + 1):
        found = _complete(place, prompt + answer[:end], 1, probable, [[letter, 1e4]])
        rows.append({str(c["id"]): c["logprob"] for c in found["completion_probabilities"][0]["top_logprobs"]})
    return rows


def _complete(place: str, prompt: list[int], most: int, probable: int, bias: Sequence[list[float]] = ()) -> Any:
    body = {
        "prompt": prompt, "n_predict": most, "n_probs": probable, "temperature": 0.0, "samplers": ["temperature"],
        "repeat_penalty": 1.0, "cache_prompt": True, "return_tokens": True, "logit_bias": list(bias),
    }  # fmt: skip
    return _post(place, "/completion", body)


def _post(place: str, path: str, body: Mapping[str, Any]) -> Any:
    asked = urllib.request.Request(  # noqa: S310 - our own server on this machine
        place + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked) as told:  # noqa: S310
        return json.load(told)


if __name__ == "__main__":
    print(json.dumps(_serve(json.load(sys.stdin))), flush=True)
    sys.stdout.flush()
