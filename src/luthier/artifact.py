"""An artifact: a folder of files with a manifest, addressed by what made it.

The *key* is the hash of kind, settings and the content hashes of its parents and inputs: it is known before the work is
done, so equal work is found again. The *sha256* is the hash of the content. The work is written to `<folder>.partial`
and renamed when it is whole, so a folder without the suffix is always complete; a `.partial` folder may be resumed.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.errors import DataError, Missing

VERSION = 1
MANIFEST = "artifact.json"
ASIDE = ".luthier-tmp"


def digest(value: Any) -> str:
    """The sha256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact on disk. `files` maps relative paths to their sha256."""

    folder: Path
    kind: str
    key: str
    sha256: str
    files: Mapping[str, str]
    parents: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """The path of one of its files."""
        return self.folder / name

    def json(self, name: str) -> Any:
        """One of its files, read as JSON.

        Raises:
            DataError: the file is gone or damaged.
        """
        try:
            return json.loads(self.path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise damaged(self.path(name), error, whole=self.folder) from error

    def verify(self) -> None:
        """Compare every file with its recorded hash.

        Raises:
            DataError: a file is missing or its bytes changed.
        """
        for name, expected in self.files.items():
            path = self.path(name)
            if not path.is_file():
                raise damaged(path, "the file is missing", whole=self.folder)
            if file_digest(path) != expected:
                raise damaged(path, "its bytes changed since it was written", whole=self.folder)


def damaged(path: Path, reason: object, *, whole: Path | None = None) -> DataError:
    """The error for a file of ours that can no longer be trusted; `whole` is the folder to make anew."""
    folder = whole or path.parent
    return DataError(f"damaged: {reason}", where=str(path), fix=f"rm -r {folder}, then run again: it will be remade")


def key_of(kind: str, settings: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """The key of the artifact that `kind`, `settings` and `parents` (name -> content hash) lead to."""
    return digest({"version": VERSION, "kind": kind, "settings": settings, "parents": parents})


class Store:
    """The folder that holds the artifacts of all runs beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where the finished artifact lies or will lie."""
        return self.root / f"{kind}-{key[:16]}"

    def find(self, kind: str, key: str) -> Artifact | None:
        """The finished artifact with this key, or None."""
        folder = self.folder(kind, key)
        return open_artifact(folder) if folder.is_dir() else None

    def partial(self, kind: str, key: str) -> Path:
        """The folder in which to make the artifact; what an interrupted attempt left there is still in it."""
        folder = self.folder(kind, key)
        partial = folder.with_name(folder.name + ".partial")
        make_folder(partial)
        return partial

    def finish(self, kind: str, key: str, parents: Mapping[str, str], settings: Mapping[str, Any]) -> Artifact:
        """Write the manifest of the partial folder, flush it to disk and give it its final name."""
        folder = self.folder(kind, key)
        partial = folder.with_name(folder.name + ".partial")
        for torn in partial.rglob("*" + ASIDE):  # a crash amid `write_text` left it; it is no part of the content
            torn.unlink()
        files = {p.relative_to(partial).as_posix(): file_digest(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        files.pop(MANIFEST, None)
        made = Artifact(folder, kind, key, digest(files), files, dict(parents), dict(settings))
        body = {k: v for k, v in asdict(made).items() if k != "folder"}
        manifest = {"version": VERSION, **body, "created": round(time.time(), 3)}
        write_text(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        try:
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
        except OSError as error:
            raise disk_error(folder, error) from error
        return made


def open_artifact(folder: Path) -> Artifact:
    """Read an artifact's manifest.

    Raises:
        DataError: there is no manifest, it is damaged, or a newer Luthier wrote it.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["version"] > VERSION:
            raise DataError("written by a newer Luthier", where=str(path), fix="pip install -U luthier")
        names = ("kind", "key", "sha256", "files", "parents", "settings")
        return Artifact(folder, **{name: body[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def make_folder(folder: Path) -> None:
    """Create a folder with its parents, in words a person understands when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8 or nothing, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: aside, flushed, renamed.

    Raises:
        Missing: the disk is full or cannot be written.
    """
    aside = path.with_name(path.name + ASIDE)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        aside.unlink(missing_ok=True)  # gone already when all went well


FULL = (errno.ENOSPC, errno.EDQUOT, None)
"""What a full disk says; libraries that write for us give a text and no number."""


def disk_error(path: Path, error: OSError) -> Missing:
    """The error for a disk that is full, read-only or refuses us; names the place, and the free space if that is it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno not in FULL:
        fix = "choose another folder, for a run with --runs FOLDER"
        return Missing(f"cannot write: {reason}", where=str(path), fix=fix)
    home = next((p for p in (path, *path.parents) if p.exists()), Path())
    free = shutil.disk_usage(home).free / 1e9
    return Missing(
        f"cannot write: {reason} ({free:.1f} GB free there)",
        where=str(path),
        fix="free some space or choose another folder with --runs FOLDER, then run the same command again",
    )
