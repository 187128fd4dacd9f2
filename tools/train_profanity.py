"""Train the profanity classifier from Davidson's labelled tweets and write its weights and its card.

    python tools/train_profanity.py labeled_data.csv

The file is `data/labeled_data.csv` of github.com/t-davidson/hate-speech-and-offensive-language (MIT). A fifth of the
rows, chosen by a hash of the text, is held out; the card's numbers are from there. No text is printed or stored.
"""

import argparse
import csv
import hashlib
import html
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from luthier.data.profanity import BUCKETS_BITS, Classifier, features

OUT = Path(__file__).parents[1] / "src/luthier/data"
PENALTY, STEPS = 2e-5, 60
CARD = """# The profanity classifier

A logistic regression over 2^{bits} hashed features: words, pairs of words, and letters of words three to five at a
time. {size:,} bytes, 8 bits a weight, made by `tools/train_profanity.py` from 24,783 tweets that Davidson,
Warmsley, Macy and Weber ("Automated Hate Speech Detection and the Problem of Offensive Language", 2017, MIT
licence) had labelled by at least three people each. `hate` and `offensive` count as positive, `neither` as
negative. The tweets are not part of the package.

| on the held-out fifth ({n:,} tweets) | |
| --- | --- |
| area under the ROC curve | {auroc:.4f} |
| found at probability 0.5 / 0.9: hate | {hate5:.2f} / {hate9:.2f} |
| found at probability 0.5 / 0.9: offensive | {off5:.2f} / {off9:.2f} |
| false alarms at 0.5 / 0.9 | {fa5:.3f} / {fa9:.3f} |

**What it is not.** It is no verdict on safety: it knows swear words and slurs of English tweets, not intent. A
polite request for something harmful passes; a quotation, a reclaimed word or a phrase of African American English
may not, as labels of this kind are known to be biased against dialects (Sap et al. 2019). It knows no other
language. Use it to send rows to a person, not to decide.
"""


def held_out(text: str) -> bool:
    return hashlib.blake2b(text.encode(), digest_size=2).digest()[0] < 51


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive row scores above a negative one (Mann and Whitney), ties counted half."""
    order = np.argsort(score)
    _, inverse, counts = np.unique(score[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(score))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    p = int(positive.sum())
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (len(score) - p)))


def fit(rows: list[np.ndarray], positive: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias by L-BFGS: sum of weights by the root of the number of features, classes weighted alike."""
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    value = np.repeat([len(row) ** -0.5 for row in rows], [len(row) for row in rows]).astype(np.float32)
    index = torch.tensor(np.stack([owner, np.concatenate(rows)]))
    matrix = (
        torch.sparse_coo_tensor(index, torch.tensor(value), (len(rows), 2**BUCKETS_BITS)).coalesce().to_sparse_csr()
    )
    target = torch.tensor(positive.astype(np.float32))
    balance = torch.where(target > 0, 0.5 / target.mean(), 0.5 / (1 - target.mean()))
    weights, bias = torch.zeros(2**BUCKETS_BITS, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=STEPS, history_size=8, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logits = (matrix @ weights).squeeze(1) + bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, balance)
        value = value + PENALTY * (weights**2).sum()
        value.backward()
        return value

    solver.step(loss)
    return weights.detach().numpy()[:, 0], float(bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    with parser.parse_args().labels.open(newline="", encoding="utf-8") as file:
        read = [(html.unescape(row["tweet"]), int(row["class"])) for row in csv.DictReader(file)]
    rows = [(text, label, parts) for text, label in read if (parts := features(text))]
    train = [(np.concatenate(parts), label < 2) for text, label, parts in rows if not held_out(text)]
    weights, bias = fit([one for one, _ in train], np.array([label for _, label in train]))
    scale = np.float32(np.abs(weights).max() / 127)
    small = np.round(weights / scale).astype(np.int8)
    path = OUT / "profanity.safetensors"
    save_file({"weights": small, "scale": np.array([scale]), "bias": np.array([bias], np.float32)}, path)
    asked = [(text, label) for text, label, _ in rows if held_out(text)]
    found = Classifier.load(path)
    score = np.array([found.probability(text) for text, _ in asked])
    label = np.array([label for _, label in asked])
    rates = {
        f"{n}{t}": (score[label == k] >= t / 10).mean() for n, k in (("hate", 0), ("off", 1), ("fa", 2)) for t in (5, 9)
    }
    card = CARD.format(
        bits=BUCKETS_BITS, size=path.stat().st_size, n=len(asked), auroc=auroc(score, label < 2), **rates
    )
    (OUT / "profanity.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
