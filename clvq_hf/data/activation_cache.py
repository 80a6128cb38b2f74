"""Hidden states of a set of texts, extracted once and cached in memory-mapped shards."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..checksums import check_file, read_metadata
from ..files import locked
from ..hosts import hooks
from ..hosts.host import UnsupportedHostError
from ..hosts.identity import check_identity, host_identity, tokenizer_fingerprint
from ..hosts.readout import Readout
from ..hosts.residual_stream import check_layer_order
from ..hosts.runner import check_head
from ..reading import check_file_names, check_object
from ..version import __version__
from .batching import batches_by_length, in_order
from .cache_draft import METADATA_NAME, CacheDraft, is_cache_folder
from .extraction import HiddenStateExtractor, check_states
from .sensitivity import upper_sensitivity
from .texts import text_numbers, texts_fingerprint
from .tokenization import TextCollator, check_texts, ensure_pad_token, occurs_between, tokenize_texts
from .transforms import take_rows

logger = logging.get_logger(__name__)

# What it was called in caches of earlier versions, which do not name it.
SENSITIVITY_NAME = "sensitivity.safetensors"
REMEDY = "Build the cache again with ActivationCache.build."
TOKEN_COLUMNS = ("hidden_states", "target_hidden_states", "token_mask", "sink_mask", "input_ids")
_WIDTHS = {"hidden_states": "hidden_size", "target_hidden_states": "target_hidden_size"}


class ActivationCache(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Hidden states of a set of texts, extracted once and memory-mapped from safetensors shards.

    Worth its disk space (`2·d` numbers per token) if several models, seeds or epochs read the same states. It replaces
    the texts: `CLVQTrainer(model=…, train_dataset=ActivationCache.load(path))` needs no host.
    Only real tokens are stored, without padding, and with their ids.

    Example:
        ```python
        cache = ActivationCache.build(
            "cache/train", host, tokenizer, dataset, lower_layer=3, upper_layer=6
        )
        ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / METADATA_NAME).is_file():
            raise ValueError(
                f"{self.path} contains no complete activation cache. Build it with ActivationCache.build."
            )
        self.metadata, self._checksums = read_metadata(self.path / METADATA_NAME, REMEDY)
        file = self.path / METADATA_NAME
        sizes = dict.fromkeys(("lower_layer", "upper_layer", "hidden_size", "target_hidden_size"), int)
        check_object(self.metadata, file, {"shards": list, **sizes}, REMEDY)
        self._sensitivity_name = self.metadata.get("sensitivity", SENSITIVITY_NAME)
        check_file_names([*self.metadata["shards"], self._sensitivity_name], file)
        # Files are memory-mapped: a page is read from disk when one of its states is needed.
        self._shards = [_mapped(self.path / name) for name in self.metadata["shards"]]
        if any(missing := {*TOKEN_COLUMNS, "prediction"} - set(shard) for shard in self._shards):
            raise ValueError(
                f"{self.path} was built by an older version, without {', '.join(sorted(missing))}. Build it again."
            )
        for name, shard in zip(self.metadata["shards"], self._shards, strict=True):
            _check_shapes(shard, self.metadata, self.path / name)
        # Shards whose checksums were compared: when they are first read, for that reads all of a shard.
        self._checked: set[int] = set()
        self._views: list[_View] = []
        self._first = np.cumsum([0, *(len(shard["lengths"]) for shard in self._shards)])
        self._offsets = [np.cumsum([0, *shard["lengths"].tolist()]) for shard in self._shards]

    @classmethod
    def load(cls, path: str | Path) -> "ActivationCache":
        """Open a cache that [`ActivationCache.build`] wrote.

        Raises:
            ValueError: If it does not exist or is incomplete.
        """
        return cls(path)

    @classmethod
    def build(
        cls,
        path: str | Path,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
        *,
        lower_layer: int,
        upper_layer: int,
        stack: str | None = None,
        text_column: str = "text",
        max_length: int | None = None,
        batch_size: int = 32,
        texts_per_shard: int = 4096,
    ) -> "ActivationCache":
        """Extract the states of all texts and write them to `path`, in the host's dtype.

        What was interrupted goes on at its last whole shard if it is built again from the same host and texts.

        Of a host that chooses classes its predictions are kept too, and of a few texts how far the states of
        `upper_layer` depend on each direction of `lower_layer`
        ([`upper_sensitivity`][clvq_hf.data.upper_sensitivity]).

        Args:
            path (`str` or `Path`): A folder, created if needed. An earlier cache in it is replaced, at the end.
            host (`PreTrainedModel`): The model whose states are extracted.
            tokenizer (`PreTrainedTokenizerBase`): The host's tokenizer.
            dataset (`datasets.Dataset` or `datasets.IterableDataset`): The texts; a stream is read to its end, so
                take from one that has none (`stream.take(100_000)`).
            lower_layer (`int`): Layer of the inputs.
            upper_layer (`int`): Layer of the targets.
            stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
            text_column (`str`): Column of the texts.
            max_length (`int`, *optional*): Limit in tokens. Default: the host's limit.
            batch_size (`int`): Number of texts per host forward.
            texts_per_shard (`int`): Number of texts per file; one shard is in memory while it is built.

        Returns:
            [`ActivationCache`]: The cache, in the order of `dataset`, without empty texts.

        Raises:
            ValueError: If a layer is out of range, a state is not finite, `path` contains other files, or another
                process builds a cache there.
        """
        pair = (lower_layer, upper_layer)
        options = {"text_column": text_column, "max_length": max_length, "batch_size": batch_size}
        return cls._build(
            {pair: Path(path)}, host, tokenizer, dataset, stack=stack, texts_per_shard=texts_per_shard, **options
        )[pair]

    @classmethod
    def build_pairs(
        cls,
        path: str | Path,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
        pairs: Sequence[tuple[int, int]],
        **options: Any,
    ) -> dict[tuple[int, int], "ActivationCache"]:
        """Build the caches of several pairs of layers in one pass over the host, such as for a sweep.

        Args:
            path (`str` or `Path`): A folder, created if needed: the cache of the layers 3 and 6 is in `3-6`.
            host (`PreTrainedModel`): The model whose states are extracted.
            tokenizer (`PreTrainedTokenizerBase`): The host's tokenizer.
            dataset (`datasets.Dataset`): The texts.
            pairs (`Sequence[tuple[int, int]]`): Lower and upper layers.
            **options: `stack`, `text_column`, `max_length`, `batch_size`, `texts_per_shard` of
                [`ActivationCache.build`]; one shard of each pair is in memory while it is built.

        Returns:
            `dict[tuple[int, int], ActivationCache]`: By pair.

        Raises:
            ValueError: As of [`ActivationCache.build`]; or if there are no pairs.
        """
        if not pairs:
            raise ValueError("Name at least one pair of layers, such as pairs=[(3, 6)].")
        paths = {(lower, upper): Path(path) / f"{lower}-{upper}" for lower, upper in pairs}
        return cls._build(paths, host, tokenizer, dataset, **options)

    @classmethod
    def _build(
        cls,
        paths: Mapping[tuple[int, int], Path],
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
        *,
        stack: str | None = None,
        text_column: str = "text",
        max_length: int | None = None,
        batch_size: int = 32,
        texts_per_shard: int = 4096,
    ) -> dict[tuple[int, int], "ActivationCache"]:
        stream = hooks.residual_stream(host, stack)
        for (lower, upper), path in paths.items():
            if path.exists() and (not path.is_dir() or not is_cache_folder(path)):
                raise ValueError(f"{path} exists and is not an activation cache; choose another folder.")
            stream.check_layer(lower)
            stream.check_layer(upper)
            check_layer_order(lower, upper)
        if isinstance(dataset, IterableDataset):
            dataset = take_rows(dataset)
        check_texts(dataset, text_column)
        ensure_pad_token(tokenizer)
        max_length = hooks.max_length(host, tokenizer, max_length)
        tokenized = tokenize_texts(dataset, tokenizer, text_column, max_length)
        readout = Readout.of_or_none(host)
        readout = readout if readout is not None and readout.kind == "classification" else None
        if readout is not None and batch_size > 1:
            try:
                check_head(hooks.unwrap(host))
            except UnsupportedHostError as error:  # its states are right all the same
                logger.warning(f"The activation cache holds no predictions. {error}")
                readout = None
        identity = {
            "host": host_identity(host, head=False),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "max_length": max_length,
            "texts": texts_fingerprint(dataset, [text_column]),
        }
        starts = range(0, len(tokenized), texts_per_shard)
        # Predictions are of the head, states are not.
        form = [texts_per_shard, str(host.dtype), None if readout is None else host_identity(host), __version__]
        drafts: dict[tuple[int, int], CacheDraft] = {}
        with ExitStack() as locks:
            for (lower, upper), path in paths.items():
                metadata = {
                    "lower_layer": lower,
                    "upper_layer": upper,
                    "stack": stream.stack,
                    "hidden_size": stream.hidden_sizes[lower],
                    "target_hidden_size": stream.hidden_sizes[upper],
                    "host_name_or_path": hooks.unwrap(host).config._name_or_path,
                    "identity": identity,
                }
                locks.enter_context(locked(path))
                drafts[lower, upper] = CacheDraft(path, metadata, form, len(starts))
                locks.callback(drafts[lower, upper].tidy)
            extractor = HiddenStateExtractor(host, *next(iter(paths)), stack, readout)
            with tqdm(total=len(tokenized), desc="Extracting hidden states", unit="text") as bar:
                for number, start in enumerate(starts):
                    part = tokenized.select(range(start, min(start + texts_per_shard, len(tokenized))))
                    if all(draft.has_shard(number) for draft in drafts.values()):
                        bar.update(len(part))
                        continue
                    texts = dataset.select(part["text_index"][:])[text_column]
                    numbers = torch.from_numpy(text_numbers(texts))
                    found = _extract_shard(
                        part, extractor, list(paths), TextCollator(tokenizer), batch_size, bar.update
                    )
                    for draft, tensors in zip(drafts.values(), found, strict=True):
                        draft.add_shard(number, {**tensors, "text_number": numbers})
            for pair, draft in drafts.items():
                draft.finish(upper_sensitivity(host, tokenizer, tokenized, *pair, stack=stack, batch_size=batch_size))
        return {pair: cls(path) for pair, path in paths.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # For the workers of a data loader, which map the files themselves.
        return _reopen, (self.path.absolute(), self._views, self._checked)

    def _read(self) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(len(self._shards)):
            yield self._shard(number)

    def _shard(self, number: int) -> dict[str, torch.Tensor]:
        if number not in self._checked:
            self._check_file(self.metadata["shards"][number])
            self._checked.add(number)
        return self._shards[number]

    def _check_file(self, name: str) -> None:
        check_file(self.path / name, self._checksums.get(name), REMEDY)

    @property
    def lengths(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: number of tokens of each text."""
        return np.concatenate([shard["lengths"].numpy() for shard in self._read()])

    @property
    def num_counted(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: number of tokens of each text that count, that is, with `token_mask` 1."""
        ends = [offsets[1:] for offsets in self._offsets]
        sums = [np.cumsum(shard["token_mask"].numpy(), dtype=np.int64) for shard in self._read()]
        return np.concatenate([np.diff(total[end - 1], prepend=0) for total, end in zip(sums, ends, strict=True)])

    @property
    def predictions(self) -> torch.Tensor | None:
        """`torch.Tensor` of shape `(N,)`, int64: class that the host chooses for each text; `None` if it has none."""
        predictions = torch.cat([shard["prediction"] for shard in self._read()])
        return None if bool((predictions < 0).all()) else predictions

    @property
    def sensitivity(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(d, d)`: see [`upper_sensitivity`][clvq_hf.data.upper_sensitivity].

        The identity if this is a view with one layer: a layer depends on all of its own directions alike.
        """
        if self.metadata["lower_layer"] == self.metadata["upper_layer"]:
            return torch.eye(self.metadata["hidden_size"])
        file = self.path / self._sensitivity_name
        self._check_file(file.name)
        found = _mapped(file).get("sensitivity")
        if found is None or found.shape != (self.metadata["hidden_size"],) * 2:
            raise ValueError(f"{file} is damaged: it has no sensitivity of this size. {REMEDY}")
        return found

    @property
    def max_length(self) -> int | None:
        """`int` or `None`: Limit in tokens at which texts were cut, if it is known."""
        return self.metadata.get("identity", {}).get("max_length")

    @property
    def text_numbers(self) -> np.ndarray | None:
        """`np.ndarray` of shape `(N,)`, int64: what texts are recognised by; `None` in caches of earlier versions."""
        if not all("text_number" in shard for shard in self._shards):
            return None
        return np.concatenate([shard["text_number"].numpy() for shard in self._read()])

    def check_layers(self, config: Any) -> None:
        """Check that these are the states of a config's layers.

        Raises:
            ValueError: If a layer, the stack or a width differs.
        """
        for name in ("lower_layer", "upper_layer", "stack", "hidden_size", "target_hidden_size"):
            if self.metadata[name] != getattr(config, name):
                raise ValueError(
                    f"{name}={getattr(config, name)} in the config, but {self.metadata[name]} in the activation cache "
                    f"{self.path}. Build or load a cache of these layers."
                )

    def check_source(
        self,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        texts: Dataset | None = None,
        text_column: str = "text",
    ) -> None:
        """Check that these are states of a host; warn if an earlier version did not note it.

        Args:
            host (`PreTrainedModel`): The host.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer, which is then compared too.
            texts (`datasets.Dataset`, *optional*): The texts, which are then compared too.
            text_column (`str`): Column of the texts.

        Raises:
            ValueError: If one of them is another one; the message names both.
        """
        given: dict[str, Any] = {"host": host_identity(host, head=False)}
        if tokenizer is not None:
            given["tokenizer"] = tokenizer_fingerprint(tokenizer)
        if texts is not None:
            given["texts"] = texts_fingerprint(texts, [text_column])
        self._check_identity(given)

    def check_same_source(self, other: "ActivationCache") -> None:
        """Check that another cache, of other texts, is of the same host, tokenizer and `max_length`.

        Raises:
            ValueError: If one of them differs; the message names both.
        """
        noted = other.metadata.get("identity", {})
        self._check_identity({name: value for name, value in noted.items() if name != "texts"})

    def _check_identity(self, given: dict[str, Any]) -> None:
        remedy = "Build it again with ActivationCache.build, or load the cache of this host."
        check_identity(self.metadata.get("identity"), given, f"The activation cache {self.path}", remedy)

    def single_layer(self) -> "ActivationCache":
        """Return a view of this cache with `lower_layer` as both layers, for methods that reconstruct their input."""
        single = self._view("single_layer")
        lower = {"upper_layer": self.metadata["lower_layer"], "target_hidden_size": self.metadata["hidden_size"]}
        single.metadata = {**self.metadata, **lower}
        single._shards = [{**shard, "target_hidden_states": shard["hidden_states"]} for shard in self._shards]
        return single

    def filter_by_occurrence(self, minimum: int | None, maximum: int | None) -> "ActivationCache":
        """Return a view of this cache in which only tokens that occur `minimum` to `maximum` times in it count.

        The paper trains on tokens that occur 5 to 20 times. The files do not change.
        """
        if minimum is None and maximum is None:
            return self
        wanted = occurs_between([shard["input_ids"].numpy() for shard in self._read()], minimum, maximum)
        filtered = self._view("filter_by_occurrence", minimum, maximum)
        filtered._shards = [
            {**shard, "token_mask": shard["token_mask"] * torch.from_numpy(wanted)[shard["input_ids"]]}
            for shard in self._shards
        ]
        return filtered

    def with_special_tokens(self) -> "ActivationCache":
        """Return a view of this cache in which special tokens count too, unless they are attention sinks."""
        view = self._view("with_special_tokens")
        view._shards = [{**shard, "token_mask": 1 - shard["sink_mask"]} for shard in self._shards]
        return view

    def _view(self, name: str, *args: Any) -> "ActivationCache":
        """Copy this object, with a record of the call that made the copy, for `__reduce__`."""
        view = copy.copy(self)
        view._views = [*self._views, (name, args)]
        return view

    def counted(self, name: str) -> torch.Tensor:
        """Return `hidden_states` `(N, d)`, `target_hidden_states` `(N, d')` or `input_ids` `(N,)` of counted tokens."""
        return torch.cat([shard[name][shard["token_mask"].bool()] for shard in self._read()])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """A text: `hidden_states` `(S, d)`, `target_hidden_states` `(S, d')`, masks and `input_ids` `(S,)`."""
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        shard, row = self._shard(number), index - self._first[number]
        tokens = slice(self._offsets[number][row], self._offsets[number][row + 1])
        of_text = {name: shard[name][row] for name in ("text_index", "prediction")}
        return {**{name: shard[name][tokens] for name in TOKEN_COLUMNS}, **of_text}


def _mapped(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}). {REMEDY}") from error


def _check_shapes(shard: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], file: Path) -> None:
    """Refuse a shard whose tensors do not belong together."""
    lengths = shard.get("lengths", torch.zeros(1, 1))
    if lengths.ndim != 1 or lengths.is_floating_point() or bool((lengths < 0).any()):
        raise ValueError(f"{file} is damaged: it does not say how long its texts are. {REMEDY}")
    width = {name: (metadata[field],) for name, field in _WIDTHS.items()}
    of_tokens = {name: (int(lengths.sum()), *width.get(name, ())) for name in TOKEN_COLUMNS}
    for name, shape in {**of_tokens, **dict.fromkeys(("text_index", "prediction"), (len(lengths),))}.items():
        if name not in shard or tuple(shard[name].shape) != shape:
            raise ValueError(f"{file} is damaged: {name} has not the shape {shape}. {REMEDY}")


# Name and arguments of the method that made a view.
_View = tuple[str, tuple[Any, ...]]


def _reopen(path: Path, views: list[_View], checked: set[int]) -> ActivationCache:
    cache = ActivationCache(path)
    cache._checked = checked
    for name, args in views:
        cache = getattr(cache, name)(*args)
    return cache


def _extract_shard(
    tokenized: Dataset,
    extractor: HiddenStateExtractor,
    pairs: Sequence[tuple[int, int]],
    collate: TextCollator,
    batch_size: int,
    progress: Callable[[int], object],
) -> list[dict[str, torch.Tensor]]:
    """Extract the states of the real tokens of `tokenized`, in its order; report the number of texts per batch."""
    by_row: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in pairs]
    none = torch.full((1,), -1).expand(len(tokenized))
    for number, (rows, batch) in enumerate(batches_by_length(tokenized, collate, batch_size)):
        of_pairs = extractor.of_pairs(batch, pairs, device=torch.device("cpu"))
        for found, states in zip(by_row, of_pairs, strict=True):
            check_states(states, f"batch {number}")
            states |= {name: states[name].to(torch.uint8) for name in ("token_mask", "sink_mask")}
            states["input_ids"] = states["input_ids"].int()
            predictions = states.get("prediction", none)
            for place, (row, mask) in enumerate(zip(rows, states["attention_mask"].bool(), strict=True)):
                found[row] = {name: states[name][place][mask] for name in TOKEN_COLUMNS}
                found[row]["prediction"] = predictions[place]
        progress(len(rows))
    fixed = {"text_index": torch.tensor(tokenized["text_index"][:])}
    return [_joined(in_order(found)) | fixed for found in by_row]


def _joined(texts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Texts one after the other, and how long each is."""
    return {
        **{name: torch.cat([text[name] for text in texts]) for name in TOKEN_COLUMNS},
        "lengths": torch.tensor([len(text["token_mask"]) for text in texts]),
        "prediction": torch.stack([text["prediction"] for text in texts]),
    }


class StateCollator:
    """Pads the texts of an [`ActivationCache`] on the right into a batch of tensors."""

    def __call__(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the same tensors as [`HiddenStateExtractor`] for a batch of texts."""
        lengths = torch.tensor([len(row["token_mask"]) for row in rows])

        def pad(name: str) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)

        return {
            "hidden_states": pad("hidden_states"),
            "target_hidden_states": pad("target_hidden_states"),
            "attention_mask": (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long(),
            **{name: pad(name).long() for name in ("token_mask", "sink_mask", "input_ids")},
            **{name: torch.stack([row[name] for row in rows]) for name in ("text_index", "prediction")},
        }


__all__ = ["ActivationCache", "StateCollator"]
