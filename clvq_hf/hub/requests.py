"""Requests to the Hub: which are repeated, and errors that name the remedy."""

import errno
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar
from urllib.request import getproxies_environment

from huggingface_hub import HfApi, close_session
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

# Seconds before each repetition. The client itself repeats uploads and listings, but neither commits, nor the creation
# of repositories, nor what it requests before a download.
BACK_OFF = (1.0, 3.0, 9.0)
# Too many requests, a commit that another one preceded, and the answers of a server that is down or busy.
TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)
LOCALHOST = ("localhost", "127.0.0.1", "::1")
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN"

Result = TypeVar("Result")


class HubError(OSError):
    """A request to the Hub that failed. The message names the reason and the remedy, and never holds a token.

    There are five kinds: not found or private, not allowed, busy or unreachable (`temporary`), offline and not in the
    cache, no space left on the disk. Other errors are passed on with their reason.

    Attributes:
        temporary (`bool`): Whether the same request may succeed later: the Hub was busy or could not be reached.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


def hub_api(token: str | bool | None = None) -> HfApi:
    """The client of the Hub, which names this library in its requests."""
    return HfApi(token=token, library_name="clvq_hf", library_version=__version__)


def reach_localhost_directly() -> None:
    """Keep requests to this machine from a proxy that the environment names, for this process and those it starts.

    A proxy would look for the address on its own machine.
    """
    proxies = getproxies_environment()
    direct = [host.strip() for host in proxies.pop("no", "").split(",") if host.strip()]
    missing = [host for host in LOCALHOST if host not in direct]
    if not proxies or not missing or "*" in direct:
        return
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*direct, *missing])
    close_session()  # the client reads the environment when it is made


def with_retries(request: Callable[[], Result], what: str, repeatable: bool = True) -> Result:
    """Make a request, and repeat it up to three times if the Hub is busy or the connection breaks.

    `what` is for the log (`"creating org/name"`). A request that is not `repeatable`, because doing it twice would do
    harm, is not repeated after a broken connection, which may hide a success.
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
def readable_errors(repo_id: str, writing: bool = False, files: str = "") -> Generator[None]:
    """Raise a [`HubError`][clvq_hf.hub.HubError] that names the remedy instead of the client's errors.

    `files` names what is read of the repository, if it is not all. Neither message nor cause holds a token: clients
    send it in headers.
    """
    try:
        yield
    except HubError:
        raise
    except (HTTPError, OSError, RuntimeError) as error:  # hf_xet knows no errors of its own
        raise _readable(error, repo_id, writing, files) from error


def _readable(error: Exception, repo_id: str, writing: bool, files: str) -> HubError:
    cause, status, reason = _cause(error), _status(error), _in_short(error)
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        file = getattr(cause, "filename", None)
        where = f" for {file}" if file else ""
        return HubError(f"No space is left on the disk{where}. Free some, or choose another folder with cache_dir=….")
    if writing and isinstance(cause, OfflineModeIsEnabled):
        return HubError(f"{repo_id} cannot be written to offline. Unset HF_HUB_OFFLINE.")
    if isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled):
        missing = f"{files} of {repo_id}" if files else repo_id
        return HubError(
            f"{missing} is not in the cache, and the Hub may not be asked. Load it once without local_files_only and "
            "HF_HUB_OFFLINE."
        )
    if status in TRANSIENT or _is_broken(cause) or isinstance(cause, RuntimeError):
        return HubError(f"The Hub is busy or cannot be reached ({reason}). Try again later.", temporary=True)
    is_token_wrong = status == 401 and (writing or "Invalid credentials" in str(cause))
    if is_token_wrong or status == 403 or isinstance(cause, GatedRepoError | LocalTokenNotFoundError):
        action = "write to" if writing else "read"
        return HubError(
            f"You may not {action} {repo_id} ({reason}). {LOGIN}, with a token that has the right to. If the "
            "repository is gated, ask for access on its page."
        )
    if isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError | EntryNotFoundError):
        return HubError(
            f"{repo_id} was not found on the Hub, or is private ({reason}). Check its name and revision. If it is "
            f"private: {LOGIN[0].lower()}{LOGIN[1:]}."
        )
    return HubError(f"The request for {repo_id} failed: {reason}.")


def _is_broken(error: BaseException) -> bool:
    """Whether a connection broke; hf_xet raises errors of the system, not of the client."""
    if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
        return False
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _cause(error: BaseException) -> BaseException:
    """The error beneath the one that the client made of it."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    cause = _cause(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def _is_transient(error: BaseException) -> bool:
    if (status := _status(error)) is not None:
        return status in TRANSIENT
    # If there is a cause, the client itself has already tried for half a minute to connect.
    return _is_broken(error) and _cause(error) is error


def _in_short(error: BaseException) -> str:
    """Status and message of the server, or else the first line of the error; no parameters of addresses."""
    cause = _cause(error)
    text, status = str(cause), ""
    if isinstance(cause, HfHubHTTPError):
        text, status = cause.server_message or cause.response.reason_phrase, f"{cause.response.status_code}: "
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(cause).__name__)
    return status + re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", line).rstrip(".")


__all__ = ["HubError", "hub_api", "readable_errors", "with_retries"]
