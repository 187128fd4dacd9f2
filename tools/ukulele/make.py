"""Make the bundled base `ukulele`: tokenizer, weights, held-out questions, replay rows and card, from one seed.

    python tools/ukulele/make.py --out src/luthier/models/ukulele

About an hour on two CPU cores, minutes on a GPU. The text comes from `world.py`; nothing is downloaded. The shape is
Llama's, so every loader knows it. Updates are small (1.5k tokens) and the loss lies mostly on the answers: larger
updates with a uniform loss learned next to nothing in the same time.
"""

import argparse
import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

import world

SEED = 20
VOCABULARY = 1024
CONTEXT = 1024
BEGIN, PAD, SYSTEM, USER, ASSISTANT, END = "<|begin|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
    {{- raise_exception('ukulele knows the roles system, user and assistant, not ' + message['role']) -}}
  {%- endif -%}
  {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
# One token per digit, words with their leading space: the split that Qwen2 published, so that GGUF readers know it.
WORD_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QUESTION_WEIGHT = 0.05
PEAK_LR, FLOOR_LR, WARM_UP = 2e-3, 5e-5, 200
UPDATE_TOKENS = 1536


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 1,024 tokens, trained on the world's own text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in (BEGIN, PAD, SYSTEM, USER, ASSISTANT, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    stream = world.conversations(seed)
    texts = (message["content"] for _ in range(40_000) for message in next(stream))
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> tuple[list[int], list[float]]:
    """Token ids and the loss weight of each: 1 for answers with their end token, 0.05 for the rest, 0 for BEGIN."""
    ids, weights = [tokenizer.convert_tokens_to_ids(BEGIN)], [0.0]
    for message in messages:
        marker = tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")
        body = tokenizer.encode(message["content"], add_special_tokens=False)
        weight = 1.0 if message["role"] == "assistant" else QUESTION_WEIGHT
        ids += [marker, *body, tokenizer.eos_token_id]
        weights += [0.0, *[weight] * len(body), weight]
    return ids, weights


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of at most 1.5k tokens, rows of like length together, as (ids [rows, length], weights [rows, length])."""
    stream, r = world.conversations(seed), random.Random(seed)
    pad = tokenizer.pad_token_id
    while True:
        pool = sorted((encode(tokenizer, next(stream)) for _ in range(512)), key=lambda row: len(row[0]))
        pool = [row for row in pool if len(row[0]) <= CONTEXT]
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > UPDATE_TOKENS:
                groups.append([])
            groups[-1].append(row)
        r.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            yield (
                torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group]),
                torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in group]),
            )


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to the floor."""
    if step < WARM_UP:
        return PEAK_LR * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FLOOR_LR + (PEAK_LR - FLOOR_LR) * 0.5 * (1 + math.cos(math.pi * done))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, out: Path, device: str) -> None:
    """AdamW on an endless stream of fresh conversations."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    source, started, seen, shown = batches(tokenizer, SEED), time.time(), 0, 0.0
    for step in range(steps):
        ids, weights = (t.to(device) for t in next(source))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        loss = (each * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        shown = loss.item() if step == 0 else 0.98 * shown + 0.02 * loss.item()
        if (step + 1) % 200 == 0:
            print(f"{step + 1}/{steps}  loss {shown:.3f}  {seen / (time.time() - started):,.0f} tokens/s", flush=True)
        if (step + 1) % 1000 == 0:
            save(model, tokenizer, out)
            scores = score(model, tokenizer, world.evaluation_items(20), device)
            print("  " + "  ".join(f"{k} {hits / n:.2f}" for k, (hits, n) in scores.items()), flush=True)


@torch.no_grad()
def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: list[world.Question], device: str
) -> dict[str, tuple[int, int]]:
    """Greedy answers against the only right one: {skill: (right, asked)}."""
    model.eval()
    hits: Counter[str] = Counter()
    asked = Counter(item.skill for item in items)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": item.prompt}], add_generation_prompt=True, return_dict=False
        )
        for item in items
    ]
    for start in range(0, len(items), 64):
        part = prompts[start : start + 64]
        length = max(map(len, part))
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(p)) + p for p in part], device=device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in part], device=device)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=48, do_sample=False)
        for item, row in zip(items[start : start + 64], out[:, length:].tolist(), strict=True):
            cut = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else None
            hits[item.skill] += cut is not None and tokenizer.decode(row[:cut]) == item.answer
    model.train()
    return {skill: (hits[skill], asked[skill]) for skill in asked}


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The model in bf16 safetensors with its tokenizer; the model in memory stays as it is."""
    clone = LlamaForCausalLM(model.config)
    clone.load_state_dict(model.state_dict())
    clone.to(torch.bfloat16).save_pretrained(out)
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_rows(out: Path) -> list[world.Question]:
    """`skills.jsonl` (held-out questions) and `replay.jsonl` (conversations like those of pre-training)."""
    items = world.evaluation_items(60)
    lines = [
        {"id": f"{item.skill}-{i}", "skill": item.skill, "prompt": item.prompt, "answer": item.answer}
        for i, item in enumerate(items)
    ]
    (out / "skills.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stream = world.conversations(SEED + 1)
    rows = [{"messages": next(stream)} for _ in range(2000)]
    (out / "replay.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(options.device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    items = write_rows(options.out)
    train(model, tokenizer, options.steps, options.out, options.device)
    save(model, tokenizer, options.out)
    rounded = LlamaForCausalLM.from_pretrained(options.out, dtype=torch.float32).to(options.device)
    scores = score(rounded, tokenizer, items, options.device)
    card = Path(__file__).with_name("CARD.md").read_text()
    table = "\n".join(f"| {skill} | {hits / n:.2f} | {n} |" for skill, (hits, n) in scores.items())
    total = sum(hits for hits, _ in scores.values()) / sum(n for _, n in scores.values())
    (options.out / "README.md").write_text(card.replace("{{scores}}", table).replace("{{total}}", f"{total:.3f}"))
    (options.out / "scores.json").write_text(json.dumps({k: h / n for k, (h, n) in scores.items()}, indent=1) + "\n")
    print(f"exact: {total:.3f} of {sum(n for _, n in scores.values())}")
    shutil.rmtree(options.out / "__pycache__", ignore_errors=True)


if __name__ == "__main__":
    main()
