import pytest
from helpers.tiny_grid import GRID, make_reviews


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """Texts whose label two words reveal."""
    return make_reviews(tmp_path_factory.mktemp("reviews"))


@pytest.fixture
def grid_file(tmp_path, reviews, monkeypatch):
    monkeypatch.setenv("REVIEWS", str(reviews))
    file = tmp_path / "grid.yaml"
    file.write_text(GRID)
    return file
