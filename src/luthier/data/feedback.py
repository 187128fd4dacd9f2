"""What people said of answers in application logs: a thumb up or down, a rating, an answer written anew."""

import math

from luthier.data.turns import RowError, first_key, quote, read_content, wrong
from luthier.types import Json

RATING_KEYS = ("rating", "label", "feedback", "thumbs", "thumb", "reaction")
EDIT_KEYS = ("edited", "edited_response", "edited_answer", "correction", "corrected")
WORDS = {
    1.0: "up thumbs_up thumbsup thumb_up like liked good positive upvote helpful yes true +1 1 👍",
    -1.0: "down thumbs_down thumbsdown thumb_down dislike disliked bad negative downvote unhelpful no false -1 👎",
    0.0: "none neutral 0",
}
MEANING = {word: value for value, words in WORDS.items() for word in words.split()}


def read_rating(row: Json, scale: tuple[float, float] | None) -> float | None:
    """A person's judgement from -1 to 1, above 0 wanted; None where the row has none.

    Args:
        row: a row or a turn.
        scale: the lowest and the highest rating, where ratings are numbers on a scale.
    """
    key = first_key(row, RATING_KEYS)
    if key is None:
        return None
    value = row[key]
    if key == "label" and not (isinstance(value, bool) or str(value).strip().lower() in ("true", "false")):
        return None  # classifiers call their classes so; only yes and no are a judgement of the answer
    if isinstance(value, dict):  # {"rating": {"value": 1}}, as trackers of traces log it
        inner = first_key(value, ("value", "score", "rating"))
        if inner is None:
            raise wrong(key, value, "a rating")
        value = value[inner]
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if isinstance(value, int | float):
        return _on_scale(float(value), key, scale)
    if isinstance(value, str):
        if not value.strip():
            return None
        found = MEANING.get(value.strip().lower().replace(" ", "_"))
        if found is not None:
            return found
        try:
            return _on_scale(float(value), key, scale)
        except ValueError:
            pass
        raise RowError("unknown_rating", f"'{key}' is {quote(value)}, which says neither wanted nor unwanted")
    raise wrong(key, value, "a rating")


def _on_scale(value: float, key: str, scale: tuple[float, float] | None) -> float:
    if scale is not None:
        low, high = scale
        if not low <= value <= high:
            raise RowError("unknown_rating", f"'{key}' is {value:g}, outside of the scale {low:g} to {high:g}")
        return (2 * value - low - high) / (high - low)
    if not -1 <= value <= 1 or math.isnan(value):
        reason = f"'{key}' is {value:g}, and the scale is not known: say scale: [1, 5] beside the source's path"
        raise RowError("unknown_rating", f"{reason}, or fields: {{rating: null}} if it is no rating")
    return value


def read_edit(row: Json) -> str | None:
    """The answer as a person wrote it anew; None where nobody did."""
    key = first_key(row, EDIT_KEYS)
    if key is None or isinstance(row[key], bool):  # `edited: false` says that nobody did
        return None
    text = read_content(row[key], key)
    return text if text.strip() else None
