"""Section `tuning`: which weights may change."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.section import Section

Tokens = Annotated[int, Field(ge=1, le=4096)]


class Auto(Section):
    """The plan decides, by the number of rows and the hardware."""

    kind: Literal["auto"] = "auto"
    """Chosen by the plan."""


class Full(Section):
    """All weights."""

    kind: Literal["full"]
    """All weights are trained."""


class Freeze(Section):
    """The last blocks; the others stay as they are."""

    kind: Literal["freeze"]
    """The weights of the last blocks are trained."""
    blocks: Annotated[int, Field(ge=1)] = 2
    """How many blocks, counted from the end. The norm after the last block is trained too."""


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
    """Names of the layers that get an adapter; `all-linear` is every linear layer but the output head. The embedding
    can be named too."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps high ranks from learning too slowly (Kalajdzievski 2023,
    arXiv:2312.03732)."""
    dora: bool = False
    """Train the length of each weight's columns apart from their direction (Liu et al. 2024, arXiv:2402.09353).
    Slower."""
    init: Literal["zero", "gaussian", "pissa", "olora"] = "zero"
    """Where the adapter begins. `zero`: it changes nothing at first. `pissa`: at the largest singular values of the
    weight (Meng et al. 2024, arXiv:2404.02948); `olora`: at its QR decomposition (Büyükakyüz 2024, arXiv:2406.01775);
    both are saved as a plain adapter of twice the rank, which fits the unchanged base."""
    lora_plus: Annotated[float, Field(ge=1)] | None = None
    """How many times faster B learns than A (Hayou et al. 2024, LoRA+, arXiv:2402.12354; they suggest 16)."""
    base: Literal["exact", "int8", "fp8"] = "exact"
    """Number format of the frozen weights while training. `int8`: rounded to 8 bits, a quarter of the memory, and
    faster where the CPU multiplies 8-bit integers fast; `fp8`: the same on Ada, Hopper and later GPUs. Only training
    sees the rounded weights: evaluation and release have the adapters beside the exact ones."""
    modules_to_save: tuple[str, ...] = ()
    """Layers trained as a whole beside the adapters, for example `embed_tokens` and `lm_head`."""


class Qlora(Lora):
    """LoRA over a quantised base (Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: Literal["qlora"]  # type: ignore[assignment]
    """LoRA over a base in 4 bits (NF4) or 8. Needs the extra `luthier[qlora]`."""
    bits: Literal[4, 8] = 4
    """4: NormalFloat; 8: LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339), which rounds activations too."""
    double_quantisation: bool | None = None
    """Quantise the quantisation constants too, which saves 0.37 bits a weight: true when not given. Of 4 bits only."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format that 4-bit weights are multiplied in; that of the model when `auto`."""

    @model_validator(mode="after")
    def _fits_a_quantised_base(self) -> "Qlora":
        if self.base != "exact":
            raise ValueError(f"tuning.base={self.base} rounds a base that qlora rounds already; remove it")
        if self.init in ("pissa", "olora"):
            raise ValueError(f"tuning.init={self.init} takes the weight apart, which a quantised one does not allow")
        if self.bits == 8 and self.compute_dtype != "auto":
            raise ValueError("tuning.compute_dtype has no effect with 8 bits; remove one of them")
        if self.bits == 8 and self.double_quantisation is not None:
            raise ValueError("tuning.double_quantisation has no effect with 8 bits; remove one of them")
        return self


class Prefix(Section):
    """Learned keys and values before every row, in each layer (Li & Liang 2021, arXiv:2101.00190)."""

    kind: Literal["prefix"]
    """Learned keys and values in each layer. Cannot be merged into the weights."""
    tokens: Tokens = 16
    """Length of the prefix."""
    projection: Annotated[int, Field(ge=1)] | None = None
    """Width of a two-layer network that makes the prefix in training; the prefix itself is trained when not given."""


class Prompt(Section):
    """Learned embeddings before every row (Lester et al. 2021, arXiv:2104.08691)."""

    kind: Literal["prompt"]
    """Learned embeddings. Cannot be merged into the weights."""
    tokens: Tokens = 16
    """Length of the prompt."""
    init: Literal["vocabulary", "random"] = "vocabulary"
    """Begin at embeddings of tokens drawn from the vocabulary, or at random numbers."""


class PTuning(Section):
    """Learned embeddings before every row, made by a small network (Liu et al. 2021, arXiv:2103.10385)."""

    kind: Literal["p-tuning"]
    """Learned embeddings from a small network. Cannot be merged into the weights."""
    tokens: Tokens = 16
    """Length of the prompt."""
    width: Annotated[int, Field(ge=1)] = 128
    """Width of the network."""


class Adapter(Section):
    """Bottleneck layers inside each block (Houlsby et al. 2019, arXiv:1902.00751)."""

    kind: Literal["adapter"]
    """Bottleneck layers inside each block. Cannot be merged into the weights."""
    width: Annotated[int, Field(ge=1)] = 64
    """Width of the bottleneck."""
    places: Literal["both", "mlp"] = "both"
    """After attention and the feed-forward part, as Houlsby et al., or after the latter only, as Pfeiffer et al. 2020
    (arXiv:2005.00247)."""


class Ia3(Section):
    """Learned factors on keys, values and inner activations (Liu et al. 2022, arXiv:2205.05638)."""

    kind: Literal["ia3"]
    """Learned factors on activations: the fewest parameters that can be merged."""
    target_modules: list[str] | None = None
    """Layers whose activations are scaled; those of the paper (keys, values, the second feed-forward layer) when not
    given."""
    feedforward_modules: list[str] | None = None
    """Of these, the layers whose input is scaled instead of their output."""


Tuning = Annotated[
    Auto | Full | Freeze | Lora | Qlora | Prefix | Prompt | PTuning | Adapter | Ia3, Field(discriminator="kind")
]
MERGES = ("full", "freeze", "lora", "qlora", "ia3")
"""Tunings whose result can be written into the base's own weights."""
