"""The work of the speed comparison: a model of a known shape with random weights, and rows like real ones.

| profile | rows |
| --- | --- |
| P1 | full packs: every row has the longest length, all tokens trained |
| P2 | chats: lengths lognormal, median 300 (less where rows are cut short), long tail; 40 % of the tokens trained |
| P3 | long documents: every row four times the longest of P2, all tokens trained |
| P4 | pairs of answers to one prompt, the prompt 60 % of a row; answers trained |

Every update of P2 and P4 holds about as many tokens, so that arms which get different far have done the same work.

Ids are drawn from Zipf's law, and every second one follows from the id before it, so that there is something to learn
and losses of different arms can be compared as they fall.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from luthier.errors import RecipeError
from luthier.text import TokenRows, load_rows, save_rows
from luthier.text.render import TrainingRow

PROFILES = ("P1", "P2", "P3", "P4")
MEDIAN, SPREAD, LABELLED, SHARED = 300, 0.8, 0.4, 0.6
LONGEST = {"cpu": 512, "cuda": 4096}
MICRO_TOKENS = {"cpu": 4_096, "cuda": 16_384}
ALIKE = 0.03
"""How far from the mean the tokens of an update may be."""
PAD, END, FIRST = 0, 1, 4
"""Ids that pad and that end a row, and the first that means something."""


def _llama(hidden: int, layers: int, inner: int, heads: int, keys: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        **more,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "2M": _llama(128, 4, 352, 4, 4, 2_048),
    "15M": _llama(288, 6, 768, 6, 6, 32_000),
    "42M": _llama(512, 8, 1_408, 8, 8, 32_000),
    "smollm2-135m": _llama(576, 30, 1_536, 9, 3, 49_152),
    "qwen3-0.6b": _llama(1024, 28, 3_072, 16, 8, 151_936, model_type="qwen3", head_dim=128),
    "qwen3-1.7b": _llama(2048, 28, 6_144, 16, 8, 151_936, model_type="qwen3", head_dim=128),
    "llama-3.1-8b": _llama(4096, 32, 14_336, 32, 8, 128_256, tie_word_embeddings=False),
}
"""Name -> the config of a published shape, or of a small one."""


@dataclass(frozen=True, slots=True)
class Work:
    """What all arms do: where it lies, the updates as row numbers, and how it is learned."""

    folder: Path
    shape: str
    profile: str
    tuning: str
    updates: list[list[int]]
    device: str
    rank: int = 16
    rate: float = 1e-3
    seed: int = 0
    micro_tokens: int = 4096
    optimizer: str = "adamw"

    @property
    def model(self) -> Path:
        """The folder of the base model."""
        return self.folder / "model"

    @property
    def pairs(self) -> bool:
        """Whether the rows are pairs."""
        return self.profile == "P4"

    @property
    def rows(self) -> TokenRows:
        """All rows."""
        return load_rows(self.folder / "rows.safetensors")

    def save(self) -> Path:
        """Write it down for the arms' processes."""
        path = self.folder / "work.json"
        path.write_text(json.dumps(asdict(self) | {"folder": str(self.folder)}), encoding="utf-8")
        return path


def read_work(path: Path) -> Work:
    """What `Work.save` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Work(**content | {"folder": Path(content["folder"])})


def prepare(
    folder: Path,
    shape: str,
    profile: str,
    tuning: str,
    *,
    rows: int,
    updates: int,
    longest: int | None,
    seed: int,
    optimizer: str = "adamw",
) -> Work:
    """Make the model and the rows; a model of the same shape that lies there already is kept.

    Args:
        folder: where to put them.
        shape: one of `SHAPES`.
        profile: one of `PROFILES`.
        tuning: `lora`, `qlora` or `full`.
        rows: rows (pairs in P4) an update.
        updates: how many to prepare; arms that get further begin again.
        longest: most tokens of a row; 512 on a CPU and 4,096 on a GPU when None.
        seed: of weights and rows.
        optimizer: `adamw` or `adamw_8bit`.

    Raises:
        RecipeError: there is no such shape or profile.
    """
    import torch

    for given, there, what in ((shape, SHAPES, "shape"), (profile, PROFILES, "profile")):
        if given not in there:
            raise RecipeError(f"there is no {what} '{given}'", where=f"--{what}", fix=f"choose: {', '.join(there)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(seed)
    vocabulary = SHAPES[shape]["vocab_size"]
    made = list(_rows(profile, rows, updates, longest or LONGEST[device], vocabulary, source))
    save_rows(folder / "rows.safetensors", made)
    each = 2 * rows if profile == "P4" else rows
    order = [list(range(i, i + each)) for i in range(0, len(made), each)]
    rate = (3e-4 if tuning == "full" else 1e-3) * (0.1 if profile == "P4" else 1.0)
    work = Work(
        folder, shape, profile, tuning, order, device,
        rate=rate, seed=seed, micro_tokens=MICRO_TOKENS[device], optimizer=optimizer,
    )  # fmt: skip
    made_of = {"shape": SHAPES[shape], "seed": seed, "torch": torch.__version__}
    note = folder / "model.json"
    if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != made_of:
        note.unlink(missing_ok=True)
        _save_model(work, torch)
        note.write_text(json.dumps(made_of), encoding="utf-8")
    return work


def _save_model(work: Work, torch: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from luthier.models.load import quiet, training_dtype

    quiet()

    settings = dict(SHAPES[work.shape])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, pad_token_id=PAD, eos_token_id=END)
    torch.manual_seed(work.seed)
    dtype = getattr(torch, training_dtype("auto"))
    with torch.device(work.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(work.model)
    del model
    if work.device == "cuda":
        torch.cuda.empty_cache()
    words = {"<pad>": PAD, "</s>": END} | {f"w{i}": i for i in range(2, config.vocab_size)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w2"))  # noqa: S106
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends: dict[str, Any] = {"pad_token": "<pad>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **ends).save_pretrained(work.model)


def _lengths(rows: int, updates: int, longest: int, source: np.random.Generator) -> list[int]:
    """Lengths of all rows, drawn anew for an update until their sum is about the mean one."""

    def drawn(count: int) -> npt.NDArray[np.int64]:
        median = MEDIAN * longest / 1024 if longest < 1024 else MEDIAN
        return np.clip(source.lognormal(np.log(median), SPREAD, count).astype(np.int64), 16, longest)

    wanted = rows * float(drawn(100_000).mean())
    found: list[int] = []
    while len(found) < rows * updates:
        lengths = drawn(rows)
        if abs(float(lengths.sum()) - wanted) <= ALIKE * wanted:
            found += lengths.tolist()
    return found


def _rows(profile: str, rows: int, updates: int, longest: int, vocabulary: int, source: np.random.Generator) -> Any:
    count = rows * updates
    if profile == "P1":
        lengths: Sequence[int] = [longest] * count
    elif profile == "P3":
        lengths = [4 * longest] * count
    else:
        lengths = _lengths(rows, updates, longest, source)
    for length in lengths:
        if profile == "P4":
            prompt = int(SHARED * length)
            beginning = _ids(prompt, vocabulary, source)
            for _ in range(2):
                answer = max(4, int((length - prompt) * source.uniform(0.8, 1.25)))
                ids = [*beginning, *_ids(answer, vocabulary, source)[:-1], END]
                yield TrainingRow(ids, [False] * prompt + [True] * (len(ids) - prompt))
            continue
        ids = [*_ids(length - 1, vocabulary, source), END]
        trained = [True] * length if profile != "P2" else _turns(length, source)
        yield TrainingRow(ids, [False, *trained[1:]])


def _turns(length: int, source: np.random.Generator) -> list[bool]:
    """A question and an answer in turns: the last 40 % of each stretch of about 200 tokens are trained."""
    count = max(1, length // 200)
    edges = np.linspace(0, length, count + 1).astype(int)
    trained = np.zeros(length, bool)
    for start, end in pairwise(edges.tolist()):
        share = float(np.clip(source.normal(LABELLED, 0.1), 0.1, 0.9))
        trained[end - max(1, int(share * (end - start))) : end] = True
    return trained.tolist()


def _ids(length: int, vocabulary: int, source: np.random.Generator) -> list[int]:
    free = np.minimum(source.zipf(1.3, length), vocabulary - FIRST) - 1
    ids = np.empty(length, np.int64)
    before = 0
    for i, drawn in enumerate(free.tolist()):
        before = (31 * before + 7) % (vocabulary - FIRST) if i % 2 else drawn
        ids[i] = before
    return (ids + FIRST).tolist()
