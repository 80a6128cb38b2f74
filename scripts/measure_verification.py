"""How far states move in bfloat16, and how far the next layer is: what the tolerance of `verify` stands between.

    python scripts/measure_verification.py --host sentence-transformers/all-MiniLM-L6-v2
    python scripts/measure_verification.py --host FOLDER --gguf_file smollm2.gguf

For each layer: the relative difference of the reference texts' sketches between float32 and bfloat16, and between the
layer and the one above.
"""

import argparse

import torch
from transformers import AutoModel

from clvq_hf.hosts import hooks
from clvq_hf.hosts.loading import load_tokenizer, load_weights
from clvq_hf.models.verification import REFERENCE_TEXTS, TOLERANCE, difference, sketch


@torch.no_grad()
def sketches(host, tokenizer) -> dict[int, torch.Tensor]:
    """The sketches of all reference tokens at every layer, `(N, 4)`."""
    layers = range(hooks.residual_stream(host).num_blocks + 1)
    found = {layer: [] for layer in layers}
    for text in REFERENCE_TEXTS:
        with hooks.capture(host, layers) as states:
            host(**tokenizer(text, return_tensors="pt"))
        for layer in layers:
            found[layer].append(sketch(states[layer][0]))
    return {layer: torch.cat(rows) for layer, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="folder or Hub id")
    parser.add_argument("--gguf_file", help="weights in this GGUF file of the folder")
    args = parser.parse_args()
    weights = {"gguf_file": args.gguf_file} if args.gguf_file else {}
    tokenizer = load_tokenizer(args.host, **weights)
    loaded = load_weights(AutoModel, args.host, **weights)
    # Weights from a GGUF file were dequantized, but the model says otherwise, and would not change its dtype.
    vars(loaded.config).pop("quantization_config", None)
    host = type(loaded)(loaded.config).eval()
    host.load_state_dict(loaded.state_dict())
    whole = sketches(host.float(), tokenizer)
    half = sketches(host.bfloat16(), tokenizer)
    print(f"{'layer':>5} {'bfloat16':>9} {'next layer':>11}    (tolerance {TOLERANCE:.0%})")
    for layer, wanted in whole.items():
        above = f"{difference(whole[layer + 1], wanted):11.1%}" if layer + 1 in whole else ""
        print(f"{layer:5d} {difference(half[layer], wanted):9.2%} {above}")


if __name__ == "__main__":
    main()
