"""Text: chat templates, rendering with an exact loss mask, the one door to tokenizers."""

from luthier.text.pairs import interleave, render_pair
from luthier.text.render import Train, TrainingRow, plain_prompt, read_answer, render, render_batch, render_prompt
from luthier.text.row_writer import RowWriter
from luthier.text.rows import TokenRows, load_rows, save_rows
from luthier.text.tokenizer import load_tokenizer, stop_ids

__all__ = [
    "RowWriter",
    "TokenRows",
    "Train",
    "TrainingRow",
    "interleave",
    "load_rows",
    "load_tokenizer",
    "plain_prompt",
    "read_answer",
    "render",
    "render_batch",
    "render_pair",
    "render_prompt",
    "save_rows",
    "stop_ids",
]
