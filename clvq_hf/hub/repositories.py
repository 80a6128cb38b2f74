"""Concept models as repositories of the Hub: what is in one, how it is read, how it is written, how it is found."""

import fnmatch
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, RepoCard, snapshot_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from ..rendering.markdown import Markdown, escape_markdown
from ..version import __version__
from .provenance import is_hub_id
from .requests import HubError, hub_api, readable_errors, with_retries

logger = logging.get_logger(__name__)

LIBRARY = "clvq_hf"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
REFERENCE_NAME = "reference.json"
RESULTS_NAME = "results.json"
CONCEPTS_FOLDER = "concepts"
TABLE_NAME = "concept_table.json"
EVALUATION_FOLDER = "evaluation"
INDEX_NAME = "model.safetensors.index.json"
WEIGHTS = ("model*.safetensors", INDEX_NAME)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "*.model", "chat_template.jinja"),
)
# Written by others, and never read here: whoever opens one runs what is in it.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.joblib")
# What is said of a concept model's codes, and is false as soon as these change.
OF_THE_CODES = (REFERENCE_NAME, f"{CONCEPTS_FOLDER}/*", f"{EVALUATION_FOLDER}/*")


@dataclass
class Source:
    """A folder, or one commit of a repository on the Hub, that something is loaded from.

    Attributes:
        name (`str`): Folder or Hub id.
        subfolder (`str`): Where in it.
        revision (`str` or `None`): Branch, tag or commit; after the first download the commit, so that everything comes
            from the same.
        cache_dir (`str` or `None`): In place of the usual cache.
        local_files_only (`bool`): Whether only the cache is looked at.
        force_download (`bool`): Whether the first download takes place even if the cache has the files.
        repo_type (`str`): `"model"` or `"dataset"`.
        token (`str`, `bool` or `None`): Kept in memory alone.
    """

    name: str
    subfolder: str = ""
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    repo_type: str = "model"
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # Once: in another working directory the same name may be a repository.
        self.is_local = Path(self.name).is_dir()
        self.name = str(self.name)
        self._root = Path(self.name).resolve() if self.is_local else None
        if ".." in PurePosixPath(self.subfolder).parts or PurePosixPath(self.subfolder).is_absolute():
            raise ValueError(f"subfolder={self.subfolder!r} leads out of {self.name}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "token": None}

    def fetch(self, *patterns: str) -> Path:
        """Bring files here.

        Args:
            *patterns (`str`): Names in the subfolder, with `*`; what does not exist is left out.

        Returns:
            `Path`: The local folder that corresponds to the subfolder. It may hold other files too.

        Raises:
            HubError: If there is no such repository or revision, or the Hub cannot be reached and the cache lacks them.
        """
        if self.is_local:
            return self._root / self.subfolder
        check_repo_id(self.name)
        prefix = f"{self.subfolder.strip('/')}/" if self.subfolder else ""
        with readable_errors(self.name):
            folder = with_retries(
                lambda: snapshot_download(
                    self.name,
                    repo_type=self.repo_type,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    local_files_only=self.local_files_only,
                    force_download=self.force_download,
                    allow_patterns=[prefix + pattern for pattern in patterns],
                    library_name=LIBRARY,
                    library_version=__version__,
                ),
                f"downloading {self.name}",
            )
        self.revision, self.force_download = Path(folder).name, False
        return Path(folder) / self.subfolder


def check_repo_id(name: str) -> None:
    """Refuse what cannot be a repository.

    Raises:
        ValueError: Saying what a repository is called.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name} is no folder here, and no repository: those are called org/name.") from error


# ------------------------------------------------------------------------------------------------------------- writing


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
    """Upload files to a repository in one commit, which also deletes what they replace.

    Requests are made again if the Hub is busy. Whatever fails, the repository is as before or as after, and the same
    call completes it: large files that have arrived are not sent again.

    Args:
        files (`Mapping[str, Path | bytes]`): Content by its place in the repository.
        repo_id (`str`): `"org/name"`; made if needed.
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        stale (`tuple[str, ...]`): Patterns of files that are deleted if they are there and not among `files`.
        private (`bool`, *optional*): Whether a new repository is private; an existing one must be so, then.
        token (`str` or `bool`, *optional*): The one you are logged in with if not given.
        revision (`str`, *optional*): A branch, made if needed, or a pull request (`"refs/pr/1"`).
        create_pr (`bool`): Whether to open a pull request instead.
        commit_message (`str`): First line of the commit's message.
        commit_description (`str`, *optional*): The others.
        space_sdk (`str`, *optional*): Of a new Space.

    Returns:
        `huggingface_hub.CommitInfo`: Of the commit.

    Raises:
        HubError: If the Hub could not be reached, or refused.
        ValueError: If it was to be private, and is public.
    """
    if create_pr and revision is not None:
        raise ValueError("A pull request is opened against the main branch; leave revision out, or create_pr.")
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
            # From the start each time: the commit before may have arrived though its answer did not.
            info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
            if private and not info.private:
                raise ValueError(f"{repo_id} exists and is public: make it private in its settings, or name another.")
            head = info.sha
            with readable_errors(repo_id, writing=True):  # which is not tried again: the client has done so
                there = api.list_repo_files(repo_id, repo_type=repo_type, revision=head) if stale else []
            gone = [name for name in there if name not in files and matches_any(name, stale)]
            with warnings.catch_warnings():
                # That tables belong into dataset repositories; these are of the model.
                warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
                return api.create_commit(
                    repo_id,
                    [
                        *(CommitOperationDelete(name) for name in gone),
                        *(CommitOperationAdd(name, content) for name, content in files.items()),
                    ],
                    repo_type=repo_type,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=head,
                    commit_message=commit_message,
                    commit_description=commit_description,
                )

        # A second pull request would do harm.
        return with_retries(commit, f"committing to {repo_id}", repeatable=not create_pr)


@dataclass(frozen=True)
class Remote:
    """A repository as it is before something is written to it.

    Attributes:
        names (`tuple[str, ...]`): Its files; none if it does not exist.
        source ([`Source`][clvq_hf.hub.repositories.Source] or `None`): Where they come from.
    """

    names: tuple[str, ...] = ()
    source: Source | None = None

    def fetch(self, *patterns: str) -> dict[str, Path]:
        """Those of its files that match, by their names."""
        wanted = [name for name in self.names if matches_any(name, patterns)]
        if not wanted:
            return {}
        folder = self.source.fetch(*wanted)
        return {name: folder / name for name in wanted}


def look_at(repo_id: str, repo_type: str, revision: str | None, token: str | bool | None, cache_dir: Path) -> Remote:
    """See what is in a repository that is about to be written to.

    Raises:
        HubError: If the Hub could not be reached, or refused.
    """
    api = hub_api(token)
    with readable_errors(repo_id, writing=True):
        if not with_retries(lambda: api.repo_exists(repo_id, repo_type=repo_type), f"asking for {repo_id}"):
            return Remote()
        if revision is not None and not with_retries(
            lambda: api.revision_exists(repo_id, revision, repo_type=repo_type), f"asking for {repo_id}"
        ):
            revision = None  # a new branch begins at the main one
        names = api.list_repo_files(repo_id, revision=revision, repo_type=repo_type)
    source = Source(repo_id, revision=revision, token=token, cache_dir=cache_dir, repo_type=repo_type)
    return Remote(tuple(names), source)


def full_repo_id(repo_id: str, token: str | bool | None) -> str:
    """The id of a repository with its owner: the user, if none is named.

    Raises:
        HubError: If nobody is logged in.
        ValueError: If it is no id.
    """
    check_repo_id(repo_id)
    if "/" in repo_id:
        return repo_id
    with readable_errors(repo_id, writing=True):
        return f"{with_retries(lambda: hub_api(token).whoami()['name'], 'asking who you are')}/{repo_id}"


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """What of a folder belongs into a repository: the model, its reference texts and card, the tokenizer; no pickles.

    Args:
        folder (`Path`): Written by `save_pretrained`, a trainer, or `clvq-hf pull`.

    Returns:
        `dict[str, Path]`: Files by their place in the repository.
    """
    wanted = (CONFIG_NAME, CARD_NAME, REFERENCE_NAME, *WEIGHTS, *TOKENIZER_FILES, "LICENSE*")
    return {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and matches_any(file.name, wanted)}


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name matches a pattern whose `*` stays in one folder."""
    return any(name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# ------------------------------------------------------------------------------------------------------------- finding


@dataclass(frozen=True)
class CodebookInfo:
    """A codebook on the Hub, as a listing tells it.

    Attributes:
        repo_id (`str`): `"org/name"`.
        host (`str` or `None`): Hub id of the model whose concepts these are.
        datasets (`tuple[str, ...]`): Hub ids of the texts that they were learned from.
        private (`bool`): Whether only its owners see it.
        downloads (`int`): In the last month.
        last_modified (`str` or `None`): Date of the last commit.
    """

    repo_id: str
    host: str | None
    datasets: tuple[str, ...]
    private: bool
    downloads: int
    last_modified: str | None


def list_codebooks(
    host: str | None = None,
    dataset: str | None = None,
    *,
    author: str | None = None,
    search: str | None = None,
    limit: int | None = None,
    token: str | bool | None = None,
) -> list[CodebookInfo]:
    """Find codebooks on the Hub.

    Args:
        host (`str`, *optional*): Only those of this model (its Hub id).
        dataset (`str`, *optional*): Only those learned from this dataset (its Hub id).
        author (`str`, *optional*): Only those of this user or organization.
        search (`str`, *optional*): Only those whose name contains this.
        limit (`int`, *optional*): At most so many.
        token (`str` or `bool`, *optional*): The one you are logged in with if not given; it shows your private ones.

    Returns:
        `list[CodebookInfo]`: The most recently changed first.

    Raises:
        HubError: If the Hub could not be reached.
    """
    filters = [LIBRARY]
    if host is not None:
        filters.append(f"base_model:{_canonical(host, token)}")
    if dataset is not None:
        filters.append(f"dataset:{dataset}")
    fields = ["tags", "private", "downloads", "lastModified"]
    with readable_errors("the listing"):
        found = list(
            hub_api(token).list_models(
                filter=filters, author=author, search=search, sort="last_modified", limit=limit, expand=fields
            )
        )
    return [
        CodebookInfo(
            repo_id=info.id,
            host=next(_tagged(info.tags, "base_model:"), None),
            datasets=tuple(_tagged(info.tags, "dataset:")),
            private=bool(info.private),
            downloads=info.downloads or 0,
            last_modified=None if info.last_modified is None else str(info.last_modified),
        )
        for info in found
    ]


def _canonical(host: str, token: str | bool | None) -> str:
    """The id by which the Hub lists a host: old names, such as `gpt2`, lead to newer ones."""
    try:
        return hub_api(token).model_info(host).id
    except (HTTPError, OSError):
        return host


def _tagged(tags: list[str] | None, prefix: str) -> Iterator[str]:
    """What tags say after a prefix. (`base_model:adapter:org/name` repeats one with its relation.)"""
    return (tag[len(prefix) :] for tag in tags or () if tag.startswith(prefix) and ":" not in tag[len(prefix) :])


def file_sizes(source: Source) -> dict[str, int]:
    """Bytes of each file of a folder or repository, without downloading any."""
    if source.is_local:
        return {name: file.stat().st_size for name, file in checkpoint_files(source.fetch()).items()}
    with readable_errors(source.name):
        tree = hub_api(source.token).list_repo_tree(
            source.name, source.subfolder or None, recursive=True, revision=source.revision
        )
        entries = list(tree)
    prefix = f"{source.subfolder.strip('/')}/" if source.subfolder else ""
    return {entry.path.removeprefix(prefix): entry.size for entry in entries if hasattr(entry, "size")}


# Whoever edits the card takes this line out, and keeps the edits.
MARKER = "<!-- Written by clvq_hf. Remove this line to keep your own edits when the model is pushed again. -->"


TAGS = ("clvq", "concepts", "interpretability")


def repository_link(name: str | None, kind: str | None = "model") -> Markdown:
    """A name as a link to its repository, if it is one (`kind` says of what), else as it is."""
    if not name:
        return Markdown("a host that is not named")
    shown, place = escape_markdown(name), "datasets/" if kind == "dataset" else ""
    return Markdown(f"[{shown}](https://huggingface.co/{place}{name})") if kind and is_hub_id(name) else shown


def card_files(own: Path | None, there: Path | None, generate: Callable[[], Any]) -> dict[str, Path | bytes]:
    """The card to upload: the user's own if there is one, here or in the repository, else one that is written now."""
    if own is not None and MARKER not in own.read_text(encoding="utf-8"):
        return {CARD_NAME: own}
    # What a new repository begins with is metadata alone.
    if there is not None and MARKER not in (text := there.read_text(encoding="utf-8")) and RepoCard(text).text.strip():
        logger.warning("The card in the repository was written by hand, and is kept as it is.")
        return {}
    return {CARD_NAME: str(generate()).encode()}


__all__ = ["MARKER", "TAGS", "CodebookInfo", "HubError", "Source", "commit_files", "list_codebooks"]
