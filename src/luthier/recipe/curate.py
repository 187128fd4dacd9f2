"""Section `data.curate`: the steps of curation, one field a step. `null` turns a step off."""

from luthier.recipe.section import Section


class Duplicates(Section):
    """Rows that say the same as an earlier one, white space and Unicode form apart."""


class Curate(Section):
    """What rows have to pass. Steps that look at one row come first, those that compare rows after rendering."""

    duplicates: Duplicates | None = Duplicates()
    """Exact duplicates; the first row stays."""
