from __future__ import annotations

import json

from lib_lora.cli.main import main
from lib_lora.files.toml_file import read_toml


def test_settings_of_another_program_become_a_config_file(tmp_path, capsys):
    source, output = tmp_path / "kohya.json", tmp_path / "zorb.toml"
    source.write_text(json.dumps({"LoRA_type": "Standard", "epoch": 3, "network_dim": 8, "seed": "", "odd": 1}))
    assert main(["import", str(source), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "left out: odd: there is no such option here" in said and str(output) in said
    assert read_toml(output) == {"network_type": "LoRA", "network_dim": 8, "max_train_epochs": 3}
    assert main(["import", str(source), "--output", str(output)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["import", str(source)]) == 0
    assert "network_dim = 8\n" in capsys.readouterr().out


def test_a_file_that_holds_no_settings_is_named(tmp_path, capsys):
    source = tmp_path / "notes.txt"
    source.write_text("nothing of this kind")
    assert main(["import", str(source)]) == 1
    assert main(["import", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
