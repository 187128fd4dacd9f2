"""Data sets of the hub, through the parquet files that it keeps of each: downloaded once, then read like any others.

A source `hub:owner/name` means the split `train`; `hub:owner/name/subset/split` says which, `@revision` at the end pins
a revision of the data set itself.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.errors import DataError, LuthierError, Missing

PREFIX = "hub:"
CONVERTED = "refs/convert/parquet"
"""The branch that the hub keeps parquet files in, as `subset/split/0000.parquet`."""
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".csv")
_NAME = re.compile(
    r"hub:(?P<repo>[^/@\s]+/[^/@\s]+)(?:/(?P<subset>[^/@]+)(?:/(?P<split>[^/@]+))?)?(?:@(?P<revision>\S+))?"
)

CLIENTS = ("httpx", "httpx2", "requests")
"""Where the errors of a connection come from that the hub's client lets through."""


class Wanted(NamedTuple):
    """What a source names."""

    repo: str
    subset: str | None
    split: str
    revision: str | None


def parse(source: str) -> Wanted:
    """The parts of `hub:owner/name/subset/split@revision`.

    Raises:
        DataError: it is not written so.
    """
    found = _NAME.fullmatch(source)
    if found is None:
        raise DataError(
            "not the name of a data set", where=source, fix="write hub:owner/name or hub:owner/name/subset/split"
        )
    return Wanted(found["repo"], found["subset"], found["split"] or "train", found["revision"])


def fetch(source: str, *, endpoint: str | None = None, cache: Path | None = None) -> list[tuple[Path, str]]:
    """The files of a data set, downloaded or from the cache, with the names that they have in the ledger.

    Args:
        source: as the recipe gives it.
        endpoint: another hub than the public one; the environment's HF_ENDPOINT when None.
        cache: where downloads lie; the environment's when None.

    Raises:
        DataError: the hub has no such data set, subset or split, or it may not be read.
        Missing: the hub cannot be reached, and the data set is not in the cache.
    """
    wanted = parse(source)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    api = HfApi(endpoint=endpoint)
    common: dict[str, Any] = {"repo_type": "dataset", "cache_dir": cache, "endpoint": endpoint}
    try:
        for revision in (wanted.revision,) if wanted.revision else (CONVERTED, None):
            try:
                names = _names(api, wanted, revision, common)
            except RevisionNotFoundError:
                continue
            if any(name.endswith(SUFFIXES) for name in names):
                chosen = choose(names, wanted, source)
                folder = Path(snapshot_download(wanted.repo, revision=revision, allow_patterns=chosen, **common))
                return [(folder / name, f"{PREFIX}{wanted.repo}/{name}") for name in chosen]
    except LuthierError:
        raise
    except LocalEntryNotFoundError as error:
        raise _unreachable(source) from error
    except HfHubHTTPError as error:
        raise _refused(error, source) from error
    except OSError as error:  # no connection
        raise _unreachable(source) from error
    raise DataError("the data set has no files of rows", where=source, fix="check its page on the hub")


def _names(api: Any, wanted: Wanted, revision: str | None, common: dict[str, Any]) -> list[str]:
    """The files of a revision; those in the cache where the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = api.dataset_info(wanted.repo, revision=revision)
        return [sibling.rfilename for sibling in found.siblings or ()]
    except HfHubHTTPError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in CLIENTS:
            raise
        held = [f"{wanted.subset or '*'}/{wanted.split}/*", f"*{wanted.split}*"]
        whole = snapshot_download(wanted.repo, revision=revision, local_files_only=True, allow_patterns=held, **common)
        return [p.relative_to(whole).as_posix() for p in sorted(Path(whole).rglob("*")) if p.is_file()]


def choose(names: Sequence[str], wanted: Wanted, source: str) -> list[str]:
    """The files of the subset and split that are wanted.

    Raises:
        DataError: there are none; with those that there are.
    """
    kept = sorted(name for name in names if name.endswith(SUFFIXES))
    places = {name: _place(name) for name in kept}
    subsets = sorted({subset for subset, _ in places.values()})
    subset = wanted.subset or ("default" if "default" in subsets else subsets[0] if len(subsets) == 1 else None)
    if subset not in subsets:
        raise DataError(
            f"the data set has the subsets {', '.join(subsets)}" if wanted.subset is None else f"no subset '{subset}'",
            where=source,
            fix=f"name one: {PREFIX}{wanted.repo}/{subsets[0]}/{wanted.split}; there are {', '.join(subsets)}",
        )
    chosen = [name for name in kept if places[name] == (subset, wanted.split)]
    if not chosen:
        splits = sorted({split for found, split in places.values() if found == subset})
        raise DataError(
            f"the subset '{subset}' has no split '{wanted.split}'",
            where=source,
            fix=f"name one of {', '.join(splits)}: {PREFIX}{wanted.repo}/{subset}/{splits[0]}",
        )
    return chosen


def _place(name: str) -> tuple[str, str]:
    """Subset and split by a path: `subset/split/0000.parquet`, `data/train-00000-of-00002.parquet`, `test.csv`."""
    *folders, file = name.split("/")
    if len(folders) >= 2:
        split = folders[-1].removeprefix("partial-")
        return folders[-2], split
    stem = re.split(r"[-.]", file)[0]
    return (folders[0] if folders and folders[0] != "data" else "default"), stem


def _refused(error: Any, source: str) -> DataError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return DataError(
            "the hub does not show this data set to you: it is gated, private or not there",
            where=source,
            fix="check the name; accept its terms on the hub and run: hf auth login",
        )
    if status == 404:
        return DataError("the hub has no such data set or revision", where=source, fix="check the name on the hub")
    return DataError(f"the hub answers with {status}", where=source, fix="try again later")


def _unreachable(source: str) -> Missing:
    offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
    return Missing(
        f"{source}: {offline}, and the data set is not in the cache",
        fix="connect to the network once, or name files that lie on this machine",
    )
