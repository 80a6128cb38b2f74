"""How much memory a concept table of millions of tokens takes to build and to read, with generated states.

    python scripts/benchmark_table.py --tokenizer sentence-transformers/all-MiniLM-L6-v2 --tokens 5000000

Everything but the host runs: tokenization, batching, encoding, writing, indices, queries. Prints the tokens, the peak
memory beyond what the process had before, and the seconds of building and of the first queries.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars

from clvq_hf import CLVQConfig, CLVQModel, ConceptTable
from clvq_hf.hosts.loading import load_tokenizer
from clvq_hf.tables.builder import SourceTexts, TableWriter, write_rows
from clvq_hf.tables.schema import FORMAT_VERSION

WIDTH, CODES, TOKENS_PER_TEXT = 384, 400, 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="Folder or Hub id of a fast tokenizer.")
    parser.add_argument("--tokens", type=int, default=5_000_000, help="Tokens of the table, about.")
    arguments = parser.parse_args()
    disable_progress_bars()
    tokenizer = load_tokenizer(arguments.tokenizer)
    generator = torch.Generator().manual_seed(0)
    words = [token for token in tokenizer.get_vocab() if token.isalpha()]

    def generate() -> Iterator[dict]:
        # Two positions of each text are special tokens.
        for number in range(-(-arguments.tokens // (TOKENS_PER_TEXT + 2))):
            drawn = torch.randint(len(words), (TOKENS_PER_TEXT,), generator=generator).tolist()
            yield {"text": " ".join(words[word] for word in drawn), "label": number % 2}

    model = CLVQModel(CLVQConfig(hidden_size=WIDTH, codebook_size=CODES, num_decoder_layers=1)).eval()
    model.quantizer.set_codebook(torch.randn(CODES, WIDTH, generator=generator))

    def run(
        batch: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        mask = batch["attention_mask"]
        states = torch.randn(*mask.shape, WIDTH, generator=generator)
        codes = model.encode(states, mask)
        answers = torch.zeros(len(mask), 2), torch.zeros(len(mask), dtype=torch.int64)
        return codes, model.distances(states, mask, codes), answers

    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.from_generator(generate, cache_dir=folder)
        before = _peak()
        started = time.monotonic()
        writer = TableWriter(Path(folder))
        texts = SourceTexts(dataset, dataset_name="generated")
        sizes = write_rows(writer, run, texts, tokenizer, max_length=512, batch_size=32)
        parts = writer.finish()
        built = time.monotonic()
        metadata = {
            "format_version": FORMAT_VERSION,
            "codebook_size": CODES,
            "label_names": ["even", "odd"],
            "host_name_or_path": "generated",
            "lower_layer": 0,
        }
        table = ConceptTable(parts["tokens"], parts["texts"], metadata)
        table.concept(7)
        table.text(0, words=True)
        queried = time.monotonic()
        print(
            f"{sizes['num_tokens']} tokens: {_peak() - before:.2f} GiB beyond the process before, "
            f"built in {built - started:.0f} s, first queries {queried - built:.1f} s"
        )


def _peak() -> float:
    """Highest memory of the process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
