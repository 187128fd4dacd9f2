"""vLLM as the server: which models it can serve as they were trained, and the flags that make it do so."""

import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import Missing

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of --max-lora-rank that vLLM takes (its MaxLoRARanks)."""
HERE = "127.0.0.1"
KEY = "VLLM_API_KEY"
"""Where vLLM looks for the API key: an environment variable, so that it stands in no list of processes."""
SUPPORTED_INITS = ("gaussian",)
"""Ways to begin, besides PEFT's own, that leave the base's weights as they are (vLLM's PEFTHelper)."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: its folder, and the content of its adapter_config.json."""

    folder: str
    config: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """The largest rank in it."""
        return max([int(self.config["r"]), *map(int, (self.config.get("rank_pattern") or {}).values())])

    def refused(self) -> str | None:
        """Why vLLM does not serve it; None when it does."""
        config = self.config
        if config.get("peft_type") != "LORA":
            return f"it has no place for {config.get('peft_type', 'this kind of')} adapters"
        if config.get("use_dora"):
            return "it does not know DoRA"
        if config.get("modules_to_save") or config.get("trainable_token_indices"):
            return "it takes no whole layers or tokens beside an adapter"
        if config.get("bias", "none") != "none" or config.get("lora_bias"):
            return "it takes no biases in an adapter"
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init not in SUPPORTED_INITS:
            return f"it does not take adapters that begin with {init}"
        return f"its largest rank is {RANKS[-1]}" if self.rank > RANKS[-1] else None


@dataclass(frozen=True)
class Job:
    """What vLLM is to serve.

    Attributes:
        model: folder or hub id of the whole model.
        name: what clients call it.
        dtype: number format of the weights.
        context: most tokens of prompt and answer together.
        adapters: LoRA adapters beside it, by the names that clients use.
        tokenizer: folder of the tokenizer that was trained with, where it is not the model's own.
        template: the chat template's file.
        revision: the commit of a model from the hub.
        gpus: GPUs that share the weights.
        trust_remote_code: the model comes with code of its own, which the recipe trusts.
        memory: share of the GPU's memory that it may take; vLLM's own choice when not given.
    """

    model: str
    name: str
    dtype: str
    context: int
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    tokenizer: str | None = None
    template: str | None = None
    revision: str | None = None
    gpus: int = 1
    trust_remote_code: bool = False
    memory: float | None = None

    @property
    def max_rank(self) -> int:
        """The least value of --max-lora-rank that holds all adapters."""
        most = max(adapter.rank for adapter in self.adapters.values())
        return next(rank for rank in RANKS if rank >= most)

    def arguments(self, host: str, port: int) -> list[str]:
        """The arguments of `vllm serve`.

        Without a temperature answers are greedy, as they were judged.
        """
        flags = [self.model, "--served-model-name", self.name, "--host", host, "--port", str(port)]
        flags += ["--dtype", self.dtype, "--max-model-len", str(self.context)]
        flags += ["--generation-config", "auto", "--override-generation-config", '{"temperature": 0.0}']
        if self.revision:
            flags += ["--revision", self.revision]
        if self.tokenizer:
            flags += ["--tokenizer", self.tokenizer]
        if self.template:
            flags += ["--chat-template", self.template]
        if self.gpus > 1:
            flags += ["--tensor-parallel-size", str(self.gpus)]
        if self.trust_remote_code:
            flags.append("--trust-remote-code")
        if self.memory is not None:
            flags += ["--gpu-memory-utilization", str(self.memory)]
        if self.adapters:
            modules = [f"{name}={adapter.folder}" for name, adapter in self.adapters.items()]
            flags += ["--enable-lora", "--max-lora-rank", str(self.max_rank), "--max-loras", str(len(modules))]
            flags += ["--lora-modules", *modules]
        return flags


def run_vllm(job: Job, host: str, port: int, keys: Sequence[str], *, ready: Callable[[], None]) -> None:
    """Run vLLM until a signal comes, which it gets, too.

    Raises:
        Missing: it ended by itself.
    """
    environment = os.environ | ({KEY: keys[0]} if keys else {})
    process = subprocess.Popen(_command(job, host, port), env=environment, start_new_session=True)  # noqa: S603
    stopped = False

    def pass_on(number: int, _: Any) -> None:
        nonlocal stopped
        stopped = True
        process.send_signal(number)

    usual = {one: signal.signal(one, pass_on) for one in (signal.SIGINT, signal.SIGTERM)}
    ready()
    try:
        code = process.wait()
    finally:
        for one, before in usual.items():
            signal.signal(one, before)
        if process.poll() is None:
            process.kill()
    if code and not stopped:
        raise Missing(f"vLLM ended with exit code {code}", where=job.model, fix="--backend transformers")


def _command(job: Job, host: str, port: int) -> list[str]:
    return [shutil.which("vllm") or "vllm", "serve", *job.arguments(host, port)]


@contextmanager
def started(job: Job, *, seconds: float = 900) -> Iterator[int]:
    """Start vLLM on a free port of this machine, and give that once it can answer.

    Raises:
        Missing: it ended, or does not begin to answer in time; with its last words.
    """
    from luthier.serve.http import bind

    with bind(HERE, 0) as free:
        port = int(free.getsockname()[1])
    with tempfile.TemporaryFile() as said:
        command = _command(job, HERE, port)
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)  # noqa: S603
        try:
            until = time.monotonic() + seconds
            while not _healthy(port):
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    lines = said.read().decode("utf-8", "replace").strip().splitlines()
                    raise Missing(
                        f"vLLM does not begin to answer: {(lines or ['it said nothing'])[-1].strip()}",
                        where=job.model,
                        fix=f"try {' '.join(command)}",
                    )
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HERE, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
