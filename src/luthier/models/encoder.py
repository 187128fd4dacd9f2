"""Texts as vectors and as probabilities: any encoder or text classifier in transformers' format."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from luthier.errors import DataError, RecipeError
from luthier.models.base import Base, find_base
from luthier.models.load import device
from luthier.recipe import Model

BATCH, MOST_TOKENS = 32, 512


def find_encoder(name: str, home: Path, where: str) -> Base:
    """The folder of an encoder: a folder, or a hub id.

    Args:
        name: as the recipe gives it.
        home: the recipe's folder.
        where: the recipe's key, for messages.

    Raises:
        RecipeError: there is no such folder or hub model.
        DataError: it holds no safetensors weights.
        Missing: the hub cannot be reached.
    """
    try:
        return find_base(Model(base=name), home)
    except RecipeError as error:
        fix = "give the folder of an encoder, or a hub id such as sentence-transformers/all-MiniLM-L6-v2"
        raise RecipeError(error.what, where=where, fix=fix) from error


class Encoder:
    """An encoder on this machine's device. Texts longer than it takes are read in pieces that count by length."""

    def __init__(self, base: Base) -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(base.folder))
            model = AutoModel.from_pretrained(str(base.folder), dtype=torch.float32, use_safetensors=True)
        except Exception as error:  # the libraries below raise whatever a damaged file leads them to
            fix = "give an encoder in transformers' format with its tokenizer"
            raise DataError(f"the encoder cannot be loaded: {error}", where=str(base.folder), fix=fix) from error
        self.model = model.to(device()).eval()
        self.longest = min(base.context, self.tokenizer.model_max_length, MOST_TOKENS)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def encode(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """The vectors of texts: the mean over their tokens in the last layer.

        Returns:
            `[texts, width]`, each of length one; zeros for a text without tokens.
        """
        stream, found = iter(texts), [np.zeros((0, self.model.config.hidden_size), np.float32)]
        while some := list(islice(stream, BATCH)):
            found.append(self._batch(some))
        return np.concatenate(found)

    @torch.inference_mode()
    def _batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        given = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.longest,
            return_overflowing_tokens=True,
            padding=True,
            return_tensors="pt",
        )
        owners = given.pop("overflow_to_sample_mapping", torch.arange(len(texts)))
        inputs = {k: v.to(self.model.device) for k, v in given.items() if k in ("input_ids", "attention_mask")}
        mask = inputs["attention_mask"][..., None].float()
        sums = torch.zeros(len(texts), self.model.config.hidden_size)
        for start in range(0, len(owners), BATCH):
            part = {k: v[start : start + BATCH] for k, v in inputs.items()}
            hidden = self.model(**part).last_hidden_state.float() * mask[start : start + BATCH]
            sums.index_add_(0, owners[start : start + BATCH], hidden.sum(1).cpu())
        return torch.nn.functional.normalize(sums, dim=1).numpy()


class TextClassifier:
    """A text classifier in transformers' format, asked for the probability of labels.

    Args:
        base: its folder.
        labels: the labels that count; all but the first when not given.

    Raises:
        RecipeError: it has no such label.
        DataError: it cannot be loaded.
    """

    def __init__(self, base: Base, labels: list[str] | None) -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(base.folder))
            model = AutoModelForSequenceClassification.from_pretrained(
                str(base.folder), dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:  # the libraries below raise whatever a damaged file leads them to
            fix = "give a text classifier in transformers' format with its tokenizer"
            raise DataError(f"the classifier cannot be loaded: {error}", where=str(base.folder), fix=fix) from error
        self.model = model.to(device()).eval()
        self.longest = min(base.context, self.tokenizer.model_max_length, MOST_TOKENS)
        known = [model.config.id2label[i] for i in range(model.config.num_labels)]
        asked = known[1:] or known if labels is None else labels
        if unknown := [label for label in asked if label not in known]:
            fix = f"it has: {', '.join(known)}"
            raise RecipeError(
                f"the classifier has no label {unknown[0]!r}", where="data.curate.profanity.labels", fix=fix
            )
        self.chosen = [known.index(label) for label in asked]
        kind = model.config.problem_type
        self.many = kind == "multi_label_classification" or model.config.num_labels == 1

    @torch.inference_mode()
    def probability(self, text: str) -> float:
        """The highest probability of the chosen labels in any piece of the text."""
        given = self.tokenizer(
            text, truncation=True, max_length=self.longest, return_overflowing_tokens=True, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        inputs = {k: v.to(self.model.device) for k, v in given.items() if k in ("input_ids", "attention_mask")}
        logits = self.model(**inputs).logits.float()
        likely = logits.sigmoid() if self.many else logits.softmax(-1)
        return float(likely[:, self.chosen].max())
