"""Codebooks are found on the Hub by host, dataset, owner and name."""

import pytest
from huggingface_hub import HfApi

from clvq_hf import list_codebooks

REPO = "org/clvq-bert"


@pytest.mark.slow
def test_by_host_dataset_and_name(hub, shared_model, make_model):
    for name in ("org/reviews", "org/news"):
        HfApi().create_repo(name, repo_type="dataset")
    shared_model.config.training = {"dataset": "org/reviews"}
    shared_model.push_to_hub(REPO)
    shared_model.config.training = {"dataset": "org/news"}
    shared_model.push_to_hub("me/clvq-news", private=True)
    make_model(host_name_or_path="org/other").push_to_hub("org/clvq-other")

    def names(**filters) -> list[str]:
        return sorted(info.repo_id for info in list_codebooks(**filters))

    assert names() == ["me/clvq-news", REPO, "org/clvq-other"]
    assert names(host="org/host") == ["me/clvq-news", REPO]
    assert names(host="org/host", dataset="org/reviews") == [REPO]
    assert names(author="me") == names(search="news") == ["me/clvq-news"]
    assert names(host="org/none") == []
    assert names(token=False) == [REPO, "org/clvq-other"]
    hub.fail_next(1, path_contains="/api/models", status=503)
    [codebook] = list_codebooks(dataset="org/news")
    assert (codebook.host, codebook.datasets, codebook.private) == ("org/host", ("org/news",), True)


def test_models_of_other_libraries_are_not_shown(hub_host):
    assert list_codebooks(host="org/host") == []
    assert list_codebooks() == []
