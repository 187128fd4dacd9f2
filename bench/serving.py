"""Serving: requests a second at 1 and at 8 at a time, and the time to the first token.

    python bench/serving.py [--model FOLDER | --untrained 8x512] [--servers luthier,transformers] [--requests 64]

`--untrained` makes a Llama of so many layers and such a width with random weights and the bundled base's tokenizer: it
never ends an answer by itself, so that every answer has the tokens asked for.

Each server is started on the same model in a process of its own, in turn: `luthier serve MODEL --unverified`, and
`transformers serve MODEL` with and without continuous batching (needs `transformers[serving]`). After a warm-up,
streamed chats are asked for, greedy, of `--tokens` tokens, from plain sockets. One JSON document on standard output.

The correctness gate: every answer has the same text one at a time and eight at a time, up to a share that is printed.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from luthier.models.base import ukulele_file

WORDS = "drum radio coat lamp phone kettle ladder piano".split()


def question(i: int) -> str:
    return f"Ticket {i}: the {WORDS[i % 8]} I bought {i % 30} days ago does not work any more. What should I do?"


def command(server: str, model: Path, port: int) -> list[str]:
    if server == "luthier":
        return [sys.executable, "-m", "luthier", "serve", f"bench={model}", "--unverified", "--port", str(port)]
    more = ["--continuous-batching"] if server == "transformers-batching" else []
    program = str(Path(sys.executable).with_name("transformers"))
    return [program, "serve", str(model), "--device", "cpu", "--port", str(port), *more]


def ask(port: int, model: str, i: int, tokens: int) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": question(i)}], "stream": True}
    body |= {"max_tokens": tokens, "temperature": 0.0, "stream_options": {"include_usage": True}}
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first, text, tokens_said = 0.0, "", 0
    if response.status != 200:
        raise SystemExit(f"{response.status}: {response.read()[:300]!r}")
    while line := response.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        tokens_said = (chunk.get("usage") or {}).get("completion_tokens") or tokens_said
        choices = chunk.get("choices") or [{}]
        if piece := (choices[0].get("delta") or {}).get("content"):
            first = first or time.perf_counter() - started
            text += piece
    connection.close()
    return {"first": first, "seconds": time.perf_counter() - started, "text": text, "tokens": tokens_said}


def wait(port: int, process: subprocess.Popen[Any]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server does not answer")


def measure(server: str, model: Path, port: int, requests: int, tokens: int) -> dict[str, Any]:
    name = "bench" if server == "luthier" else str(model)
    process = subprocess.Popen(command(server, model, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(port, process)
        for i in range(4):
            ask(port, name, 1000 + i, 8)
        found: dict[str, Any] = {}
        texts: dict[int, list[str]] = {}
        for at_once in (1, 8):
            count = max(8, requests // 4) if at_once == 1 else requests
            started = time.perf_counter()
            with ThreadPoolExecutor(at_once) as pool:
                answers = list(pool.map(lambda i: ask(port, name, i, tokens), range(count)))
            seconds = time.perf_counter() - started
            firsts = sorted(a["first"] for a in answers)
            texts[at_once] = [a["text"] for a in answers]
            found[f"at_once_{at_once}"] = {
                "requests": count,
                "requests_per_second": round(count / seconds, 2),
                "tokens_per_second": round(sum(a["tokens"] for a in answers) / seconds),
                "first_token_ms": {
                    "median": round(1000 * statistics.median(firsts), 1),
                    "most": round(1000 * firsts[-1], 1),
                },
            }
        pairs = list(zip(texts[1], texts[8], strict=False))
        found["same_text"] = sum(a == b for a, b in pairs) / len(pairs)
        return found
    finally:
        process.terminate()
        process.wait(30)


def untrained(layers: int, width: int, folder: Path) -> Path:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(ukulele_file(""))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 128, max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=ukulele_file(""))
    parser.add_argument("--untrained", metavar="LAYERSxWIDTH")
    parser.add_argument("--servers", default="luthier,transformers,transformers-batching")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    model = given.model
    if given.untrained:
        layers, width = map(int, given.untrained.split("x"))
        model = untrained(layers, width, Path(tempfile.mkdtemp(prefix="bench-serving-")) / "model")
    found = {
        server: measure(server, model, 8100 + k, given.requests, given.tokens)
        for k, server in enumerate(given.servers.split(","))
    }
    print(
        json.dumps(
            {
                "model": given.untrained or model.name,
                "tokens": given.tokens,
                "threads": os.environ.get("OMP_NUM_THREADS"),
                **found,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
