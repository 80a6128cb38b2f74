"""What others made is loaded without running their code or reading pickles, in every place; and nobody is asked."""

import ast
import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from clvq_hf.hosts import load_host
from clvq_hf.hosts.loading import load_config, load_tokenizer, load_weights
from clvq_hf.judging.language_models import LocalJudge
from clvq_hf.training.finetuning import load_classifier

ROOT = Path(__file__).parents[2]
CHAT = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def folder(tmp_path, host, tokenizer):
    host.save_pretrained(tmp_path / "host")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "host")
    return tmp_path / "host"


@pytest.fixture
def evil(folder, monkeypatch):
    """A host, a tokenizer and a config that need code of their folder, which says when it runs."""
    code = f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n"
    (folder / "evil.py").write_text(code + "class Evil: pass\n")
    for name, classes in {
        "config.json": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }.items():
        content = json.loads((folder / name).read_text())
        content |= {"model_type": "evil", "tokenizer_class": "Evil", "auto_map": classes}
        (folder / name).write_text(json.dumps(content))

    def asked(*_):
        raise AssertionError("asked whether to run code")

    monkeypatch.setattr(builtins, "input", asked)
    return folder


LOADERS = {
    "config": load_config,
    "tokenizer": load_tokenizer,
    "host": load_host,
    "weights": lambda name: load_weights(AutoModel, name),
    "classifier": lambda name: load_classifier(name, None, ["a", "b"]),
    "judge": lambda name: LocalJudge(name, device="cpu").answer(CHAT, 1),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_code_of_a_repository_is_not_run(load, evil):
    with pytest.raises(ValueError, match=r"host needs code of its own repository, which is never run"):
        load(str(evil))
    assert not (evil / "ran").exists()


@pytest.mark.parametrize("load", [LOADERS["host"], LOADERS["weights"], LOADERS["classifier"]])
def test_pickled_weights_are_not_read(load, folder, host, tokenizer):
    torch.save(host.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"no weights in safetensors .* pickled ones are not read.* save_pretrained"):
        load(str(folder)) if load is not LOADERS["classifier"] else load_classifier(str(folder), tokenizer, ["a", "b"])


def test_a_config_cannot_name_a_pickle(folder, host):
    torch.save(host.state_dict(), folder / "adapter_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    with pytest.raises(OSError, match=r"adapter_model\.bin.*pickled ones are not read"):
        load_host(str(folder))


def test_a_pickled_adapter_is_not_read(folder, host):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(host, peft.LoraConfig(target_modules=["query"]))
    adapted.save_pretrained(folder)
    assert load_host(str(folder)) is not None
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(OSError, match=r"adapter_model\.safetensors.*pickled ones are not read"):
        load_host(str(folder))


def test_a_host_that_is_missing_is_told_as_before(tmp_path):
    shutil.rmtree(tmp_path)
    with pytest.raises(OSError, match=r"There is no folder .*, and no host of this name"):
        load_host(str(tmp_path))


def test_every_place_refuses_code_and_pickles():
    """Classes of transformers that look up what a repository says are called in one file, or say it themselves."""
    files = [*(ROOT / "clvq_hf").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    for file in files:
        if file.name == "loading.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr == "from_pretrained" and owner.startswith("Auto"):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert said.get("trust_remote_code") == "False", f"{file}:{node.lineno}: use clvq_hf.hosts.loading"
                assert said.get("use_safetensors") == "True", f"{file}:{node.lineno}: use clvq_hf.hosts.loading"
