"""Supervised fine-tuning in one flat file: read it to see what a training run is.

The same training as `luthier train` with tuning `lora` or `full`, on plain torch, transformers and peft, without
packing, checkpoints or a log. A test holds its losses equal to those of Luthier's own loop.

    python examples/sft_loop.py MODEL_FOLDER conversations.jsonl OUT_FOLDER [--full]

Each line of the JSONL file is `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}`.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100  # the label of a token that is not trained


def token_ids(tokenizer, messages, generation=False):
    """A conversation in the words of the model's own chat template."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=generation, return_dict=False)


def tokenise(tokenizer, messages, end):
    """Ids and labels of one conversation: the answers are trained, each with its end token, and nothing else."""
    ids = token_ids(tokenizer, messages)
    labels = [IGNORED] * len(ids)
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # What the model would be asked with must be how the training text begins, or something else is trained.
        prompt = token_ids(tokenizer, messages[:k], generation=True)
        if ids[: len(prompt)] != prompt:
            raise ValueError("the chat template writes the prompt differently in training")
        stop = ids.index(end, len(prompt)) + 1
        labels[len(prompt) : stop] = ids[len(prompt) : stop]
    return ids, labels


def read_rows(path, tokenizer, end):
    """Every conversation of a JSONL file as ids and labels."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [tokenise(tokenizer, json.loads(line)["messages"], end) for line in lines if line.strip()]


def summed_loss(model, rows, pad):
    """Negative log-likelihood of the trained tokens of some rows, summed, in nats."""
    longest = max(len(ids) for ids, _ in rows)
    device = next(model.parameters()).device
    ids = torch.tensor([i + [pad] * (longest - len(i)) for i, _ in rows], device=device)
    labels = torch.tensor([y + [IGNORED] * (longest - len(y)) for _, y in rows], device=device)
    mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i, _ in rows], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    # The logits at place t say what stands at t + 1.
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def labels_in(rows):
    """How many trained tokens some rows have; the first token of a row has nothing that could predict it."""
    return sum(label != IGNORED for _, labels in rows for label in labels[1:])


def rate(step, steps, peak, warmup):
    """The learning rate of update `step`: up in a line, then down along a cosine to a tenth of the peak."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return peak * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model, rows, order, peak, pad=0, warmup=0.1, decay=0.01, clip=1.0, seed=17):
    """Train in place, one update for each list of row numbers in `order`; returns the loss of each update."""
    torch.manual_seed(seed)  # of dropout, where there is any
    model.train()

    # Weight decay pulls matrices towards zero; norms and biases are left alone.
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0)

    losses = []
    for step, numbers in enumerate(order):
        batch = [rows[i] for i in numbers]
        loss = summed_loss(model, batch, pad) / labels_in(batch)  # one trained token, one weight
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, clip)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()) or norm == 0:
            raise RuntimeError(f"update {step + 1}: loss {loss.item()}, gradient norm {norm.item()}: stopping")
        for group in optimizer.param_groups:
            group["lr"] = rate(step, len(order), peak, warmup)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def shuffled(count, epochs, batch, seed=17):
    """The row numbers of each update: every row once an epoch, in a new order each time."""
    source = torch.Generator().manual_seed(seed)
    order = []
    for _ in range(epochs):
        numbers = torch.randperm(count, generator=source).tolist()
        order += [numbers[i : i + batch] for i in range(0, count, batch)]
    return order


def main():
    """From a folder with a model and a file of conversations to a folder with the tuned model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("conversations")
    parser.add_argument("out")
    parser.add_argument("--full", action="store_true", help="train all weights, not an adapter")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="rows per update")
    parser.add_argument("--rate", type=float, help="peak learning rate; 1e-3 for an adapter, 3e-5 for all weights")
    asked = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32, use_safetensors=True)
    if not asked.full:
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)  # the base is frozen, the adapter is trained
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    rows = read_rows(asked.conversations, tokenizer, tokenizer.eos_token_id)
    order = shuffled(len(rows), asked.epochs, asked.batch)
    losses = train(model, rows, order, asked.rate or (3e-5 if asked.full else 1e-3), tokenizer.pad_token_id or 0)
    print(f"{len(rows)} rows, {len(order)} updates, loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    model.save_pretrained(asked.out)
    tokenizer.save_pretrained(asked.out)


if __name__ == "__main__":
    main()
