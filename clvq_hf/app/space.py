"""The app as a Space of the Hugging Face Hub: a folder with the few files that one needs."""

import json
from importlib import metadata
from pathlib import Path

from huggingface_hub import SpaceCardData

from ..extras import require
from ..files import write_whole
from ..hub.provenance import is_hub_id
from ..hub.repositories import Source
from ..models.checkpoints import describe
from ..version import __version__

FILES = ("README.md", "app.py", "requirements.txt")
# Marks a folder that was written by this command.
MARK = "Written by `clvq-hf app --export-space`"
# The Space needs at least the versions installed here.
REQUIREMENTS = ("gradio", "torch", "transformers")
# Names that a Space's folder may contain.
ALLOWED = (*FILES, ".git", ".gitattributes", ".cache")


def export_space(output_dir: str | Path, model_id: str, host_id: str | None = None) -> bool:
    """Write the files of a Space that runs the app: `app.py`, `requirements.txt` and `README.md`.

    Args:
        output_dir (`str` or `Path`): The folder; files that were written here before are replaced.
        model_id (`str`): Hub id of the concept model.
        host_id (`str`, *optional*): Hub id of its host; the one that the model names if not given.

    Returns:
        `bool`: Whether a concept table was pushed with the model. Without one the app shows no words and sentences.

    Raises:
        HubError: If there is no such model on the Hub, or the Hub is out of reach.
        ModuleNotFoundError: If Gradio is missing.
        ValueError: If a Space could not load the model or its host, or the folder holds something else.
    """
    require("The app", "app")
    output_dir = Path(output_dir)
    _check_folder(output_dir)
    if Path(model_id).exists():
        raise ValueError(
            f"{model_id} is a folder of this machine, which a Space cannot load. Push it first with `clvq-hf push "
            f"{model_id} org/name`, and then export org/name."
        )
    description = describe(Source(model_id))
    host = host_id or description["config"].get("host_name_or_path")
    if not is_hub_id(host):
        raise ValueError(
            f"The host of {model_id} is {host or 'not named'}, which a Space cannot load. Push the host to the "
            "Hub, and name it with --host org/name."
        )
    requirements = [f"clvq-hf[app]>={__version__}", *(f"{name}>={_version(name)}" for name in REQUIREMENTS)]
    arguments = json.dumps(model_id) + (f", host={json.dumps(host_id)}" if host_id else "")
    contents = {
        "README.md": _card(model_id, host),
        "requirements.txt": "\n".join(requirements) + "\n",
        "app.py": f'"""The concepts of {model_id}, live. {MARK}."""\n\n'
        "from clvq_hf.app import Explorer, launch_app\n\n"
        f"launch_app(Explorer.from_pretrained({arguments}))\n",
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        write_whole(output_dir / name, text)
    return description["concepts"] is not None or description["config"].get("concepts_repo") is not None


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {"?"}
    app = folder / "app.py"
    is_ours = app.is_file() and MARK in app.read_text(encoding="utf-8", errors="replace")
    if names - set(ALLOWED) or (names & set(FILES) and not is_ours):
        raise ValueError(f"{folder} holds something else; choose another folder for the Space.")


def _version(name: str) -> str:
    # Without the build, as in 2.13.0+cpu.
    return metadata.version(name).partition("+")[0]


def _card(model_id: str, host: str) -> str:
    data = SpaceCardData(
        title=f"Concepts of {host.split('/')[-1]}",
        emoji="🔎",
        colorFrom="blue",
        colorTo="green",
        sdk="gradio",
        sdk_version=_version("gradio"),
        app_file="app.py",
        models=[model_id, host],
        tags=["clvq_hf", "interpretability"],
    )
    return f"""---
{data.to_yaml()}
---

Type a text, see the concepts of its tokens, and watch the prediction of [{host}](https://huggingface.co/{host}) change
without one of them. The concepts are those of [{model_id}](https://huggingface.co/{model_id}).

If one of the two is private, give the Space a secret `HF_TOKEN` that may read it.

{MARK}.
"""


__all__ = ["export_space"]
