"""The card that travels with a released model: where it comes from, what was measured, how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.types import Metric


def card(
    name: str,
    base: str,
    *,
    method: str,
    rows: int,
    before: Mapping[str, Metric],
    after: Mapping[str, Metric],
    rules: Sequence[Mapping[str, Any]],
    parity: Mapping[str, Any] | None,
) -> str:
    """The card as Markdown; every number is copied from the run's artifacts."""
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: transformers",
        "tags: [luthier]",
        "---",
        f"# {name}",
        "",
        f"Fine-tuned with Luthier from `{base}`: {method}, {rows:,} training rows.",
        "",
        "| metric | before | after | n |",
        "| --- | --- | --- | --- |",
    ]
    for key, metric in after.items():
        old = f"{before[key].value:.3f}" if key in before else "-"
        lines.append(f"| {key} | {old} | {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f}) | {metric.n} |")
    lines += ["", "Gate:", "", *(f"- **{rule['verdict']}** {rule['rule']}: {rule['reason']}" for rule in rules)]
    if parity:
        lines += [
            "",
            f"Parity with the trained model: {parity['prompts']} prompts, {parity['tokens_compared']} tokens equal, "
            f"logits within {parity['largest_difference']:.2g}.",
        ]
    return "\n".join(lines) + "\n"
