"""Writing to a repository of the Hub: all files of a push in one commit, and never over a card that the user wrote."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, RepoCard
from transformers.utils import logging

from ..rendering.markdown import Markdown, escape_markdown
from .provenance import is_hub_id
from .repositories import CARD_NAME, Source, check_repo_id, matches_any
from .requests import hub_api, readable_errors, with_retries

logger = logging.get_logger(__name__)

# Generated cards contain this line. Users remove it when they edit the card, and their edits are kept.
MARKER = "<!-- Written by clvq_hf. Remove this line to keep your own edits when the model is pushed again. -->"
TAGS = ("clvq", "concepts", "interpretability")


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    repo_type: str = "model",
    stale: tuple[str, ...] = (),
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str,
    commit_description: str | None = None,
    space_sdk: str | None = None,
) -> CommitInfo:
    """Upload files to a repository and delete those that they replace, in one commit.

    Requests are repeated if the Hub is busy. After a failure the repository is either unchanged or complete, and the
    same call completes the upload without sending large files again that have arrived.

    Args:
        files (`Mapping[str, Path | bytes]`): Content by path in the repository.
        repo_id (`str`): `"org/name"`; created if needed.
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        stale (`tuple[str, ...]`): Patterns of files to delete unless they are among `files`.
        private (`bool`, *optional*): Whether a new repository is private. If `True`, an existing one must be private.
        token (`str` or `bool`, *optional*): Access token. Default: the one of `hf auth login`.
        revision (`str`, *optional*): A branch, created if needed, or a pull request (`"refs/pr/1"`).
        create_pr (`bool`): Whether to open a pull request instead of committing.
        commit_message (`str`): Title of the commit.
        commit_description (`str`, *optional*): Its description.
        space_sdk (`str`, *optional*): `"gradio"` or another kind of Space, if one is created.

    Raises:
        HubError: If the Hub cannot be reached, or refuses.
        ValueError: If `private=True` and the repository is public, or both `create_pr` and `revision` are given.
    """
    if create_pr and revision is not None:
        raise ValueError("A pull request is opened against the main branch: omit revision, or create_pr.")
    api = hub_api(token)
    with readable_errors(repo_id, writing=True):
        repo_id = with_retries(
            lambda: api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=space_sdk),
            f"creating {repo_id}",
        ).repo_id
        if revision is not None and not revision.startswith("refs/"):
            with_retries(
                lambda: api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True),
                f"creating the branch {revision} of {repo_id}",
            )

        def commit() -> CommitInfo:
            # All over again in each attempt: an earlier commit may have succeeded although its answer was lost.
            info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
            if private and not info.private:
                raise ValueError(f"{repo_id} exists and is public: make it private in its settings, or name another.")
            with readable_errors(repo_id, writing=True):  # a HubError is not repeated: the client has done so
                names = api.list_repo_files(repo_id, repo_type=repo_type, revision=info.sha) if stale else []
            deletions = [name for name in names if name not in files and matches_any(name, stale)]
            with warnings.catch_warnings():
                # The client would have tables in dataset repositories, but these belong to the model.
                warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
                return api.create_commit(
                    repo_id,
                    [
                        *(CommitOperationDelete(name) for name in deletions),
                        *(CommitOperationAdd(name, content) for name, content in files.items()),
                    ],
                    repo_type=repo_type,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=info.sha,
                    commit_message=commit_message,
                    commit_description=commit_description,
                )

        # A second pull request would do harm.
        return with_retries(commit, f"committing to {repo_id}", repeatable=not create_pr)


@dataclass(frozen=True)
class Remote:
    """A repository before something is written to it.

    Attributes:
        names (`tuple[str, ...]`): Names of its files; empty if it does not exist.
        source ([`Source`][clvq_hf.hub.Source] or `None`): Where they are downloaded from.
    """

    names: tuple[str, ...] = ()
    source: Source | None = None

    def fetch(self, *patterns: str) -> dict[str, Path]:
        """Download the files that match; returns local files by name."""
        names = [name for name in self.names if matches_any(name, patterns)]
        if not names or self.source is None:
            return {}
        folder = self.source.fetch(*names)
        return {name: folder / name for name in names}


def inspect_remote(
    repo_id: str, repo_type: str, revision: str | None, token: str | bool | None, cache_dir: Path
) -> Remote:
    """List the files of a repository that is about to be written to."""
    api = hub_api(token)
    with readable_errors(repo_id, writing=True):
        if not with_retries(lambda: api.repo_exists(repo_id, repo_type=repo_type), f"looking up {repo_id}"):
            return Remote()
        if revision is not None and not with_retries(
            lambda: api.revision_exists(repo_id, revision, repo_type=repo_type), f"looking up {repo_id}"
        ):
            revision = None  # a new branch starts from the main one
        names = api.list_repo_files(repo_id, revision=revision, repo_type=repo_type)
    source = Source(repo_id, revision=revision, token=token, cache_dir=cache_dir, repo_type=repo_type)
    return Remote(tuple(names), source)


def full_repo_id(repo_id: str, token: str | bool | None) -> str:
    """The id of a repository with its owner, which is the user if none is named."""
    check_repo_id(repo_id)
    if "/" in repo_id:
        return repo_id
    with readable_errors(repo_id, writing=True):
        return f"{with_retries(lambda: hub_api(token).whoami()['name'], 'looking up the user')}/{repo_id}"


def repository_link(name: str | None, kind: str | None = "model") -> Markdown:
    """A Markdown link to the repository of a `"model"` or `"dataset"`; only the name if it is no Hub id."""
    if not name:
        return Markdown("an unnamed host")
    label, prefix = escape_markdown(name), "datasets/" if kind == "dataset" else ""
    return Markdown(f"[{label}](https://huggingface.co/{prefix}{name})") if kind and is_hub_id(name) else label


def card_files(local: Path | None, remote: Path | None, generate: Callable[[], object]) -> dict[str, Path | bytes]:
    """The card to upload, by its name; empty if the one in the repository stays.

    A card that the user wrote, in the folder (`local`) or else in the repository (`remote`), takes precedence over a
    generated one.
    """
    if local is not None and MARKER not in local.read_text(encoding="utf-8"):
        return {CARD_NAME: local}
    if (
        remote is not None
        and MARKER not in (text := remote.read_text(encoding="utf-8"))
        and RepoCard(text).text.strip()
    ):
        # A new repository may have a card with nothing but metadata.
        logger.warning("The card in the repository was written by hand and is kept.")
        return {}
    return {CARD_NAME: str(generate()).encode()}


__all__ = [
    "MARKER",
    "TAGS",
    "Remote",
    "card_files",
    "commit_files",
    "full_repo_id",
    "inspect_remote",
    "repository_link",
]
