"""Talking to the Hub: what is tried again, and what an error means in words that help."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from ..version import __version__

logger = logging.get_logger(__name__)

# Seconds before each new try. The client tries uploads and listings again by itself, but not commits, new repositories
# or what it asks before a download.
BACK_OFF = (1.0, 3.0, 9.0)
# Too many requests, a commit that another one came before, and what a server says that is down or busy.
TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN"

Result = TypeVar("Result")


class HubError(OSError):
    """A request to the Hub that failed; the message says why, and what to do.

    Attributes:
        temporary (`bool`): Whether the same request may succeed later, as it is: the Hub was down or out of reach.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


def hub_api(token: str | bool | None = None) -> HfApi:
    """The client of the Hub; it says which library asks."""
    return HfApi(token=token, library_name="clvq_hf", library_version=__version__)


def with_retries(request: Callable[[], Result], what: str, repeatable: bool = True) -> Result:
    """Make a request, again after a while if the Hub was busy or the connection broke.

    Args:
        request (`Callable`): Makes it. It must do no harm if it is made again after it has succeeded.
        what (`str`): For the log: `"creating org/name"`.
        repeatable (`bool`): Whether it may also be made again if the connection broke, so that nobody knows whether it
            has succeeded.

    Returns:
        What `request` returns.
    """
    for seconds in BACK_OFF:
        try:
            return request()
        except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
            if not _is_transient(error) or not (repeatable or _status(error) is not None):
                raise
            logger.warning(f"{what[0].upper()}{what[1:]}: {_in_short(error)}. Trying again in {seconds:g} s.")
            time.sleep(seconds)
    return request()


@contextmanager
def readable_errors(repo_id: str, writing: bool = False) -> Iterator[None]:
    """Turn what the client raises into a [`HubError`] that names the remedy.

    Args:
        repo_id (`str`): The repository that is asked for.
        writing (`bool`): Whether it is written to.

    Raises:
        HubError: In place of the client's errors. Neither message nor cause holds a token: clients keep it in headers.
    """
    try:
        yield
    except HubError:
        raise
    except (HTTPError, OSError, RuntimeError) as error:  # hf_xet knows no errors of its own
        raise _readable(error, repo_id, writing) from error


def _readable(error: Exception, repo_id: str, writing: bool) -> HubError:
    cause = _cause(error)
    status = _status(error)
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        where = "" if getattr(cause, "filename", None) is None else f" for {cause.filename}"
        return HubError(f"No space is left on the disk{where}. Free some, or choose another folder with cache_dir=….")
    if isinstance(cause, LocalTokenNotFoundError):
        return HubError(f"You are not logged in. {LOGIN}.")
    if isinstance(cause, GatedRepoError):
        return HubError(f"{repo_id} is gated: ask for access on its page on the Hub. {LOGIN}.")
    if isinstance(cause, RevisionNotFoundError):
        return HubError(f"{repo_id} has no such branch, tag or commit.")
    if status == 401 and "Invalid credentials" in str(cause):
        return HubError(f"The Hub does not accept this token: it is mistyped, or has expired. {LOGIN}.")
    if status == 401:
        which = "may not be written to without a token" if writing else "does not exist, or is private"
        return HubError(f"{repo_id} {which}, and you are not logged in. {LOGIN}.")
    if status == 403:
        return HubError(
            f"Your token may not {'write to' if writing else 'read'} {repo_id}: it is read-only, or lacks the rights "
            "for this organization. Make one with write access in the settings of the Hub, or open a pull request."
        )
    if isinstance(cause, RepositoryNotFoundError):
        return HubError(f"{repo_id} does not exist, or your token may not see it.")
    if isinstance(cause, EntryNotFoundError) and status is not None:
        return HubError(f"{repo_id} lacks a file: {_in_short(cause)}.")
    if status in (409, 412):
        return HubError(f"{repo_id} was changed by someone else meanwhile. Do it again.", temporary=True)
    if status in TRANSIENT:
        return HubError(f"The Hub is busy or down (it answered {status}). Try again later.", temporary=True)
    if status is not None:
        return HubError(f"The Hub answered {status} to a request for {repo_id}: {_in_short(cause)}.")
    if isinstance(error, LocalEntryNotFoundError):
        return HubError(
            f"{repo_id} is not in the cache, and the Hub is out of reach (or was not to be asked). Check the network, "
            "or load it once without local_files_only and HF_HUB_OFFLINE.",
            temporary=True,
        )
    if isinstance(cause, HTTPError):
        return HubError(f"The connection to the Hub broke ({type(cause).__name__}). Try again later.", temporary=True)
    if _is_broken(cause) or isinstance(cause, RuntimeError):
        return HubError(f"The transfer broke: {_in_short(cause)}. Try again later.", temporary=True)
    return HubError(str(error))


def _is_broken(error: BaseException) -> bool:
    """Whether a connection broke beneath the client, as hf_xet tells it."""
    return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, OfflineModeIsEnabled)


def _cause(error: BaseException) -> BaseException:
    """What the client met, beneath what it made of it."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    cause = _cause(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def _is_transient(error: BaseException) -> bool:
    cause, status = _cause(error), _status(error)
    if status is not None:
        return status in TRANSIENT
    # An address that refuses connections was already tried again by the client, for half a minute.
    return (isinstance(cause, HTTPError) or _is_broken(cause)) and cause is error


def _in_short(error: BaseException) -> str:
    """The first line that says something, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("Client Error.")] or lines or [type(error).__name__]
    return telling[0].partition(" (Request ID")[0].rstrip(".")


__all__ = ["HubError", "hub_api", "readable_errors", "with_retries"]
