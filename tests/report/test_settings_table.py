from hsfm.report.settings_table import list_settings, settings_table
from tests.latex_structure import check_latex

SETTINGS = {
    "birds": {
        "": {"backbone": {"name": "resnet50", "weights": None, "train": True}},
        "hsfm": {"hsfm": {"inner_lr": 0.00005, "inner_steps": 15}},
        "ddb": {
            "ddb": {"generator": "diffusion", "models": {"diffusion": {"name": "x"}}, "retrain": {"weights": [6, 10]}}
        },
    },
    "faces": {"": {"backbone": {"name": "vit"}}, "hsfm": {"hsfm": {"inner_lr": 0.0001, "refresh": "epoch"}}},
}


def test_a_row_per_setting_and_a_column_per_dataset():
    table = settings_table(list_settings(SETTINGS))
    assert table.header == ("Method", "Setting", "birds", "faces")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["all", "backbone/name", "resnet50", "vit"],
        ["all", "backbone/train", "yes", "-"],
        ["all", "backbone/weights", "none", "-"],
        ["HSFM", "hsfm/inner_lr", "5e-05", "0.0001"],
        ["HSFM", "hsfm/inner_steps", "15", "-"],
        ["HSFM", "hsfm/refresh", "-", "epoch"],
        ["DDB", "ddb/generator", "diffusion", "-"],
        ["DDB", "ddb/retrain/weights", "6, 10", "-"],
    ]
    check_latex(table.latex("tab:settings"))


def test_numbers_of_the_file():
    frame = list_settings(SETTINGS)
    assert list(frame) == ["dataset", "method", "section", "setting", "value"]
    assert not frame["setting"].str.startswith("models").any()
    assert len(list_settings({"birds": {"": {}}})) == 0
