"""What fitting takes is told before the host runs."""

from types import SimpleNamespace

import pytest
import torch

from clvq_hf import ClusterConfig
from clvq_hf.training import fit

CONFIG = ClusterConfig(hidden_size=100, target_hidden_size=50, lower_layer=1, upper_layer=2, codebook_size=4)


def estimate(tmp_path):
    # 2,000 tokens of 150 numbers in half precision; 1,000 of them count.
    return fit._estimate(CONFIG, 2000, 1000, torch.bfloat16, tmp_path / "not" / "there" / "yet")


def test_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "GIB", 10**6)
    # 1.3 · 4 · 1,000 · (200 + 50 + 200)
    assert estimate(tmp_path) == "2.3 GiB of memory at most, and 0.6 GiB on disk until the model is saved"


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fit.shutil, "disk_usage", lambda folder: SimpleNamespace(free=599_999))
    with pytest.raises(ValueError, match=r"on disk.*split=train\[:20%\]"):
        estimate(tmp_path)
    monkeypatch.setattr(fit.shutil, "disk_usage", lambda folder: SimpleNamespace(free=600_000))
    monkeypatch.setattr(fit, "available_memory", lambda device: 2_339_999)
    with pytest.raises(ValueError, match=r"of memory.*max_length=…"):
        estimate(tmp_path)
    monkeypatch.setattr(fit, "available_memory", lambda device: 2_340_000)
    assert estimate(tmp_path)
