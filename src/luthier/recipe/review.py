"""Section `data.review`: a person looks at rows before anything is trained."""

from typing import Annotated

from pydantic import Field

from luthier.recipe.section import Section


class Review(Section):
    """A sample of the kept rows has to be seen, and good enough, before training starts: `luthier review`."""

    sample: Annotated[int, Field(ge=10)] = 100
    """Rows to look at: three quarters drawn at random from every source and length, one quarter those with the highest
    risk by the steps of curation."""
    limit: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share of defective rows that training may start with. Rows that were edited or rejected are mended; what
    counts is how many defects may be left among those that nobody saw. The upper end of the exact 95 % interval of
    that, by the rows drawn at random, has to be below the limit."""
