"""Unsloth's arm, in a process that imports it before anything that it changes: `python -m luthier.train.arms.unsloth`.

Set up as its documentation says for a card that holds all activations: LoRA or all weights, no recomputation, its own
trainer over TRL's. It runs on GPUs only.
"""

import json
import os
import sys
from typing import Any

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def unsloth(work: Any, turns: Any, model: Any) -> None:
    """Unsloth's model with the adapters of `model`, which gives up its memory, in TRL's trainer."""
    import torch
    from unsloth import FastLanguageModel

    from luthier.train.arms.peers import trl_sft
    from luthier.train.probe import forget_peak

    begun = {name: p.detach().cpu() for name, p in model.named_parameters() if ".lora_" in name}
    model.to("meta")
    torch.cuda.empty_cache()
    forget_peak(torch.device("cuda"))
    own, _ = FastLanguageModel.from_pretrained(
        str(work.model),
        max_seq_length=int(work.rows.lengths.max()),
        load_in_4bit=work.tuning == "qlora",
        full_finetuning=work.tuning == "full",
        use_gradient_checkpointing=False,
    )
    if begun:
        own = FastLanguageModel.get_peft_model(
            own,
            r=work.rank,
            lora_alpha=2 * work.rank,
            lora_dropout=0.0,
            target_modules=LAYERS,
            use_gradient_checkpointing=False,
            random_state=work.seed,
        )
        with torch.no_grad():
            for name, content in begun.items():
                own.get_parameter(name).copy_(content)
    trl_sft(work, turns, own, tuned=True, fair=False)


def main(path: str, name: str) -> None:
    """Import Unsloth, then work as every arm does."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what it prints does not get between
    try:
        import unsloth  # noqa: F401 - changes transformers, PEFT and TRL as it is imported
    except Exception as error:  # it raises several kinds where there is no package or no GPU
        os.write(answers, (json.dumps({"error": f"Unsloth cannot be used here: {error}"}) + "\n").encode())
        return
    os.dup2(answers, 1)
    from luthier.train.arms.worker import main as work

    work(path, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
