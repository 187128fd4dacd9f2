"""Evaluation items among the rows: copies, paraphrases by words and numbers, paraphrases by an encoder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from luthier.artifact import digest
from luthier.data.clusters import Signer
from luthier.data.meaning import identity, load
from luthier.data.overlap import Copies, Paraphrases, windows
from luthier.data.step import Resolution, Row, Rows, SetStep, Surroundings
from luthier.recipe.curate import Contamination as Settings
from luthier.types import Fate, Json

RISK = 0.9
LAYERS = {"verbatim": "a copy of", "similar": "much like", "encoder": "by its meaning much like"}


@dataclass
class _Burnt:
    """What is known of one item that was found."""

    layer: str
    score: float
    first: str
    rows: int = 0
    kept: int = 0


def _asked(row: Row) -> list[str]:
    """Where a paraphrase of an item may be."""
    return [row.text] if row.is_document else [turn.content for turn in row.messages if turn.role == "user"]


class Contamination(SetStep[Settings]):
    """Compares every row with every evaluation item in use, and tells which items are burnt."""

    name = "contamination"

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        self.items = list(around.evaluation)
        self.burnt: dict[int, _Burnt] = {}

    def fingerprint(self) -> str:
        """The settings and the content of the items."""
        items = [[item.suite, item.item, item.prompt, item.answer] for item in self.items]
        encoder = identity(self.settings.encoder, self.around.home, self.name) if self.settings.encoder else None
        return digest([super().fingerprint(), items, encoder])

    @cached_property
    def copies(self) -> Copies:
        """The index of words in a row."""
        return Copies(self.items, Signer())

    @cached_property
    def paraphrases(self) -> Paraphrases:
        """The index of stems and numbers."""
        found = Paraphrases(self.items)
        if self.settings.threshold is not None:
            found.thresholds[:] = self.settings.threshold
        return found

    def signature(self, row: Row) -> bytes:
        """The items found in the row: layer, item and score, as JSON; nothing for most rows."""
        return self.signatures([row])[0]

    def signatures(self, rows: Sequence[Row]) -> list[bytes]:
        """The same for many rows."""
        if not self.items:
            return [b""] * len(rows)
        similar = self.settings.similar != "off"
        near = self.paraphrases.nearest_of(list(map(_asked, rows))) if similar else [{}] * len(rows)
        return [self._signature(row, nearest) for row, nearest in zip(rows, near, strict=True)]

    def _signature(self, row: Row, nearest: Mapping[int, float]) -> bytes:
        texts = [row.text] if row.is_document else [turn.content for turn in row.messages]
        copied = self.copies.find(texts, row.prompt, row.answers)
        found = [("verbatim", item, score) for item, score in copied.items()]
        found += [("similar", item, score) for item, score in nearest.items() if item not in copied]
        return json.dumps(found).encode() if found else b""

    def resolve(self, rows: Rows) -> Iterator[Resolution]:
        """A fate or a risk for every row that holds an item."""
        self.burnt = {}
        meant: dict[int, dict[int, float]] = {}
        if self.settings.encoder and self.items:
            for number, near in self._by_meaning(rows):
                mine = meant.setdefault(number, {})
                mine.update({item: score for item, score in near if score > mine.get(item, 0)})
        for number, signature in rows.signatures():
            found = json.loads(signature) if signature else []
            seen = {item for _, item, _ in found}
            found += [("encoder", item, score) for item, score in meant.get(number, {}).items() if item not in seen]
            if found:
                yield self._resolution(number, found, rows)

    def _resolution(self, number: int, found: list[tuple[str, int, float]], rows: Rows) -> Resolution:
        layer, item, score = min(found, key=lambda one: (list(LAYERS).index(one[0]), -one[2]))
        action = self.settings.verbatim if layer == "verbatim" else self.settings.similar
        drop = action == "drop"
        for one, burnt, value in found:
            entry = self.burnt.setdefault(burnt, _Burnt(one, value, rows.row(number).where))
            entry.rows += 1
            entry.kept += not drop
            if (list(LAYERS).index(one), -value) < (list(LAYERS).index(entry.layer), -entry.score):
                entry.layer, entry.score = one, value
        name = self.items[item]
        reason = f"{LAYERS[layer]} item {name.item} of {name.suite} ({score:.2f})"
        if drop:
            return Resolution(number, Fate("contamination", reason, score=score))
        return Resolution(number, risk=RISK, note=reason)

    def _by_meaning(self, rows: Rows) -> Iterator[tuple[int, list[tuple[int, float]]]]:
        encoder = load(str(self.settings.encoder), self.around.home, self.name)
        items = encoder.encode(item.prompt for item in self.items)
        owners: list[int] = []

        def asked() -> Iterator[str]:
            for number, row in rows.rows():
                for window in windows(row.text if row.is_document else row.prompt):
                    owners.append(number)
                    yield window

        for number, vector in zip(owners, encoder.encode(asked()), strict=True):
            scores = items @ vector
            near = (scores >= self.settings.encoder_threshold).nonzero()[0]
            if len(near):
                yield number, [(int(i), float(scores[i])) for i in near]

    def report(self) -> Json:
        """The items looked for, and of each that was found how and in how many rows; burnt is what is still trained."""
        found = [
            {
                "suite": self.items[i].suite,
                "item": self.items[i].item,
                "layer": burnt.layer,
                "score": round(burnt.score, 4),
                "rows": burnt.rows,
                "kept": burnt.kept,
                "burnt": burnt.kept > 0,
                "first": burnt.first,
            }
            for i, burnt in sorted(self.burnt.items())
        ]
        return {"items": len(self.items), "found": found, "burnt": sum(burnt.kept > 0 for burnt in self.burnt.values())}
