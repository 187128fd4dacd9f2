"""Section `data.curate`: the steps of curation, one field a step. `null` turns a step off."""

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.section import Section

Near = Literal["drop", "group"]


class Duplicates(Section):
    """Rows that say the same as an earlier one, white space and Unicode form apart."""


class NearDuplicates(Section):
    """Rows of which most words stand in the same order in another row.

    `drop` keeps the best row of a cluster: the highest rating, then the longest, then the first. `group` keeps all of
    them on one side of the split, so that nothing is validated that was trained on.
    """

    threshold: Annotated[float, Field(gt=0.2, le=1)] = 0.75
    """From which Jaccard index of five-word shingles on two rows are near duplicates. Texts under twenty words are
    compared by five-letter shingles."""
    documents: Near = "drop"
    """What becomes of near duplicates among plain texts."""
    conversations: Near = "group"
    """What becomes of near duplicates among conversations and pairs, where small changes may be the point."""


class Curate(Section):
    """What rows have to pass. Steps that look at one row come first, those that compare rows after rendering."""

    duplicates: Duplicates | None = Duplicates()
    """Exact duplicates; the first row stays."""
    near_duplicates: NearDuplicates | None = NearDuplicates()
    """Near duplicates."""
