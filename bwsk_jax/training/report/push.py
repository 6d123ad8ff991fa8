"""Upload what a folder of variants has to offer to a repository of the Hub."""

from pathlib import Path
from typing import Any

from bwsk_jax.errors import UserError
from bwsk_jax.training.data.hub import connection, is_hub_name
from bwsk_jax.training.report.card import CARD_FILE, is_own_card
from bwsk_jax.training.report.export import exported_files
from bwsk_jax.training.report.results import GATHERED_FILE, RESULTS_FILE, gather_runs

PLOT_FILE = "loss.png"
MADE_BY_THE_HUB = {".gitattributes"}


class PushRefusedError(UserError):
    """The Hub does not let this user write to the repository, or it holds somebody else's work."""


class PushError(OSError):
    """An upload that failed. What arrived before is not sent again."""


def published_files(root: Path) -> dict[str, Path]:
    """Return name in the repository -> file: models, results, plots and the card, and nothing else.

    Neither checkpoints nor options belong there, nor what this program did not write. The best variant is
    there twice, in its folder and at the top; the Hub stores it once.
    """
    names = [CARD_FILE, GATHERED_FILE, *exported_files(root)]
    for variant in gather_runs(root):
        inside = [*exported_files(root / variant), RESULTS_FILE, PLOT_FILE]
        names += [f"{variant}/{name}" for name in inside if (root / variant / name).is_file()]
    return {name: root / name for name in names}


def check_push(name: str) -> None:
    """Raise `PushRefusedError` if nothing can be uploaded to the repository called `name`.

    It may be a new one, an empty one, or one that this program has filled before.
    """
    if not is_hub_name(name):
        raise PushRefusedError(f"--push-to-hub {name} is not spelt like a repository: give OWNER/NAME")
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    with connection() as fault:
        if fault is not None:
            raise PushRefusedError(f"--push-to-hub {name}: {fault}")
        repository = _asked(name, lambda: name if "/" in name else f"{api.whoami()['name']}/{name}")
        _asked(name, api.whoami)
        try:
            files = set(api.list_repo_files(repository))
        except RepositoryNotFoundError:
            return
        except Exception as error:
            raise PushRefusedError(f"--push-to-hub {name}: {_sentence(error)}") from error
        own = CARD_FILE in files and is_own_card(
            Path(_asked(name, lambda: hf_hub_download(repository, CARD_FILE)))
        )
    if files - MADE_BY_THE_HUB and not own:
        raise PushRefusedError(
            f"--push-to-hub {name} holds files, but no model card of this program: give another name"
        )


def repository_of(name: str) -> str:
    """Create the repository called `name`, private, if there is none; return its full name.

    Raises `PushError`.
    """
    from huggingface_hub import HfApi

    with connection():
        try:
            return HfApi().create_repo(name, private=True, exist_ok=True).repo_id
        except Exception as error:  # whatever the Hub's client or its HTTP library raises
            raise PushError(f"--push-to-hub {name}: {_sentence(error)}") from error


def push(root: Path, repository: str) -> str:
    """Upload `published_files` in one commit, and return its address. Raises `PushError`.

    Files that arrived in an earlier attempt are not sent again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = published_files(root)
    added = [CommitOperationAdd(name, str(file.resolve())) for name, file in files.items()]
    with connection():
        try:
            commit = HfApi().create_commit(repository, added, commit_message="Upload models and results")
        except Exception as error:
            raise PushError(f"--push-to-hub {repository}: {_sentence(error)}") from error
    return str(commit.commit_url)


def _asked(name: str, ask: Any) -> Any:
    try:
        return ask()
    except Exception as error:
        raise PushRefusedError(
            f"--push-to-hub {name}: {_sentence(error)}: log in with `hf auth login`, or set HF_TOKEN"
        ) from error


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
