"""Who judges: any OpenAI-compatible endpoint, or a transformers model that runs on this machine."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urldefrag, urlsplit

from huggingface_hub import InferenceClient, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ...hub.provenance import recorded_name
from ...hub.repositories import check_repo_id
from ...hub.requests import LOGIN, TRANSIENT

Message = dict[str, str]
LOCAL = "local:"
# Hosts that a token of the Hub is meant for. Not endpoints.huggingface.cloud: there, containers of anybody's run.
HUB_DOMAINS = ("huggingface.co", "hf.co")
# What is wrong with this one request: it is too long, or has something that the server does not take.
REFUSED = (400, 413, 422)


class JudgeError(OSError):
    """A judge that cannot be used as it is; the message says what to do."""


class TemporaryError(Exception):
    """A request that may succeed if it is made again.

    Attributes:
        retry_after (`float` or `None`): Seconds that the server asks to wait.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(Exception):
    """A request that the server does not take, and would not take again."""


@dataclass(frozen=True)
class Reply:
    """What a judge answered.

    Attributes:
        text (`str`): The answer.
        model (`str` or `None`): The model that answered, as the server names it.
        input_tokens (`int` or `None`): Of the question, as the server counts.
        output_tokens (`int` or `None`): Of the answer.
    """

    text: str
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Judge(Protocol):
    """Whoever answers a chat.

    Attributes:
        name (`str`): As it stands in results.
        identity (`str`): What its answers are kept under.
        concurrency (`int` or `None`): How many questions it takes at the same time; `None` if it does not matter.
    """

    name: str
    identity: str
    concurrency: int | None

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Answer a chat.

        Args:
            messages (`Sequence[dict[str, str]]`): `role` and `content`.
            max_tokens (`int`): Of the answer.

        Raises:
            TemporaryError: If it may work if it is asked again.
            RefusedError: If this question will not work.
            JudgeError: If no question will.
        """


def open_judge(name: str, *, send_token: bool = False, timeout: float = 120.0) -> Judge:
    """A judge by its name. Nothing is sent or loaded before its first answer.

    Args:
        name (`str`): The first that fits of

            - `http://…` or `https://…`: an OpenAI-compatible endpoint; `URL#MODEL` where it serves several models; a
              slash at the end of the address says nothing;
            - `local:…`: a folder or Hub id of a model that runs here, by transformers;
            - a folder: the same;
            - `org/name`: a model of Inference Providers.
        send_token (`bool`): Whether `HF_TOKEN` is sent to endpoints that are not Hugging Face's.
        timeout (`float`): Seconds to wait for an answer of an endpoint.

    Returns:
        [`Judge`][clvq_hf.judging.language_models.Judge]: An [`EndpointJudge`][clvq_hf.judging.language_models.EndpointJudge] or a
            [`LocalJudge`][clvq_hf.judging.language_models.LocalJudge].

    Raises:
        ValueError: If the name is none of these, or has a password in it.
        JudgeError: If Inference Providers would need a token, and there is none.
    """
    if name.startswith(("http://", "https://")):
        url, model = urldefrag(name)
        if urlsplit(url).username is not None or urlsplit(url).query:
            raise ValueError(
                "The address of a judge must hold no user, password or query. A token goes into HF_TOKEN."
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
    """A judge behind an address, or one of Inference Providers.

    The token is the one you are logged in with (`HF_TOKEN`, `hf auth login`). It goes to Hugging Face's own addresses
    alone unless `send_token`. Inference Endpoints are not among them: they run the containers of their owners.

    Args:
        name (`str`): As it stands in results.
        url (`str`, *optional*): Address of the endpoint, such as `http://127.0.0.1:8000/v1`; Inference Providers if not
            given.
        model (`str`, *optional*): Which model of it.
        send_token (`bool`): Whether the token is sent to other addresses too.
        timeout (`float`): Seconds to wait for an answer.
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
        self._has_url = url is not None
        # A header that is none is left out; by default the client sends the token to any address.
        headers = None if send_token or url is None or _is_of_hub(url) else {"authorization": None}
        self._sends_token = headers is None
        self._client = InferenceClient(base_url=url, headers=headers, timeout=timeout)

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Ask the endpoint; see [`Judge`][clvq_hf.judging.language_models.Judge]. Temperature 0."""
        try:
            found = self._client.chat_completion(
                list(messages), model=self._model, max_tokens=max_tokens, temperature=0.0
            )
            usage = found.usage
            return Reply(
                text=without_token(found.choices[0].message.content or ""),
                model=without_token(str(found.model)),
                input_tokens=usage and usage.prompt_tokens,
                output_tokens=usage and usage.completion_tokens,
            )
        except OfflineModeIsEnabled:
            raise JudgeError(f"{self.name} cannot be asked while HF_HUB_OFFLINE is set: unset it.") from None
        except HfHubHTTPError as error:
            raise self._told(error) from None
        except (HTTPError, TimeoutError, ConnectionError) as error:
            raise TemporaryError(f"no answer ({type(error).__name__})") from None
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            if not self._has_url and type(error) is ValueError:  # no provider has this model
                raise JudgeError(f"{self.name}: {without_token(str(error))}") from None
            raise TemporaryError(f"an answer that is no chat completion ({type(error).__name__})") from None

    def _told(self, error: HfHubHTTPError) -> Exception:
        response = error.response
        status, said = response.status_code, _said(response)
        if status in TRANSIENT:
            return TemporaryError(f"the answer {status}{said}", _retry_after(response))
        if status in REFUSED:
            hint = "" if self._model else ". If it serves several models, name one: URL#MODEL"
            return RefusedError(f"the answer {status}{said}{hint}")
        remedy = "Is the address right, and the name of the model (URL#MODEL)?"
        if status in (401, 403):
            remedy = (
                f"{LOGIN}, with a token that may do inference."
                if self._sends_token
                else "HF_TOKEN was not sent, since this is none of Hugging Face's own addresses (an Inference Endpoint "
                "is its owner's); --send-token sends it."
            )
        return JudgeError(f"{self.name} answers {status}{said}. {remedy}")


class LocalJudge:
    """A transformers model that runs here, loaded when it is first asked; the likeliest token each time.

    Args:
        model (`str`): Folder or Hub id of a causal language model in safetensors, with a chat template.
        name (`str`, *optional*): As it stands in results; `model` if not given.
        device (`str`, *optional*): Where it runs; a GPU if there is one.

    Raises:
        ValueError: If the folder holds no model.
    """

    # Threads would share one model and its cores.
    concurrency: int | None = 1

    def __init__(self, model: str, *, name: str | None = None, device: str | None = None) -> None:
        if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
            raise ValueError(f"{model} holds no model: it has no config.json.")
        self.name = name or model
        # From another folder the same name may lead elsewhere.
        self.identity = f"{LOCAL}{recorded_name(model)}"
        self._source = model
        self._device = device
        self._lock = threading.Lock()

    def answer(self, messages: Sequence[Message], max_tokens: int) -> Reply:
        """Generate; see [`Judge`][clvq_hf.judging.language_models.Judge]."""
        import torch

        with self._lock, torch.inference_mode():
            model, tokenizer = self._loaded
            try:
                inputs = tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
                ).to(model.device)
            except Exception as error:  # templates raise what they like, for roles that they do not know
                raise JudgeError(f"The chat template of {self.name} does not take these messages: {error}") from error
            length = inputs["input_ids"].shape[1]
            output = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_tokens,
                # Settings for sampling, which some models bring along, would be warned of.
                **{"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
            )
            text = tokenizer.decode(output[0, length:], skip_special_tokens=True)
        return Reply(text, self._source, length, output.shape[1] - length)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._source)
        if not tokenizer.chat_template:
            raise JudgeError(f"{self.name} has no chat template: take a model that was tuned to follow instructions.")
        model = AutoModelForCausalLM.from_pretrained(self._source, dtype="auto", use_safetensors=True).eval()
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device), tokenizer


def without_token(text: str) -> str:
    """A text of a server, without the token that it may have been sent."""
    token = get_token()
    return text.replace(token, "…") if token else text


def _is_of_hub(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and any(host == name or host.endswith(f".{name}") for name in HUB_DOMAINS)


def _said(response: Any) -> str:
    """The beginning of what a server wrote beside its status, on one line."""
    try:
        text = " ".join(without_token(response.text).split())
    except Exception:  # the body is gone, or is no text
        return ""
    return f" ({text[:200]})" if text else ""


def _retry_after(response: Any) -> float | None:
    """Seconds that a server asks to wait: it writes a number, or a date."""
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
