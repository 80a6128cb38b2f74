"""Finding codebooks on the Hub by host, dataset, owner or name."""

from dataclasses import dataclass

from huggingface_hub.errors import HTTPError

from .repositories import LIBRARY
from .requests import hub_api, readable_errors


@dataclass(frozen=True)
class CodebookInfo:
    """A codebook on the Hub.

    Attributes:
        repo_id (`str`): `"org/name"`.
        host (`str` or `None`): Hub id of the model whose concepts these are.
        datasets (`tuple[str, ...]`): Hub ids of the texts that they were learned from.
        private (`bool`): Whether only its owners can see it.
        downloads (`int`): Number in the last month.
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
        limit (`int`, *optional*): Maximum number.
        token (`str` or `bool`, *optional*): Default: the token you are logged in with; it shows your private ones.

    Returns:
        `list[CodebookInfo]`: The most recently changed first.

    Raises:
        HubError: If the Hub cannot be reached.
    """
    filters = [LIBRARY]
    if host is not None:
        filters.append(f"base_model:{_current_id(host, token)}")
    if dataset is not None:
        filters.append(f"dataset:{dataset}")
    with readable_errors("the listing"):
        models = list(
            hub_api(token).list_models(
                filter=filters,
                author=author,
                search=search,
                sort="last_modified",
                limit=limit,
                expand=["tags", "private", "downloads", "lastModified"],
            )
        )
    return [
        CodebookInfo(
            repo_id=model.id,
            host=next(iter(_tag_values(model.tags, "base_model:")), None),
            datasets=tuple(_tag_values(model.tags, "dataset:")),
            private=bool(model.private),
            downloads=model.downloads or 0,
            last_modified=None if model.last_modified is None else str(model.last_modified),
        )
        for model in models
    ]


def _current_id(host: str, token: str | bool | None) -> str:
    """The id by which the Hub lists a host: an old name, such as `gpt2`, is redirected to the current one."""
    try:
        return hub_api(token).model_info(host).id
    except (HTTPError, OSError):
        return host


def _tag_values(tags: list[str] | None, prefix: str) -> list[str]:
    """The tags that start with a prefix, without it. `base_model:adapter:org/name` only repeats another tag."""
    values = [tag.removeprefix(prefix) for tag in tags or () if tag.startswith(prefix)]
    return [value for value in values if ":" not in value]


__all__ = ["CodebookInfo", "list_codebooks"]
