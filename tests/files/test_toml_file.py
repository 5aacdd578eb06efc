from __future__ import annotations

from lib_lora.files.toml_file import read_toml, toml_text


def test_values_come_back_as_they_were_written(tmp_path):
    values = {
        "text": 'C:\\new folder\\"x"\n\t\x7f\x01 ü 猫',
        "small": 1e-30,
        "large": 1e30,
        "whole": 8.0,
        "count": 3,
        "on": True,
        "texts": ["a,b", ""],
        "numbers": [0.5, 1.0],
    }
    path = tmp_path / "run.toml"
    path.write_text(toml_text(values), encoding="utf-8")
    back = read_toml(path)
    assert back == values and {name: type(value) for name, value in back.items()} == {
        name: type(value) for name, value in values.items()
    }
