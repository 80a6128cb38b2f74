"""JSON, YAML and file names from elsewhere are not trusted."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clvq_hf.files import write_whole
from clvq_hf.reading import check_file_names, read_json, read_json_lines, read_yaml


class TestReadJson:
    def test_an_object(self, tmp_path):
        write_whole(tmp_path / "file.json", '{"a": [1, null], "ü": {}}')
        assert read_json(tmp_path / "file.json") == {"a": [1, None], "ü": {}}

    @pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"3", b"null", b'"text"', b'{"a": "\xff"}'])
    def test_anything_else_is_damaged(self, tmp_path, content):
        (tmp_path / "file.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.json is damaged: "):
            read_json(tmp_path / "file.json")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_json(tmp_path / "file.json")

    def test_fields(self, tmp_path):
        (tmp_path / "file.json").write_text('{"a": {}, "b": "x"}')
        assert read_json(tmp_path / "file.json", {"a": dict, "b": str})
        for name, kind in (("b", int), ("c", str)):
            with pytest.raises(
                ValueError, match=rf"file\.json is damaged: its {name} is no {kind.__name__}\. Again\."
            ):
                read_json(tmp_path / "file.json", {name: kind}, "Again.")

    @pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": %s}' % (b"1" * 5000)])
    def test_deep_and_long(self, tmp_path, content):
        (tmp_path / "file.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"file\.json is damaged: "):
            read_json(tmp_path / "file.json")
        (tmp_path / "file.jsonl").write_bytes(b'{"a": 1}\n\n' + content)
        with pytest.raises(ValueError, match=r"line 3 of .*file\.jsonl is damaged: "):
            read_json_lines(tmp_path / "file.jsonl")

    def test_lines(self, tmp_path):
        (tmp_path / "file.jsonl").write_text('{"a": 1}\n\n{"b": "\\u2028"}\n')
        assert list(read_json_lines(tmp_path / "file.jsonl").values()) == [{"a": 1}, {"b": "\u2028"}]
        (tmp_path / "file.jsonl").write_text("[1]\n")
        with pytest.raises(ValueError, match=r"line 1 of .*file\.jsonl is damaged: it contains no JSON object"):
            read_json_lines(tmp_path / "file.jsonl")


class TestCheckFileNames:
    def test_names_in_the_folder(self):
        check_file_names(["a.parquet", ".hidden", "b c…", "..a"], Path("state.json"))

    @pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a/", None, 3])
    def test_names_that_lead_elsewhere(self, name):
        with pytest.raises(ValueError, match=r"state\.json names the file .*, which is not in its folder"):
            check_file_names(["a.parquet", name], Path("state.json"))


class TestReadYaml:
    def test_aliases_and_merges(self):
        text = "one: &one {a: 1, b: [x]}\ntwo: {<<: *one, a: 2}\nthree: *one\n"
        expected = {"one": {"a": 1, "b": ["x"]}, "two": {"a": 2, "b": ["x"]}, "three": {"a": 1, "b": ["x"]}}
        assert read_yaml(text, "f") == expected
        assert read_yaml("", "f") is None

    @pytest.mark.parametrize(
        "many", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{x: *{0}, y: *{0}}}"]
    )
    def test_aliases_of_aliases(self, many):
        lines = ["a0: &a0 [lol]", *(f"a{n + 1}: &a{n + 1} {many.format(f'a{n}')}" for n in range(30))]
        with pytest.raises(ValueError, match=r"bomb.yaml is no YAML: it has more than 100,000 values"):
            read_yaml("\n".join(lines), "bomb.yaml")

    def test_merges_of_merges(self):
        lines = ["a0: &a0 {k: 1}", *(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}, *a{n}]}}" for n in range(30))]
        with pytest.raises(ValueError, match="more than 100,000 values"):
            read_yaml("\n".join(lines), "bomb.yaml")

    @pytest.mark.parametrize(
        "text", ["a: [", "&a [*a]", "a: &a {b: *a}", "[" * 5000, "9" * 5000, "2026-99-99",
                 "!!python/object:os.system x", "a: b\n---\nc: d", "\x00", "- " * 5000, "!!int x", "{[a]: 1}", "*a"]
    )  # fmt: skip
    def test_what_is_none(self, text):
        with pytest.raises(ValueError, match=r"f\.yaml is no YAML"):
            read_yaml(text, "f.yaml")

    @given(st.text() | st.text("&*ab[]{}:,-<|>!? \n\"'#%@019."))
    @settings(deadline=None)
    def test_any_text_is_read_or_refused(self, text):
        with contextlib.suppress(ValueError):
            read_yaml(text, "f")
