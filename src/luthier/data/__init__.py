"""Data: rows are read, recognised, rid of duplicates, rendered and divided; each has exactly one fate in the ledger."""

from luthier.data.curate import curate
from luthier.data.read import RawRow, read_rows, resolve
from luthier.data.shapes import SHAPES, Reading, convert
from luthier.data.split import divide, side

__all__ = ["SHAPES", "RawRow", "Reading", "convert", "curate", "divide", "read_rows", "resolve", "side"]
