"""Texts → hidden states of two layers: streamed from a frozen host, or cached in memory-mapped shards."""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..hosts import hooks
from ..hosts.residual_stream import check_layer_order
from ..hosts.runner import HostRunner
from .tokenization import TextCollator, check_texts, ensure_pad_token, occurs_between, tokenize_texts

METADATA_NAME = "activations.json"
# Of the median norm of a text's states: so long are attention sinks (100 to 1,000 times) and nothing else (up to 3).
MASSIVE_NORM = 10


class HiddenStateExtractor:
    """Runs a frozen host over tokenized batches and returns the states of two layers.

    The host runs in evaluation mode, without gradients, and stops right after `upper_layer`; it is left as it was. With
    `stack="decoder"` the decoder reads the same tokens as the encoder, unshifted.

    Args:
        host (`PreTrainedModel`): The model to read; may be sharded with a `device_map`.
        lower_layer (`int`): Layer of `hidden_states`.
        upper_layer (`int`): Layer of `target_hidden_states`.
        stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.

    Raises:
        UnsupportedHostError: If the host knows no attention mask and reads both ways (FNet): its states would depend on
            the padding, that is on the other texts of the batch.
    """

    def __init__(self, host: Any, lower_layer: int, upper_layer: int, stack: str | None = None) -> None:
        self.lower_layer = lower_layer
        self.upper_layer = upper_layer
        self._runner = HostRunner(host, stack)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, torch.Tensor], device: torch.device | None = None) -> dict:
        """Extract the states of a batch of [`TextCollator`][clvq_hf.data.tokenization.TextCollator].

        Args:
            batch (`Mapping[str, torch.Tensor]`): The host's inputs, `token_mask` and `text_index`.
            device (`torch.device`, *optional*): Where the result goes; left where it is if not given.

        Returns:
            `dict`: `hidden_states` `(B, S, d)`, `target_hidden_states` `(B, S, d')`, `attention_mask` and `token_mask`
            `(B, S)`, `text_index` `(B,)`. Attention sinks of either layer do not count: `token_mask` is 0 on them.
        """
        runner = self._runner
        with hooks.evaluation_mode(runner.host):
            states = hooks.run(
                runner.host, runner.inputs(batch), layers=[self.lower_layer, self.upper_layer], stack=runner.stack
            )
        result = {
            "hidden_states": states[self.lower_layer],
            "target_hidden_states": states[self.upper_layer],
            **{name: batch[name] for name in ("attention_mask", "token_mask", "text_index")},
        }
        real = batch["attention_mask"].bool()
        for layer in {self.lower_layer, self.upper_layer}:
            sinks = attention_sinks(states[layer], real.to(states[layer].device))
            result["token_mask"] = result["token_mask"] * ~sinks.to(result["token_mask"].device)
        return result if device is None else {name: tensor.to(device) for name, tensor in result.items()}


def attention_sinks(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Tokens whose state is far longer than is usual in their text.

    Decoders park attention on a token without content, mostly the first one, whose state grows a hundredfold (massive
    activations, arXiv 2402.17762). Whatever is multiplied with the state finds it, and nothing else.

    Args:
        states (`torch.Tensor` of shape `(B, S, d)`): Of one layer.
        mask (`torch.Tensor` of shape `(B, S)`, bool): Real tokens.

    Returns:
        `torch.Tensor` of shape `(B, S)`, bool.
    """
    norms = torch.where(mask, states.float().norm(dim=-1), torch.nan)
    return mask & (norms > MASSIVE_NORM * norms.nanmedian(dim=-1, keepdim=True).values)


def check_finite(states: Mapping[str, torch.Tensor], where: str) -> None:
    """Check the states of real tokens; padding may hold anything.

    Args:
        states (`Mapping[str, torch.Tensor]`): As [`HiddenStateExtractor`] returns them.
        where (`str`): The batch, for the message.

    Raises:
        ValueError: If a state is NaN or Inf, naming the batch and the indices of its texts.
    """
    mask = states["attention_mask"].bool()
    for name in ("hidden_states", "target_hidden_states"):
        bad = ~torch.isfinite(states[name]).all(-1) & mask
        if bad.any():
            rows = states["text_index"][bad.any(-1)].tolist()
            raise ValueError(
                f"NaN or Inf in {name} of {where}, in the texts with the indices {rows}. Look at these texts, or run "
                "the host in a wider dtype (bfloat16 or float32 in place of float16)."
            )


class ActivationCache(torch.utils.data.Dataset):
    """Hidden states of a set of texts, extracted once and memory-mapped from safetensors shards.

    Worth its disk space (`2·d` numbers a token) when several models, seeds or epochs read the same states. It takes
    the place of the texts: `CLVQTrainer(model=…, train_dataset=ActivationCache.load(path))` needs no host.
    Only real tokens are stored, no padding, with their ids.

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
            raise ValueError(f"{self.path} holds no complete activation cache. Build it with ActivationCache.build.")
        self.metadata = json.loads((self.path / METADATA_NAME).read_text(encoding="utf-8"))
        # Loading maps the files; a page is read from disk when one of its states is asked for.
        self._shards = [load_file(self.path / name) for name in self.metadata["shards"]]
        if any("input_ids" not in shard for shard in self._shards):
            raise ValueError(f"{self.path} was built by an older version, without token ids. Build it again.")
        self._views: list[tuple[str, tuple]] = []
        self._first = np.cumsum([0, *(len(shard["lengths"]) for shard in self._shards)])
        self._offsets = [np.cumsum([0, *shard["lengths"].tolist()]) for shard in self._shards]

    @classmethod
    def load(cls, path: str | Path) -> "ActivationCache":
        """Open a cache that [`ActivationCache.build`] has written.

        Raises:
            ValueError: If there is none, or its building was interrupted.
        """
        return cls(path)

    @classmethod
    def build(
        cls,
        path: str | Path,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
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

        Args:
            path (`str` or `Path`): A folder, made if needed. An earlier cache there is replaced.
            host (`PreTrainedModel`): Where the states come from.
            tokenizer (`PreTrainedTokenizerBase`): The host's.
            dataset (`datasets.Dataset`): The texts.
            lower_layer (`int`): Layer of the inputs.
            upper_layer (`int`): Layer of the targets.
            stack (`str`, *optional*): `"encoder"` or `"decoder"` of an encoder-decoder host.
            text_column (`str`): Column of the texts.
            max_length (`int`, *optional*): In tokens; the host's limit if not given.
            batch_size (`int`): Texts a host forward.
            texts_per_shard (`int`): Texts a file; one shard is held in memory while it is built.

        Returns:
            [`ActivationCache`]: The cache, in the order of `dataset`, without its empty texts.

        Raises:
            ValueError: If a layer is out of range, a state is not finite, or `path` is a folder of something else.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _cache_files(path))):
            raise ValueError(f"{path} exists and is no activation cache; choose another folder.")
        stream = hooks.residual_stream(host, stack)
        for layer in (lower_layer, upper_layer):
            stream.check_layer(layer)
        check_layer_order(lower_layer, upper_layer)
        check_texts(dataset, text_column)
        ensure_pad_token(tokenizer)
        max_length = hooks.max_length(host, tokenizer, max_length)
        tokenized = tokenize_texts(dataset, tokenizer, text_column, max_length)
        extractor = HiddenStateExtractor(host, lower_layer, upper_layer, stack)
        # Beside the old one, which stays until the new one is whole.
        path.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=path))
        shards = []
        try:
            with tqdm(total=len(tokenized), desc="Extracting hidden states", unit="text") as bar:
                for start in range(0, len(tokenized), texts_per_shard):
                    part = tokenized.select(range(start, min(start + texts_per_shard, len(tokenized))))
                    shards.append(f"shard-{len(shards):05d}.safetensors")
                    tensors = _extract_shard(part, extractor, TextCollator(tokenizer), batch_size, bar)
                    save_file(tensors, building / shards[-1])
        except BaseException:
            shutil.rmtree(building)
            raise
        metadata = {
            "shards": shards,
            "lower_layer": lower_layer,
            "upper_layer": upper_layer,
            "stack": stream.stack,
            "hidden_size": stream.hidden_sizes[lower_layer],
            "target_hidden_size": stream.hidden_sizes[upper_layer],
            "host_name_or_path": hooks.unwrap(host).config._name_or_path,
        }
        for file in _cache_files(path):
            file.unlink()
        for name in shards:
            (building / name).rename(path / name)
        building.rmdir()
        # Last: without it the folder counts as incomplete.
        (path / METADATA_NAME).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        return cls(path)

    def __reduce__(self) -> tuple:
        # For the workers of a data loader: they map the files themselves.
        return _reopen, (self.path.absolute(), self._views)

    @property
    def lengths(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: tokens of each text."""
        return np.concatenate([shard["lengths"].numpy() for shard in self._shards])

    @property
    def num_counted(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: tokens of each text that are not special."""
        ends = [offsets[1:] for offsets in self._offsets]
        sums = [np.cumsum(shard["token_mask"].numpy(), dtype=np.int64) for shard in self._shards]
        return np.concatenate([np.diff(total[end - 1], prepend=0) for total, end in zip(sums, ends, strict=True)])

    def check_layers(self, config: Any) -> None:
        """Check that these are the states of a config's layers.

        Raises:
            ValueError: Naming what differs.
        """
        for name in ("lower_layer", "upper_layer", "stack", "hidden_size", "target_hidden_size"):
            if self.metadata[name] != getattr(config, name):
                raise ValueError(
                    f"{name}={getattr(config, name)} in the config, but {self.metadata[name]} in the activation cache "
                    f"{self.path}. Build the cache for these layers, or load the one that was."
                )

    def single_layer(self) -> "ActivationCache":
        """This cache with `lower_layer` as both layers, for methods that reconstruct what they read."""
        single = self._view("single_layer")
        lower = {"upper_layer": self.metadata["lower_layer"], "target_hidden_size": self.metadata["hidden_size"]}
        single.metadata = {**self.metadata, **lower}
        single._shards = [{**shard, "target_hidden_states": shard["hidden_states"]} for shard in self._shards]
        return single

    def filter_by_occurrence(self, minimum: int | None, maximum: int | None) -> "ActivationCache":
        """This cache, with only those tokens counted that occur at least and at most so often in it.

        The paper trains on tokens that occur 5 to 20 times. The files stay as they are.
        """
        if minimum is None and maximum is None:
            return self
        wanted = occurs_between([shard["input_ids"].numpy() for shard in self._shards], minimum, maximum)
        filtered = self._view("filter_by_occurrence", minimum, maximum)
        filtered._shards = [
            {**shard, "token_mask": shard["token_mask"] * torch.from_numpy(wanted)[shard["input_ids"]]}
            for shard in self._shards
        ]
        return filtered

    def _view(self, name: str, *args: Any) -> "ActivationCache":
        """A copy on the same files, which says by what it differs from them."""
        view = copy.copy(self)
        view._views = [*self._views, (name, args)]
        return view

    def counted(self, name: str) -> torch.Tensor:
        """`hidden_states` `(N, d)`, `target_hidden_states` `(N, d')` or `input_ids` `(N,)` of the tokens that count."""
        return torch.cat([shard[name][shard["token_mask"].bool()] for shard in self._shards])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One text: `hidden_states` `(S, d)`, `target_hidden_states` `(S, d')`, `token_mask`, `input_ids` `(S,)`."""
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        shard, row = self._shards[number], index - self._first[number]
        tokens = slice(self._offsets[number][row], self._offsets[number][row + 1])
        names = ("hidden_states", "target_hidden_states", "token_mask", "input_ids")
        return {**{name: shard[name][tokens] for name in names}, "text_index": shard["text_index"][row]}


def _reopen(path: Path, views: list[tuple[str, tuple]]) -> ActivationCache:
    cache = ActivationCache(path)
    for name, args in views:
        cache = getattr(cache, name)(*args)
    return cache


def _cache_files(path: Path) -> list[Path]:
    """What a cache is made of; anything else in its folder is not ours."""
    return [*path.glob("shard-*.safetensors"), *path.glob(METADATA_NAME)]


def _extract_shard(
    tokenized: Dataset, extractor: HiddenStateExtractor, collate: TextCollator, batch_size: int, bar: tqdm
) -> dict[str, torch.Tensor]:
    """States of the real tokens of `tokenized`, in its order."""
    # Texts of like length share a batch; their states are put back in order.
    order = np.argsort(tokenized["length"], kind="stable").tolist()
    texts: list[dict[str, torch.Tensor]] = [{}] * len(order)
    loader = DataLoader(tokenized.select(order), batch_size=batch_size, collate_fn=collate)
    for number, batch in enumerate(loader):
        states = extractor(batch, device=torch.device("cpu"))
        check_finite(states, f"batch {number}")
        states["input_ids"] = batch["input_ids"].to(torch.int32)
        for row, mask in enumerate(states["attention_mask"].bool()):
            names = ("hidden_states", "target_hidden_states", "token_mask", "input_ids")
            texts[order[number * batch_size + row]] = {name: states[name][row][mask] for name in names}
        bar.update(len(batch["text_index"]))
    return {
        "hidden_states": torch.cat([text["hidden_states"] for text in texts]),
        "target_hidden_states": torch.cat([text["target_hidden_states"] for text in texts]),
        "token_mask": torch.cat([text["token_mask"] for text in texts]).to(torch.uint8),
        "input_ids": torch.cat([text["input_ids"] for text in texts]),
        "lengths": torch.tensor([len(text["token_mask"]) for text in texts]),
        "text_index": torch.tensor(tokenized["text_index"][:]),
    }


class StateCollator:
    """Pads the texts of an [`ActivationCache`] on the right into a batch of tensors."""

    def __call__(self, rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Returns what [`HiddenStateExtractor`] returns for a batch of texts."""

        def pad(name: str) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)

        lengths = torch.tensor([len(row["token_mask"]) for row in rows])
        return {
            "hidden_states": pad("hidden_states"),
            "target_hidden_states": pad("target_hidden_states"),
            "attention_mask": (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long(),
            "token_mask": pad("token_mask").long(),
            "text_index": torch.stack([row["text_index"] for row in rows]),
        }


__all__ = ["ActivationCache", "HiddenStateExtractor", "StateCollator", "attention_sinks", "check_finite"]
