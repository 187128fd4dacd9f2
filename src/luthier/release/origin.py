"""What a release comes from: rows, base, licences, hashes; and what nobody measured. Part of its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.types import Metric


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from.

    Attributes:
        base: the base's name; of one in a folder the folder's name, never its place on somebody's machine.
        revision: its commit on the hub.
        licence: of the base, as its own card says; None where it says nothing.
        facts: the content of the dataset's `facts.json`.
        licences: of the sources, by path, as the recipe gives them.
        hashes: of the artifacts that it was made from, by name.
        context: most tokens that the base was made for.
        system: the system message that it was trained with.
        unmeasured: what the recipe measured with no suite, such as `safety`.
    """

    base: str
    revision: str | None
    licence: str | None
    facts: Mapping[str, Any]
    licences: Mapping[str, str | None]
    hashes: Mapping[str, str]
    context: int
    system: str | None = None
    unmeasured: Sequence[str] = field(default=())

    def head(self) -> list[str]:
        """What the hub reads: the base where the hub has it, and its licence where that is known."""
        lines = [f"base_model: {self.base}"] if self.revision else []
        return lines + ([f"license: {self.licence}"] if self.licence else [])

    def lines(self, before: Mapping[str, Metric], after: Mapping[str, Metric]) -> list[str]:
        """The sections on training data, lineage, licences and limits, as Markdown."""
        return [*self._data(), *self._lineage(), *self._limits(before, after)]

    def _data(self) -> list[str]:
        facts = self.facts
        train, fates = facts["train"], facts["fates"]
        left = ", ".join(f"{count:,} {fate}" for fate, count in fates.items() if fate != "kept" and count)
        lines = [
            "",
            "## Trained on",
            "",
            "| source | rows | kept | licence | sha256 |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {_place(one['path'])} | {one['rows']:,} | {one['kept']:,} | "
            f"{self.licences.get(one['path']) or 'not given'} | `{one['sha256'][:16]}` |"
            for one in facts["sources"]
        ]
        rows = f"{train['rows']:,} rows were trained on, {train['trained_tokens']:,} tokens of them learned"
        return [
            *lines,
            "",
            f"{rows}; {facts['validation']['rows']:,} were held out." + (f" Left out: {left}." if left else ""),
        ]

    def _lineage(self) -> list[str]:
        at = f" at `{self.revision}`" if self.revision else ""
        terms = f"Its licence is {self.licence}" if self.licence else "Its card names no licence"
        lines = [
            "",
            "## Lineage",
            "",
            f"Base: `{self.base}`{at}. {terms}; what is made of it is bound by that, and by the",
        ]
        lines[-1] += " licences of the rows."
        return [*lines, "", *(f"- {name}: `{value[:16]}`" for name, value in self.hashes.items())]

    def _limits(self, before: Mapping[str, Metric], after: Mapping[str, Metric]) -> list[str]:
        longest = self.facts["train"]["longest"]
        lines = [
            "",
            "## Limits",
            "",
            f"- It was tuned for the job of these rows. Rows were at most {longest:,} tokens long",
        ]
        lines[-1] += f" (the base was made for {self.context:,}); what is longer or of another kind was not judged."
        if self.system:
            quoted = " ".join(self.system.split())
            lines.append(f'- It was trained with this system message, and is to be used with it: "{quoted}"')
        worse = [name for name in after if name in before and _drops(before[name], after[name])]
        if worse:
            told = ", ".join(f"{n} ({before[n].value:.3f} to {after[n].value:.3f})" for n in worse)
            lines.append(f"- Worse than the base: {told}.")
        lines += [f"- {what.capitalize()} was not measured." for what in self.unmeasured]
        return [*lines, "- Answers were judged as greedy decoding gives them; drawn ones were not."]


def _place(path: str) -> str:
    """A source as it may be told: a hub's name whole, of a file's path the last part."""
    return f"`{path}`" if path.startswith("hub:") else f"`{path.rstrip('/').rpartition('/')[2]}`"


def _drops(before: Metric, after: Metric) -> bool:
    return after.value > before.value if after.lower_is_better else after.value < before.value
