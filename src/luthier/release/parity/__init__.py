"""Parity: each thing that is released answers as the trained model does, or nothing is released.

The trained model says what it makes of some prompts (`Probe`, `Testimony`); so does each witness: the merged model,
loaded from disk by a process that knows nothing else; each GGUF file, run by llama.cpp and read back by transformers; a
server. `compare` finds the first difference and names its kind: template, tokenizer, weights or numerics.
"""

from luthier.release.parity.compare import Difference, Row, Table, compare
from luthier.release.parity.testimony import Probe, Said, Testimony

__all__ = ["Difference", "Probe", "Row", "Said", "Table", "Testimony", "compare"]
