"""Section `tuning`: which weights may change."""

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.section import Section


class Auto(Section):
    """The plan decides, by the number of rows and the hardware."""

    kind: Literal["auto"] = "auto"
    """Chosen by the plan."""


class Full(Section):
    """All weights."""

    kind: Literal["full"]
    """All weights are trained."""


class Lora(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"]
    """Low-rank adapters."""
    rank: Annotated[int, Field(ge=1)] = 16
    """Rank r of the update B A."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the linear layers that get an adapter; `all-linear` is all but the output head."""


class Qlora(Lora):
    """LoRA over a base held in 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: Literal["qlora"]  # type: ignore[assignment]
    """LoRA over a 4-bit base (NF4). Needs the extra `luthier[qlora]`."""
    double_quantisation: bool = True
    """Quantise the quantisation constants too: saves 0.37 bits a weight."""


Tuning = Annotated[Auto | Full | Lora | Qlora, Field(discriminator="kind")]
