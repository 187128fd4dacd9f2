"""Reward models: what a conversation's last answer is worth to a model with one score, or to a classifier."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from luthier.errors import DataError, RecipeError, TemplateError
from luthier.models.attention import NAME, attention
from luthier.models.base import Base, labels_of
from luthier.models.batch import best_fit, lay_out
from luthier.models.load import DTYPES, DtypeName, device, load_model
from luthier.models.logprobs import hidden_states
from luthier.models.roles import speaking_as
from luthier.models.tuning import causal_model
from luthier.text import TokenRows, render
from luthier.text.rows import gather
from luthier.text.tokenizer import Tokenizer
from luthier.types import Message

BUDGET = 4096
TOGETHER = 32
Talk = Sequence[Message]


@torch.no_grad()
def row_scores(model: Any, head: Any, rows: TokenRows, *, packed: bool = True) -> list[float]:
    """The score at each row's last token, whatever rows it shares a pass with.

    Args:
        model: whose hidden states are read.
        head: hidden states [rows, hidden] -> scores [rows, 1].
        rows: whole conversations.
        packed: whether rows may share a sequence.
    """
    place = next(model.parameters()).device
    found = torch.zeros(len(rows), dtype=torch.float64)
    causal = causal_model(model)
    within = nullcontext() if causal.config._attn_implementation == NAME else attention(causal, NAME)
    with within:
        for numbers in best_fit(rows.lengths.tolist(), BUDGET):
            batch = lay_out(rows, numbers, packed=packed).to(place)
            hidden = hidden_states(model, batch).index_select(0, batch.ends)
            found[batch.numbers.cpu()] = head(hidden.to(next(head.parameters()).dtype))[:, 0].double().cpu()
    scores: list[float] = found.tolist()
    return scores


def _rendered(talks: Sequence[Talk], tokenizer: Tokenizer) -> TokenRows:
    return gather([render(talk, tokenizer, train="last")[-1] for talk in talks])


class Beside:
    """A reward model that is an adapter and a head on the policy's own base."""

    def __init__(self, model: Any, name: str, head: Any, tokenizer: Tokenizer) -> None:
        self.model, self.name, self.head, self.tokenizer = model, name, head, tokenizer

    def __call__(self, talks: Sequence[Talk]) -> list[float]:
        """The score of each conversation's last answer."""
        self.model.eval()
        with speaking_as(self.model, self.name):
            return row_scores(self.model, self.head, _rendered(talks, self.tokenizer))


class Apart:
    """A reward model of its own: a causal model with one score at the last token, and its own chat template."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer

    def __call__(self, talks: Sequence[Talk]) -> list[float]:
        """The score of each conversation's last answer."""
        head = causal_model(self.model).score
        return row_scores(self.model, head, _rendered(talks, self.tokenizer))


class Classifier:
    """Any sequence classifier of transformers with its own tokenizer.

    With a chat template it reads the whole conversation, without one the text of what was asked and the answer as a
    pair. One label: its logit is the score; several: the log-odds of the one asked for, among all labels where they
    exclude each other (softmax), by itself where several may hold (sigmoid: `multi_label_classification`).
    """

    def __init__(self, model: Any, tokenizer: Any, label: int | None) -> None:
        self.model, self.tokenizer, self.label = model.eval().requires_grad_(False), tokenizer, label

    @torch.no_grad()
    def __call__(self, talks: Sequence[Talk]) -> list[float]:
        """The score of each conversation's last answer; texts of like length go together."""
        place = next(self.model.parameters()).device
        ids = [self._ids(talk) for talk in talks]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]["input_ids"]))
        found = [math.nan] * len(ids)
        pads = None not in (self.tokenizer.pad_token, self.model.config.pad_token_id)
        size = TOGETHER if pads else 1  # without a token to pad with every text goes alone
        for start in range(0, len(order), size):
            group = order[start : start + size]
            texts = self.tokenizer.pad([ids[i] for i in group], padding=pads, padding_side="right", return_tensors="pt")
            inputs = texts.to(place)
            logits = self.model(**inputs).logits.double()
            if self.label is not None and self.model.config.problem_type == "multi_label_classification":
                logits = logits[:, self.label, None]  # the log-odds of a sigmoid are its logit
            elif self.label is not None:
                logits = logits.log_softmax(-1)[:, self.label, None]
                logits = logits - torch.log1p(-logits.exp().clamp(max=1 - 1e-12))
            for i, score in zip(group, logits[:, 0].tolist(), strict=True):
                found[i] = score
        return found

    def _ids(self, talk: Talk) -> dict[str, list[int]]:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most:  # RoBERTa and its kin count two positions that no token can have; their tokenizers know
            most = min(most, self.tokenizer.model_max_length)
        if self.tokenizer.chat_template:
            turns = [{"role": turn.role, "content": turn.content} for turn in talk]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            found = dict(self.tokenizer(text, add_special_tokens=False, truncation=False))
        else:
            asked = "\n\n".join(turn.content for turn in talk[:-1])
            found = dict(self.tokenizer(asked, talk[-1].content, truncation=False))
        if most and len(found["input_ids"]) > most:
            raise TemplateError(f"{len(found['input_ids'])} tokens, and the classifier reads {most}")
        return found


def open_classifier(
    base: Base, dtype: DtypeName, label: str | None, *, where: str = "objective.rewards"
) -> Apart | Classifier:
    """A folder with a sequence classifier.

    A causal model with one score is read by the training forward, whose score does not depend on padding; others as
    transformers runs them. `where` is the recipe's key that asks for it.

    Raises:
        RecipeError: it has several labels, and which one is meant is not said.
        DataError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=base.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(str(base.folder), trust_remote_code=base.trust_remote_code)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(base.folder), fix="fetch the model again") from error
    labels = labels_of(base, where=where) if config.num_labels > 1 else []
    if bool(labels) != (label is not None) or (label is not None and label not in labels):
        what = f"it has the labels {', '.join(labels)}" if labels else "it has one score and no labels"
        raise RecipeError(f"{base.name}: {what}", where=where, fix="give label one of these" if labels else "no label")
    causal = any(name.endswith("ForSequenceClassification") for name in config.architectures or ()) and (
        getattr(config, "num_key_value_heads", None) is not None and not labels
    )
    if causal and getattr(tokenizer, "chat_template", None):
        return Apart(load_model(base, dtype, scores=True), base.tokenizer())
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(base.folder), dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=base.trust_remote_code
        )
    except Exception as error:  # the libraries below raise whatever a damaged file leads them to
        raise DataError(f"the model cannot be loaded: {error}", where=str(base.folder), fix="fetch it again") from error
    return Classifier(model.to(device()), tokenizer, None if label is None else labels.index(label))
