"""Try the hook room on a tiny random host of every text architecture of the installed transformers.

    python scripts/survey_hosts.py --output survey.json

Each architecture runs in its own process with a time limit. A stack is *right* if captured states are bit for bit the
host's own ``output_hidden_states`` at all inner layers, with right and with left padding; if an edit that changes
nothing leaves the output as it was; and if replacing the whole state of any layer by that of another input gives that
other input's output. The last one fails, by nature, where the host carries information beside the residual stream:
those architectures are known by name, any other is counted as *wrong*.
"""

import argparse
import inspect
import json
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import tiny_hosts

from clvq_hf.hosts import hooks

# What reaches the output past the residual stream, so that a full patch cannot carry everything over.
SIDE_CHANNELS = {
    "cpmant": "its 32 prompt positions, which are not among the input's, carry information too",
    "embedding_gemma2_text": "each block also gets a projection of the token's embedding",
    "gemma4_text": "each block also gets an embedding of the token of its own",
    "inkling2_text": "blocks and the final norm also read the states of earlier blocks",
    "lilt": "a layout stream runs beside the text stream and exchanges attention with it",
    "pegasus_x": "global tokens run beside the encoder's stream",
    "zamba": "shared attention blocks also read the embeddings",
    "zamba2": "shared attention blocks also read the embeddings",
    "zaya": "routers also read the router states of the block before",
}

BATCH, LENGTH, PADDED = 2, 11, 3


def survey_type(model_type: str) -> dict[str, Any]:
    """Survey one architecture; returns its status, the stacks, and the reason if it is not right."""
    try:
        host = tiny_hosts.tiny_host(model_type)
    except Exception as error:
        return {"status": "could not build", "reason": _line(error)}
    try:
        stream = hooks.residual_stream(host)
        stacks = [stream.stack] if stream.stack is None else ["encoder", "decoder"]
        streams = [hooks.residual_stream(host, stack) for stack in stacks]
    except hooks.UnsupportedHostError as error:
        return {"status": "refused", "reason": _line(error)}
    faults: list[str] = []
    channels: list[str] = []
    for found in streams:
        new_faults, new_channels = check_stack(host, found)
        faults += new_faults
        channels += new_channels
    if channels and model_type not in SIDE_CHANNELS:
        faults += channels
    status = "wrong" if faults else "side channel" if channels else "right"
    return {
        "status": status,
        "stacks": [found.stack for found in streams],
        "causal": [found.is_causal for found in streams],
        "reason": "; ".join(faults) or (SIDE_CHANNELS[model_type] if channels else ""),
    }


def check_stack(host: transformers.PreTrainedModel, stream: hooks.ResidualStream) -> tuple[list[str], list[str]]:
    """Compare, and edit, one stack; returns what is wrong and which layers another path bypasses."""
    where = f"{stream.stack} " if stream.stack else ""
    layers = range(stream.num_blocks + 1)
    faults, channels = [], []
    for side in ("right", "left"):
        inputs, others = _inputs(host, stream, side, seed=0), _inputs(host, stream, side, seed=1)
        with torch.no_grad():
            plain, other = _output(host, inputs), _output(host, others)
            masks: list[torch.Tensor] = []
            with hooks.capture(
                host,
                list(layers),
                stream.stack,
                callback=lambda states, mask, past_length, masks=masks: masks.append(mask),
            ) as states:
                captured = _output(host, inputs)
            reported = _reported(host(**inputs, output_hidden_states=True, return_dict=True), stream.stack)
            donor = hooks.run(host, others, list(layers), stream.stack)
        mask = inputs.get("decoder_attention_mask" if stream.stack == "decoder" else "attention_mask", torch.ones(1))
        if len(masks) != 1 or not torch.equal(masks[0], mask.bool().expand(BATCH, LENGTH)):
            faults.append(f"{where}the mask is not the one given ({side} padding)")
        if not torch.equal(plain, captured):
            faults.append(f"{where}capturing changes the output ({side} padding)")
        if not _agree(states, reported, stream.num_blocks):
            faults.append(f"{where}captured states differ from output_hidden_states ({side} padding)")
        for layer in layers:
            with torch.no_grad():
                with hooks.edit(host, layer, lambda state: state.clone(), stream.stack):
                    same = _output(host, inputs)
                with hooks.edit(host, layer, lambda state, new=donor[layer]: new, stream.stack):
                    patched = _output(host, inputs)
            if not torch.equal(same, plain):
                faults.append(f"{where}an identity edit at layer {layer} changes the output ({side} padding)")
            if torch.equal(plain, other):
                faults.append(f"{where}the output does not depend on the input ({side} padding)")
            elif not torch.equal(patched, other):
                channels.append(f"{where}a full patch at layer {layer} does not carry over ({side} padding)")
    return faults, channels


def _inputs(host: transformers.PreTrainedModel, stream: hooks.ResidualStream, side: str, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (BATCH, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    padding = slice(LENGTH - PADDED, None) if side == "right" else slice(0, PADDED)
    ids[1, padding] = getattr(host.config, "pad_token_id", None) or 0
    mask[1, padding] = 0
    takes = set(inspect.signature(host.forward).parameters)
    inputs = {"input_ids": ids, "attention_mask": mask, "bbox": torch.zeros(BATCH, LENGTH, 4, dtype=torch.long)}
    if stream.stack == "encoder":
        fixed = torch.arange(4, 4 + LENGTH).expand(BATCH, -1)
        inputs["decoder_input_ids"] = fixed
    elif stream.stack == "decoder":
        inputs["decoder_input_ids"] = ids
        inputs["decoder_attention_mask"] = mask
        inputs["input_ids"] = torch.arange(4, 4 + LENGTH).expand(BATCH, -1)
        inputs["attention_mask"] = torch.ones_like(mask)
        inputs["use_cache"] = False  # with a cache FSMT drops the decoder's mask
    return {name: value for name, value in inputs.items() if name in takes}


def _output(host: transformers.PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    output = host(**inputs, return_dict=True)
    return output.logits if "logits" in output else output.last_hidden_state


def _reported(output: Any, stack: str | None) -> tuple:
    return output.get("hidden_states") or output.get(f"{stack}_hidden_states")


def _agree(states: hooks.Capture, reported: tuple, blocks: int) -> bool:
    """Whether all inner layers are bit for bit what the host reports, with or without an embedding entry."""
    for first in (0, 1):
        pairs = [(states[layer], reported[layer - first]) for layer in range(first, blocks)]
        if all(a.shape[1] == LENGTH and torch.equal(a.to(b.dtype), b[:, :LENGTH]) for a, b in pairs):
            return True
    return False


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _child(model_type: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    try:
        pipe.send(survey_type(model_type))
    except Exception as error:
        pipe.send({"status": "wrong", "reason": _line(error)})


def survey_in_process(model_type: str, limit: float) -> dict[str, Any]:
    """Run `survey_type` in a process of its own, which is ended after `limit` seconds."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(model_type, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    try:
        result = receiver.recv() if receiver.poll(limit) else {"status": "wrong", "reason": f"no result in {limit} s"}
    except EOFError:
        result = {"status": "wrong", "reason": "the process died"}
    process.kill()
    process.join()
    return {"model_type": model_type, **result, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*", help="architectures to try (default: all text architectures)")
    parser.add_argument("--output", type=Path, help="where to write the results as JSON")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each architecture")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    names = args.model_types or tiny_hosts.text_model_types()
    with ThreadPoolExecutor(args.processes) as pool:
        results = list(pool.map(lambda name: survey_in_process(name, args.limit), names))
    for result in results:
        print(f"{result['model_type']:28} {result['status']:16} {result['reason']}")
    counts = Counter(result["status"] for result in results)
    print(
        f"\n{len(results)} architectures, transformers {transformers.__version__}, torch {torch.__version__}: "
        + ", ".join(f"{count} {status}" for status, count in counts.most_common())
    )
    if args.output:
        summary = {"transformers": transformers.__version__, "torch": torch.__version__, "counts": counts}
        args.output.write_text(json.dumps({**summary, "results": results}, indent=1))


if __name__ == "__main__":
    main()
