"""The card that travels with a released model: where it comes from, what was measured, how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.release.origin import Origin
from luthier.types import Metric


def card(
    name: str,
    origin: Origin,
    *,
    method: str,
    rows: int,
    before: Mapping[str, Metric],
    after: Mapping[str, Metric],
    rules: Sequence[Mapping[str, Any]],
    parity: Mapping[str, Any],
) -> str:
    """The card as Markdown; every number is copied from the run's artifacts."""
    lines = [
        "---",
        *origin.head(),
        "library_name: transformers",
        "tags: [luthier]",
        "---",
        f"# {name}",
        "",
        f"Fine-tuned with Luthier from `{origin.base}`: {method}, {rows:,} training rows.",
        "",
        "| metric | before | after | n |",
        "| --- | --- | --- | --- |",
    ]
    for key, metric in after.items():
        old = f"{before[key].value:.3f}" if key in before else "-"
        lines.append(f"| {key} | {old} | {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f}) | {metric.n} |")
    lines += ["", "Gate:", "", *(f"- **{rule['verdict']}** {rule['rule']}: {rule['reason']}" for rule in rules)]
    return "\n".join(lines + parity_lines(parity) + origin.lines(before, after)) + "\n"


def parity_lines(parity: Mapping[str, Any]) -> list[str]:
    """The proof that what is released is what was trained: one row a file and program, with its bound."""
    rows = parity.get("rows")
    if not parity:
        return []
    if rows is None:
        gap = parity["largest_difference"]
        return ["", f"Parity with the trained model: {parity['prompts']} rows, scores within {gap:.2g}."]
    names = list(parity["trained"])
    lines = [
        "",
        f"Parity with the trained model, on {parity['prompts']} prompts that it was not trained on. KL: of the next "
        "token, in nats; in brackets the bound that had to be kept.",
        "",
        "| " + " | ".join(["what", "token ids", "KL", "same likeliest token", "same answer", "ended", *names]) + " |",
        "| " + " | ".join(["---"] * (6 + len(names))) + " |",
        "| "
        + " | ".join(["the trained model", "", "", "", "", "", *(f"{parity['trained'][n]:.3f}" for n in names)])
        + " |",
    ]
    for row in rows:
        told = [
            row["name"],
            {True: "equal", False: "differ", None: "-"}[row["ids_equal"]],
            f"{row['kl']:.2g} ({row['bound']['kl']:g})",
            f"{row['top']:.1%} ({row['bound']['top']:.1%})",
            *("-" if row[key] is None else f"{row[key]:.0%}" for key in ("same", "ended")),
            *(f"{row['metrics'][n]:.3f}" if n in row["metrics"] else "-" for n in names),
        ]
        lines.append("| " + " | ".join(told) + " |")
    return lines + [line for note in parity.get("notes", ()) for line in ("", f"Note: {note}.")]
