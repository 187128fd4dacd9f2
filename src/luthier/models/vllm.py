"""vLLM as the writer of answers, in this process, beside the model in memory: its kernels, our token ids."""

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luthier.errors import Missing
from luthier.models.base import Base
from luthier.models.generate import Generated, Sampling, generated
from luthier.models.load import device
from luthier.models.tuned import save_tuned
from luthier.models.tuning import is_adapter
from luthier.text.tokenizer import Tokenizer

SHARE = 0.35
"""Share of the GPU that vLLM takes for its weights and caches; the model in memory needs the rest."""
TEMPORARY = "luthier-vllm-"


class Vllm:
    """A model as vLLM has it: its base with the adapter of the moment, or all of its weights.

    What is in memory is what is asked: an adapter is written down and handed over under a name of its own each time, a
    whole model once.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, base: Base, wanted: str) -> None:
        """Start the engine.

        Args:
            model: a causal language model, or PEFT's wrapper with LoRA around one.
            tokenizer: for the text of answers.
            base: what the model was loaded from.
            wanted: the recipe's setting that asks for vLLM.

        Raises:
            Missing: there is no vLLM, or no GPU.
        """
        try:
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise Missing(f"{wanted} needs vLLM", fix="pip install vllm, or leave it out") from error
        if device().type != "cuda":
            raise Missing(f"{wanted} needs a GPU", fix=f"leave {wanted.partition('=')[0]} out")
        self.model, self.tokenizer, self.base = model, tokenizer, base
        self._parameters, self._request, self._asked = SamplingParams, LoRARequest, 0
        settings: dict[str, Any] = {
            "gpu_memory_utilization": SHARE,
            "logprobs_mode": "processed_logprobs",
            "trust_remote_code": base.trust_remote_code,
        }
        if is_adapter(model):
            rank = max([model.peft_config["default"].r, *model.peft_config["default"].rank_pattern.values()])
            most = max(8, 1 << (rank - 1).bit_length())
            self.engine = LLM(str(base.folder), enable_lora=True, max_lora_rank=most, **settings)
            return
        with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            save_tuned(model, tokenizer, base, Path(folder))
            self.engine = LLM(folder, **settings)

    def write(
        self, prompts: Sequence[list[int]], *, stop: Sequence[int], room: int, sampling: Sampling
    ) -> list[Generated]:
        """Answers to tokenised prompts, in their order, as `luthier.models.generate.generate` gives them."""
        ends = frozenset(stop)
        parameters = [
            self._parameters(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=room,
                stop_token_ids=list(stop),
                ignore_eos=True,  # what ends an answer is said by `stop` alone
                stop=list(sampling.stop_texts) or None,
                include_stop_str_in_output=True,
                logprobs=0 if sampling.logprobs else None,
                seed=sampling.seeds[k] % 2**31 if sampling.temperature else None,
            )
            for k in range(len(prompts))
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        if not is_adapter(self.model):
            found = self.engine.generate(asked, parameters, use_tqdm=False)
        else:
            self._asked += 1
            with tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
                save_tuned(self.model, self.tokenizer, self.base, Path(folder))
                request = self._request(f"adapter-{self._asked}", self._asked, folder)
                found = self.engine.generate(asked, parameters, lora_request=request, use_tqdm=False)
        return [self._read(one.outputs[0], ends, sampling) for one in found]

    def _read(self, output: Any, ends: frozenset[int], sampling: Sampling) -> Generated:
        ids = list(output.token_ids)
        noted = [float(at[token].logprob) for token, at in zip(ids, output.logprobs or (), strict=False)]
        return generated(ids, noted, ends, self.tokenizer, sampling.stop_texts)

    def close(self) -> None:
        """Give the GPU's memory back."""
        del self.engine
        gc.collect()
        torch.cuda.empty_cache()
