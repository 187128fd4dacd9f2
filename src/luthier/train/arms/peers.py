"""Other tools on the same updates: TRL as it comes and tuned, and a plain loop with transformers and PEFT.

Each is set up as its users would, and given the same model, adapters, rows, order and optimizer settings. "Tuned" is
the best that its own settings allow on this machine: float32 on a CPU, no recomputation, rows laid end to end without
padding, and torch's own attention kernel document by document, without which they would build a mask of all tokens by
all tokens.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, TrainerCallback

from luthier.errors import Missing
from luthier.models.attention import Documents, packed_attention
from luthier.models.batch import Batch, lay_out
from luthier.train.arms.turns import Turns
from luthier.train.arms.unsloth import unsloth
from luthier.train.arms.work import PAD, Work

FAIR = "packed_for_peers"


def _fair(
    module: Any, query: Any, key: Any, value: Any, mask: Any, cu_seq_lens_q: torch.Tensor | None = None, **more: Any
) -> Any:
    bounds = None if cu_seq_lens_q is None else Documents(cu_seq_lens_q.tolist())
    return packed_attention(module, query, key, value, mask, documents=bounds, own=False, **more)


AttentionInterface.register(FAIR, _fair)
AttentionMaskInterface.register(FAIR, lambda *_, **__: None)


class _Told(TrainerCallback):  # type: ignore[misc]
    """Reports each update of a trainer."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.turns.ready()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            self.turns.step(float(logs["loss"]))


def _trl() -> Any:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    try:
        import trl
    except ImportError as error:
        raise Missing("the arms of TRL need it", fix="pip install trl datasets") from error
    return trl


def _common(work: Work, *, tuned: bool) -> dict[str, Any]:
    gpu = work.device == "cuda"
    settings: dict[str, Any] = {
        "output_dir": str(work.folder / "trl"),
        "use_cpu": not gpu,
        "per_device_train_batch_size": len(work.updates[0]) // (2 if work.pairs else 1),
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1000,
        "learning_rate": work.rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "optim": {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit"}[work.optimizer],
        "seed": work.seed,
    }
    if tuned:
        settings |= {"bf16": gpu, "gradient_checkpointing": False}
    return settings


def trl_sft(work: Work, turns: Turns, model: Any, *, tuned: bool, fair: bool = True) -> None:
    """TRL's SFTTrainer; `fair`: with an attention for packed rows, where the model does not bring its own."""
    trl = _trl()
    from datasets import Dataset
    from transformers import AutoTokenizer

    rows = work.rows
    content = [rows.row(i) for update in work.updates for i in update]
    columns = {
        "input_ids": [row.ids for row in content],
        "labels": [[i if t else -100 for i, t in zip(row.ids, row.trained, strict=True)] for row in content],
    }
    more: dict[str, Any] = {"padding_free": True, "max_length": None} if tuned else {"max_length": None}
    if tuned and fair:
        _inner(model).set_attn_implementation(FAIR)
    trainer = trl.SFTTrainer(
        model,
        args=trl.SFTConfig(**_common(work, tuned=tuned), **more),
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        callbacks=[_Told(turns)],
    )
    turns.watch(trainer.model)
    trainer.train()


def trl_dpo(work: Work, turns: Turns, model: Any, *, tuned: bool) -> None:
    """TRL's DPOTrainer; tuned, the log-probabilities of the reference are computed beforehand.

    It would take adapters that are there for the reference, so it makes its own, and they are filled afterwards.
    """
    trl = _trl()
    from datasets import Dataset
    from transformers import AutoTokenizer

    class Given(trl.DPOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    rows = work.rows
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for number in (i for update in work.updates for i in update[::2]):
        chosen, rejected = rows.row(number), rows.row(number + 1)
        at = chosen.trained.index(True)
        for name, ids in (("prompt", chosen.ids[:at]), ("chosen", chosen.ids[at:]), ("rejected", rejected.ids[at:])):
            columns[f"{name}_ids"].append(ids)
    more = {"precompute_ref_log_probs": True} if tuned else {}
    config, begun = model.peft_config["default"], {n: p.detach() for n, p in model.named_parameters() if ".lora_" in n}
    trainer = Given(
        model.unload(),
        peft_config=config,
        args=trl.DPOConfig(**_common(work, tuned=tuned), max_length=None, **more),
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        callbacks=[_Told(turns)],
    )
    with torch.no_grad():
        for name, content in begun.items():
            trainer.model.get_parameter(name).copy_(content)
    turns.watch(trainer.model)
    trainer.train()


def plain(work: Work, turns: Turns, model: Any) -> None:
    """A loop of a few lines over transformers and PEFT: padded rows, the model's own loss, float32 or bfloat16."""
    rows, place = work.rows, next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    settings: dict[str, Any] = {"lr": work.rate, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(trained, **settings) if work.optimizer == "adamw" else _eight_bits(trained, settings)
    turns.watch(model)
    model.train()
    turns.ready()
    while True:
        for update in work.updates:
            batch = lay_out(rows, update, packed=False, pad=PAD).to(place)
            loss = model(**_padded(batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            turns.step(loss.item())


def _eight_bits(trained: list[Any], settings: dict[str, Any]) -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise Missing("an optimizer in 8 bits needs bitsandbytes", fix="pip install 'luthier[qlora]'") from error
    return AdamW8bit(trained, **settings)


def _padded(batch: Batch) -> dict[str, torch.Tensor]:
    labels = torch.full_like(batch.ids, -100).flatten()
    labels[batch.sources + 1] = batch.targets
    length = batch.ends - torch.arange(len(batch.ids), device=batch.ids.device) * batch.ids.shape[1] + 1
    mask = torch.arange(batch.ids.shape[1], device=batch.ids.device)[None] < length[:, None]
    return {"input_ids": batch.ids, "attention_mask": mask.long(), "labels": labels.view_as(batch.ids)}


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def liger(work: Work, turns: Turns, model: Any) -> None:
    """TRL tuned, with Liger's Triton kernels for norms, rotary embeddings and SwiGLU."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise Missing("this arm needs Liger", fix="pip install liger-kernel") from error
    _apply_liger_kernel_to_instance(model=_inner(model))
    trl_sft(work, turns, model, tuned=True)


PEERS: dict[str, Callable[[Work, Turns, Any], None]] = {
    "trl-default": lambda work, turns, model: (trl_dpo if work.pairs else trl_sft)(work, turns, model, tuned=False),
    "trl-tuned": lambda work, turns, model: (trl_dpo if work.pairs else trl_sft)(work, turns, model, tuned=True),
    "plain-peft": plain,
    "trl-liger": liger,
    "unsloth": unsloth,
}
"""Arm -> what it does until it is told to end."""
