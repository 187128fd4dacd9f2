"""Data: rows are read, recognised, curated, rendered and divided; each has exactly one fate in the ledger."""

from luthier.data.curate import curate
from luthier.data.ledger import Entry, read_ledger
from luthier.data.raw import RawRow
from luthier.data.read import read_rows, resolve
from luthier.data.shapes import SHAPES, Reading, convert

__all__ = ["SHAPES", "Entry", "RawRow", "Reading", "convert", "curate", "read_ledger", "read_rows", "resolve"]
