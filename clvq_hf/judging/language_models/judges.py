"""The judges: any OpenAI-compatible endpoint, or a transformers model on this machine."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urldefrag, urlsplit

from huggingface_hub import get_token
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers

from ...hosts.loading import load_tokenizer, load_weights
from ...hub.provenance import recorded_name
from ...hub.repositories import check_repo_id
from ...hub.requests import LOGIN, TRANSIENT, reach_localhost_directly
from ...version import __version__
from .transport import Response, Sender, UnreadableResponse

Message = dict[str, str]
LOCAL = "local:"
# Domains that a Hub token is meant for. Not endpoints.huggingface.cloud, where anybody's containers run.
HUB_DOMAINS = ("huggingface.co", "hf.co")
# Of Inference Providers; it chooses the provider.
ROUTER = "https://router.huggingface.co/v1"
CHAT_PATH = "/chat/completions"
# Names of models in results, and what a server says about an error.
MAX_CHARACTERS = 200
# Status codes for a single bad request, for instance one that is too long.
REFUSED = (400, 413, 422)


class JudgeError(OSError):
    """A judge cannot be used; the message says what to do."""


class TemporaryError(Exception):
    """A request failed that may succeed if it is repeated.

    Attributes:
        retry_after (`float` or `None`): Seconds to wait, if the server says so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(Exception):
    """The server refused a request, and would refuse it again."""


@dataclass(frozen=True)
class Reply:
    """The answer of a judge.

    Attributes:
        text (`str`): The answer.
        model (`str` or `None`): The name of the model that answered, according to the server.
        input_tokens (`int` or `None`): Number of tokens of the question, according to the server.
        output_tokens (`int` or `None`): Number of tokens of the answer.
    """

    text: str
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Judge(Protocol):
    """Anything that answers a chat.

    Attributes:
        name (`str`): Its name in results.
        identity (`str`): Its name in the cache of answers.
        concurrency (`int` or `None`): Maximum number of questions at the same time; `None` if unlimited.

    A judge may also have a method `cancel()`, which makes answers under way end with a `CancelledError`. It is called
    repeatedly after Ctrl-C, until all have ended; without it they are waited for.
    """

    name: str
    identity: str
    concurrency: int | None

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Answer a chat.

        Args:
            messages (`Sequence[dict[str, str]]`): `role` and `content`.
            max_tokens (`int`): Maximum number of tokens of the answer.

        Raises:
            TemporaryError: If repeating the question may help.
            RefusedError: If this question cannot be answered.
            JudgeError: If no question can be answered.
        """


def open_judge(name: str, *, send_token: bool = False, timeout: float = 120.0) -> Judge:
    """Open a judge by its name. Nothing is sent or loaded before its first answer.

    Args:
        name (`str`): The first that matches of

            - `http://…` or `https://…`: an OpenAI-compatible endpoint; `URL#MODEL` if it serves several models; a
              trailing slash is ignored;
            - `local:…`: a folder or Hub id of a model that transformers runs on this machine;
            - a folder: the same;
            - `org/name`: a model of Inference Providers.
        send_token (`bool`): Whether `HF_TOKEN` is sent to endpoints that are not Hugging Face's.
        timeout (`float`): Seconds until an endpoint's answer must be complete.

    Returns:
        [`Judge`][clvq_hf.judging.language_models.Judge]: An
            [`EndpointJudge`][clvq_hf.judging.language_models.EndpointJudge] or a
            [`LocalJudge`][clvq_hf.judging.language_models.LocalJudge].

    Raises:
        ValueError: If the name is none of these, has no valid port, or contains a password.
        JudgeError: If there is no token for Inference Providers.
    """
    if name.startswith(("http://", "https://")):
        url, model = urldefrag(name)
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # the port is read here, and refused if it is none
            raise ValueError(f"{name} is no address of a judge. Write it like http://127.0.0.1:8000/v1.")
        if parts.username is not None or parts.query:
            raise ValueError(
                "The address of a judge must not contain a user, password or query. Put the token into HF_TOKEN."
            )
        url = url.rstrip("/")
        name = f"{url}#{model}" if model else url
        return EndpointJudge(name, url=url, model=model or None, send_token=send_token, timeout=timeout)
    if name.startswith(LOCAL) or Path(name).is_dir():
        return LocalJudge(name.removeprefix(LOCAL), name=name)
    check_repo_id(name)
    if get_token() is None:
        raise JudgeError(f"{name} is a model of Inference Providers, and you are not logged in. {LOGIN}.")
    return EndpointJudge(name, model=name, send_token=True, timeout=timeout)


class EndpointJudge:
    """A judge behind an address, or one of Inference Providers, asked at temperature 0.

    The token is the one you are logged in with (`HF_TOKEN`, `hf auth login`). It is sent only to Hugging Face's own
    addresses unless `send_token`. Inference Endpoints do not count as such: they run the containers of their owners.
    Nothing is sent to an address that a server redirects to. Answers of more than 4 MiB, and compressed ones, are not
    read.

    Args:
        name (`str`): Its name in results.
        url (`str`, *optional*): Address of the endpoint, such as `http://127.0.0.1:8000/v1`; Inference Providers if not
            given.
        model (`str`, *optional*): Name of the model there.
        send_token (`bool`): Whether the token is sent to other addresses too.
        timeout (`float`): Seconds until an answer must be complete.
    """

    concurrency: int | None = None

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        model: str | None = None,
        send_token: bool = False,
        timeout: float = 120.0,
    ) -> None:
        self.name = self.identity = name
        self._model = model
        self._url = _chat_address(url or ROUTER)
        self._sends_token = send_token or _is_of_hub(self._url)
        self._timeout = timeout
        self._sender = Sender()
        reach_localhost_directly()

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Ask the endpoint; see [`Judge`][clvq_hf.judging.language_models.Judge]."""
        # Some servers insist on a name of the model, though they have only one.
        question = {"model": self._model or "dummy", "messages": list(messages), "max_tokens": max_tokens}
        token = get_token() if self._sends_token else None
        headers = build_hf_headers(token=token or False, library_name="clvq_hf", library_version=__version__)
        try:
            response = self._sender.post(self._url, headers, {**question, "temperature": 0.0}, self._timeout)
        except OfflineModeIsEnabled:
            raise JudgeError(f"{self.name} cannot be asked while HF_HUB_OFFLINE is set: unset it.") from None
        except UnreadableResponse as error:
            raise TemporaryError(str(error)) from None
        except (HTTPError, TimeoutError, ConnectionError) as error:
            raise TemporaryError(f"no answer ({type(error).__name__})") from None
        if response.status_code != 200:
            raise self._translate(response)
        try:
            return _read_completion(response.body)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise TemporaryError(f"an answer that is no chat completion ({type(error).__name__})") from None

    def cancel(self) -> None:
        """Cut off the answers that are under way."""
        self._sender.cancel()

    def _translate(self, response: Response) -> Exception:
        status, text = response.status_code, _response_text(response)
        if status in TRANSIENT:
            return TemporaryError(f"the answer {status}{text}", _retry_after(response))
        if status in REFUSED:
            hint = "" if self._model else ". If it serves several models, name one: URL#MODEL"
            return RefusedError(f"the answer {status}{text}{hint}")
        remedy = "Check the address and the name of the model (URL#MODEL)."
        if 300 <= status < 400:
            target = _one_line(response.headers.get("location", "nowhere"))
            remedy = f"It redirects to {target}, where the texts are not sent unless you name that address yourself."
        if status in (401, 403):
            remedy = (
                f"{LOGIN}, with a token that may do inference."
                if self._sends_token
                else "HF_TOKEN was not sent, since this is not an address of Hugging Face itself (Inference Endpoints "
                "belong to their owners); --send-token sends it."
            )
        return JudgeError(f"{self.name} answers {status}{text}. {remedy}")


class LocalJudge:
    """A transformers model on this machine with greedy decoding, loaded when it is first asked.

    Args:
        model (`str`): Folder or Hub id of a causal language model in safetensors, with a chat template.
        name (`str`, *optional*): Its name in results; `model` if not given.
        device (`str`, *optional*): Its device; a GPU if there is one.

    Raises:
        ValueError: If the folder contains no model.
    """

    # Threads would compete for one model and its cores.
    concurrency: int | None = 1

    def __init__(self, model: str, *, name: str | None = None, device: str | None = None) -> None:
        if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
            raise ValueError(f"{model} contains no model: it has no config.json.")
        self.name = name or model
        # A relative path may mean another model in another working directory.
        self.identity = f"{LOCAL}{recorded_name(model)}"
        self._source = model
        self._device = device
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Generate; see [`Judge`][clvq_hf.judging.language_models.Judge]."""
        import torch

        with self._lock, torch.inference_mode():
            model, tokenizer = self._loaded
            self._cancelled.clear()
            try:
                inputs = tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
                ).to(model.device)
            except Exception as error:  # templates raise any exception for unknown roles
                raise JudgeError(f"The chat template of {self.name} rejects these messages: {error}") from error
            length = inputs["input_ids"].shape[1]
            output = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_tokens,
                # Called after every token.
                stopping_criteria=[self._is_cancelled],
                # Some models come with sampling settings, which would cause warnings.
                **{"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
            )
            if self._cancelled.is_set():
                raise CancelledError
            text = tokenizer.decode(output[0, length:], skip_special_tokens=True)
        return Reply(text, self._source, length, output.shape[1] - length)

    def cancel(self) -> None:
        """End the answer that is being generated."""
        self._cancelled.set()

    def _is_cancelled(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids.new_full((len(input_ids),), self._cancelled.is_set(), dtype=bool)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(self._source)
        if not tokenizer.chat_template:
            raise JudgeError(f"{self.name} has no chat template: use a model that was tuned to follow instructions.")
        model = load_weights(AutoModelForCausalLM, self._source, dtype="auto").eval()
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device), tokenizer


def without_token(text: str) -> str:
    """Remove the token from a server's text, in case the server repeats it."""
    token = get_token()
    return text.replace(token, "…") if token else text


def _is_of_hub(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and any(host == name or host.endswith(f".{name}") for name in HUB_DOMAINS)


def _chat_address(url: str) -> str:
    """Where an OpenAI-compatible server at this address is asked: `/v1` and the rest may be left out."""
    url = url.rstrip("/")
    if url.endswith(CHAT_PATH):
        return url
    return url + CHAT_PATH if url.endswith("/v1") else f"{url}/v1{CHAT_PATH}"


def _read_completion(body: bytes) -> Reply:
    """Read a chat completion; `ValueError`, `TypeError`, `LookupError` or `RecursionError` if it is none."""
    completion = json.loads(body)
    text, usage, model = (
        completion["choices"][0]["message"]["content"],
        completion.get("usage"),
        completion.get("model"),
    )
    if not isinstance(text, str | None):
        raise TypeError
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text=without_token(text or ""),
        model=_one_line(model) if isinstance(model, str) else None,
        input_tokens=_count(counts.get("prompt_tokens")),
        output_tokens=_count(counts.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    """A number of tokens, if it is one: not a bool, nor more digits than Python writes."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def _response_text(response: Response) -> str:
    """The beginning of the response body."""
    text = _one_line(response.body.decode("utf-8", errors="replace"))
    return f" ({text})" if text else ""


def _one_line(text: str) -> str:
    """The beginning of a server's text on one line, without the token."""
    return " ".join(without_token(text).split())[:MAX_CHARACTERS]


def _retry_after(response: Response) -> float | None:
    """Seconds to wait according to the server, which sends a number or a date."""
    value = response.headers.get("retry-after", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


__all__ = [
    "EndpointJudge",
    "Judge",
    "JudgeError",
    "LocalJudge",
    "Message",
    "RefusedError",
    "Reply",
    "TemporaryError",
    "open_judge",
    "without_token",
]
