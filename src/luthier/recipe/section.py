"""What all sections share: strict, frozen, documented by the docstring under each field."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe. An unknown key is refused; a docstring under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,  # `epochs: .inf` would never end, and what is not a number passes no comparison
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
