"""What was changed on the disk is noticed before it is used."""

import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import save_file

from clvq_hf.checksums import (
    check_file,
    read_metadata,
    read_rows,
    read_tensors,
    write_metadata,
    write_rows,
    write_tensors,
)
from clvq_hf.files import write_whole


class TestMetadata:
    @pytest.fixture
    def file(self, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "data").write_bytes(b"0123456789")
        write_metadata(tmp_path / "about.json", {"layers": (3, 6), "names": ["a", "ü"], "size": 0.1}, ["in/data"])
        return tmp_path / "about.json"

    def test_comes_back_without_its_checksums(self, file):
        metadata, noted = read_metadata(file, "Make it again.")
        assert metadata == {"layers": [3, 6], "names": ["a", "ü"], "size": 0.1} and list(noted) == ["in/data"]
        check_file(file.parent / "in/data", noted["in/data"], "Make it again.")

    def test_every_flipped_bit_is_found_or_harmless(self, file):
        whole, expected = file.read_bytes(), read_metadata(file, "")
        for place in range(len(whole)):
            file.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
            try:
                found = read_metadata(file, "Make it again.")
            except ValueError as error:
                assert "about.json is damaged" in str(error)
            else:  # in white space, or in the name of the field with the checksum
                assert found[1] == expected[1] and expected[0].items() <= found[0].items()

    @pytest.mark.parametrize("content", [b"012345678", b"0123456788", b"", None])
    def test_another_file(self, file, content):
        noted = read_metadata(file, "")[1]["in/data"]
        data = file.parent / "in" / "data"
        data.unlink() if content is None else data.write_bytes(content)
        with pytest.raises(ValueError, match=r"data is damaged|in is damaged: it lacks data.*Make it again\."):
            check_file(data, noted, "Make it again.")

    def test_earlier_versions_noted_nothing(self, file):
        write_whole(file, '{"size": 1}')
        assert read_metadata(file, "") == ({"size": 1}, {})
        check_file(file.parent / "in/data", None, "")


class TestRows:
    @pytest.fixture
    def folder(self, tmp_path):
        columns = {"text": ["a", "", "ü" * 50], "scores": [[0.5], [], [1.0, 2.0]], "label": [0, 1, 2]}
        write_rows(Dataset.from_dict(columns), tmp_path / "rows")
        return tmp_path / "rows"

    def test_come_back(self, folder):
        assert read_rows(folder, "")["scores"][:] == [[0.5], [], [1.0, 2.0]]
        assert [path.name for path in folder.parent.iterdir()] == ["rows"]

    def test_a_flipped_bit_is_found_before_arrow_reads_the_file(self, folder, monkeypatch):
        monkeypatch.setattr("datasets.load_from_disk", None)
        generator = np.random.default_rng(0)
        for file in sorted(folder.iterdir()):
            whole = file.read_bytes()
            for place in generator.integers(len(whole), size=5) if file.name != "checksums.json" else ():
                file.write_bytes(bytes([*whole[:place], whole[place] ^ 4, *whole[place + 1 :]]))
                with pytest.raises(ValueError, match=rf"{file.name} is damaged.*Make them again\."):
                    read_rows(folder, "Make them again.")
            file.write_bytes(whole)

    def test_flipped_bits_in_the_checksums(self, folder):
        file = folder / "checksums.json"
        whole, rows = file.read_bytes(), read_rows(folder, "").to_dict()
        for place in range(len(whole)):
            file.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
            try:
                assert read_rows(folder, "").to_dict() == rows
            except ValueError as error:
                assert "is damaged" in str(error)

    @pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
    @pytest.mark.parametrize("content", [None, b"", b"{}", b"[[" * 50_000, b'{"_data_files": 3}', b"\xff" * 3000])
    @pytest.mark.parametrize("version", ["this one", "an earlier one"])
    def test_files_that_are_something_else(self, folder, name, content, version):
        if version == "an earlier one":
            (folder / "checksums.json").unlink()
            if name == "dataset_info.json" and content and content.startswith(b"{"):
                return  # names of classes are lost, which others would do without, too
        file = folder / name
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            read_rows(folder, "Make them again.")

    def test_flipped_bits_of_an_earlier_version_do_not_end_python(self, folder):
        """Offsets that lead out of the file, and sizes of exabytes, for example."""
        (folder / "checksums.json").unlink()
        [file] = folder.glob("*.arrow")
        whole = file.read_bytes()
        ends = {"read": 0, "refused": 0}
        for place in range(0, len(whole), 7):
            file.write_bytes(bytes([*whole[:place], whole[place] ^ 0x40, *whole[place + 1 :]]))
            try:
                read_rows(folder, "Make them again.").to_dict()
                ends["read"] += 1
            except ValueError as error:
                assert str(folder) in str(error)
                ends["refused"] += 1
        assert min(ends.values()) > 10


class TestTensors:
    def test_a_flipped_bit_is_found(self, tmp_path):
        file = tmp_path / "file.safetensors"
        write_tensors(file, {"a": np.arange(4), "b": np.full((2, 3), np.nan)}, {"of": "mine"})
        arrays, about = read_tensors(file, ["a", "b"], "Get it again.")
        assert arrays["a"].tolist() == [0, 1, 2, 3] and np.isnan(arrays["b"]).all() and about == {"of": "mine"}
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
            try:
                found, about = read_tensors(file, ["a", "b"], "Get it again.")
            except ValueError as error:
                assert "file.safetensors is damaged" in str(error) and "Get it again." in str(error)
            else:
                assert all(np.array_equal(found[name], arrays[name], equal_nan=True) for name in arrays)
                assert about["of"] == "mine"

    def test_earlier_versions_wrote_no_checksum(self, tmp_path):
        save_file({"a": np.arange(4)}, tmp_path / "file.safetensors", metadata={"of": "mine"})
        assert read_tensors(tmp_path / "file.safetensors", ["a"], "")[1] == {"of": "mine"}
