"""A release on the hub: what is uploaded, privately unless said otherwise, in one commit that comes last.

Files go up one by one and are known by their hash, so a second attempt sends only what is missing, and nothing at all
when everything is there. The repository shows the release only once all of it is there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import Missing, RecipeError

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""What a server says when it will know better in a moment."""
ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and the path it has in the repository."""

    path: Path
    name: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of it: the page of the repository, the commit, and whether anything had changed."""

    page: str
    commit: str
    changed: bool


def uploads(release: Path, *, gguf: bool = False) -> list[Upload]:
    """The files of a release: its model with the card, or its GGUF files with the card.

    Args:
        release: the folder of the release.
        gguf: the GGUF files instead of the model.

    Raises:
        RecipeError: there are no GGUF files.
    """
    model = release / "model"
    if not gguf:
        return [Upload(path, path.relative_to(model).as_posix()) for path in sorted(model.rglob("*")) if path.is_file()]
    found = sorted(path for path in release.rglob("*") if path.suffix == ".gguf" or path.name == "Modelfile")
    if not any(path.suffix == ".gguf" for path in found):
        raise RecipeError("the release has no GGUF files", where="--gguf", fix="release.gguf=[q8_0]")
    card = [Upload(model / "README.md", "README.md")] if (model / "README.md").exists() else []
    return [*card, *(Upload(path, path.name) for path in found)]


def push(
    files: Sequence[Upload],
    repository: str,
    *,
    public: bool = False,
    message: str,
    quiet: bool = True,
    wait: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Upload a release.

    Args:
        files: what is uploaded.
        repository: `owner/name`; made when it is not there.
        public: everybody may see it; else nobody but its owner.
        message: of the commit.
        quiet: no progress is shown.
        wait: how to wait for some seconds before another attempt.

    Raises:
        RecipeError: the repository is public and the release is not meant to be, or its name is none.
        Missing: there is no token, it may not write there, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (disable_progress_bars if quiet else enable_progress_bars)()
    token = get_token()
    if not token:
        raise Missing("no token for the hub", where="--push", fix="hf auth login, or export HF_TOKEN=...")
    api = HfApi(token=token, library_name="luthier")

    def commit() -> Any:
        adds = [CommitOperationAdd(file.name, file.path) for file in files]
        return api.create_commit(repository, adds, commit_message=message)

    try:
        _attempt(lambda: api.create_repo(repository, private=not public, exist_ok=True), repository, token, wait)
        info: Any = _attempt(lambda: api.model_info(repository), repository, token, wait)
        if not info.private and not public:
            raise RecipeError(
                f"'{repository}' is public already", where="--push", fix="--public says that this is meant"
            )
        done = _attempt(commit, repository, token, wait)
    except HFValidationError as error:
        raise RecipeError(f"'{repository}' is no name of a repository", where="--push", fix="OWNER/NAME") from error
    return Pushed(f"{api.endpoint}/{repository}", str(done.oid), str(done.oid) != str(info.sha))


def _attempt(step: Callable[[], Any], repository: str, token: str, wait: Callable[[float], None]) -> Any:
    """One step, tried again where the hub says that it may work in a moment."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in TRANSIENT and attempt < ATTEMPTS:
                wait(_pause(error, attempt))
                continue
            raise _refused(status, str(error).replace(token, "***"), repository) from None
        except HFValidationError:
            raise
        except OfflineModeIsEnabled:
            raise Missing("the hub is switched off", where=repository, fix="unset HF_HUB_OFFLINE") from None
        except Exception as error:  # whatever the libraries below make of a network that fails
            if attempt < ATTEMPTS:
                wait(2.0**attempt)
                continue
            reason = (str(error) or type(error).__name__).replace(token, "***").splitlines()[0]
            raise Missing(f"the upload failed: {reason}", where=repository, fix=AGAIN) from None
    raise AssertionError  # the last attempt returns or raises


AGAIN = "run the same command again: what is there is not sent twice, and nothing shows before all of it is there"


def _pause(error: Any, attempt: int) -> float:
    """Seconds to wait: what the hub asks for, or a little longer each time."""
    asked = str(error.response.headers.get("Retry-After", ""))
    return min(60.0, float(asked)) if asked.replace(".", "", 1).isdigit() else 2.0**attempt


def _refused(status: int, reason: str, repository: str) -> Missing | RecipeError:
    line = next((line for line in reason.splitlines() if line.strip()), "no reason was given")
    if status == 401:
        return Missing(
            "the hub does not know the token", where=repository, fix="hf auth login, with a token that writes"
        )
    if status in (403, 404):
        return Missing(f"the token may not write there: {line}", where=repository, fix="check the name and the token")
    if status == 400:
        return RecipeError(f"the hub refuses it: {line}", where=repository, fix="check the model card's first lines")
    return Missing(f"the hub answers {status}: {line}", where=repository, fix=AGAIN)
