"""Upload of an export to the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from modiste.errors import ModisteError
from modiste.export.open_clip import CONFIG, relocate
from modiste.export.writing import read_facts
from modiste.utils.links import refuse_links

OFFLINE = "The model hub cannot be reached: upload from a machine with network, or without HF_HUB_OFFLINE."


def push(
    folder: Path, repo_id: str, private: bool = True, message: str | None = None, revision: str | None = None
) -> str:
    """Upload an export in one commit; return the URL of its repository.

    Args:
        folder: A folder written by `modiste export`.
        repo_id: ``owner/name``; the repository is created if needed.
        private: Whether a new repository is private.
        message: Commit message; None: format and version.
        revision: Branch, which is created if needed; None: the default branch.

    Raises:
        ModisteError: The folder is not an export or contains a link, ``repo_id`` is invalid, there is no login, the hub
            cannot be reached or refuses the upload, or a file cannot be read or copied.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    folder = folder.expanduser()
    facts = read_facts(folder)
    refuse_links(folder, "would be published")
    message = message or f"{facts['format']} by modiste {facts['modiste']}"
    api = HfApi()
    unreachable: tuple[type[Exception], ...] = (*network_errors(), LocalTokenNotFoundError)
    try:
        if "/" not in repo_id:
            raise HFValidationError(f"'{repo_id}' has no owner")
        repository = api.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            sent = for_hub(folder, repo_id, Path(work))
            api.upload_folder(repo_id=repo_id, folder_path=sent, commit_message=message, revision=revision)
    except HFValidationError as error:
        raise ModisteError(f"repo_id={repo_id} is not the name of a repository: write owner/name ({error}).") from error
    except unreachable as error:
        raise explained(error, repo_id) from error
    except OSError as error:  # local errors: a full disk, an unreadable file
        raise ModisteError(f"{folder} cannot be uploaded: {error}. Free space, or repair the file.") from error
    return str(repository)


def network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the hub's client when it cannot reach the hub, or is refused."""
    from huggingface_hub.errors import HfHubHTTPError

    # Depending on its version, the client uses requests, httpx or httpx2: take the base class of that library.
    own = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind.__module__ != "builtins"]
    return (own[-1], ConnectionError, TimeoutError)


def for_hub(folder: Path, repo_id: str, work: Path) -> Path:
    """Return the folder, or a copy that names the repository in place of a local path (open_clip)."""
    if not ((folder / CONFIG).is_file() and (folder / "config.json").is_file()):
        return folder
    copy = work / "export"
    shutil.copytree(folder, copy)
    relocate(copy, copy, repo_id)
    return copy


def explained(error: Exception, repo_id: str) -> ModisteError:
    """Turn an error of the hub's client into a ModisteError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return ModisteError("Not logged in to the model hub: run `hf auth login`, or set HF_TOKEN.")
    if status == 403:
        return ModisteError(f"The hub does not let this token write to {repo_id}: use one with write access to it.")
    if isinstance(error, HfHubHTTPError) and status:
        return ModisteError(f"The hub refused the upload to {repo_id} ({status}): {str(error).splitlines()[0][:200]}")
    return ModisteError(OFFLINE)
