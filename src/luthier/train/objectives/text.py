"""Continued pre-training: the negative log-likelihood of every token of a document."""

from dataclasses import replace

import numpy as np

from luthier.text import TokenRows
from luthier.train.objectives.sft import Sft


class Text(Sft):
    """The loss of `Sft` with every token trained but the first of each row, before which nothing stands."""

    def rows(self, rows: TokenRows) -> TokenRows:
        """All tokens trained."""
        trained = np.ones(len(rows.ids), np.bool_)
        trained[rows.starts[:-1]] = False
        return replace(rows, trained=trained)
