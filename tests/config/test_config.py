"""The configuration: every problem at once and in the words of the file, paths, overrides, shipped files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchkit.config import RENAMED, RETIRED, SCHEMAS, ClientConfig, DatasetConfig, as_dict, load_config, save_config
from torchkit.config.loader import fields_of, group_in
from torchkit.head import HEADS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [*ROOT.glob("*.yaml"), *ROOT.glob("configs/*.yaml")]
SMALLEST: dict[str, Any] = {
    "DATA_ROOT": "images",
    "INDEX_ROOT": "index",
    "DATASETS": [{"name": "train"}],
    "MODEL_ROOT": "out",
    "LOG_ROOT": "out/curves",
    "LOGS": "out/logs",
}


def written(folder: Path, **changes: Any) -> Path:
    """A configuration file with the smallest content and `changes`; None leaves a key out."""
    values = {key: value for key, value in {**SMALLEST, **changes}.items() if value is not None}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def problems(folder: Path, overrides: list[str] | None = None, **changes: Any) -> list[str]:
    """The lines that describe what is wrong."""
    path = written(folder, **changes)
    with pytest.raises(ValueError) as error:
        load_config(path, overrides)
    head, *lines = str(error.value).splitlines()
    assert head == f"{path} has {len(lines)} problem(s):"
    assert all(line.startswith("  - ") for line in lines)
    return [line[4:] for line in lines]


# Good files


def test_smallest_file_has_the_papers_recipe_as_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert (config.HEAD_NAME, config.DATASETS[0].scale, config.DATASETS[0].margin) == ("ArcFace", 64, 0.5)
    assert (config.NUM_EPOCH, config.STAGES, config.LRS[0]) == (30, (5, 10, 16, 22), 0.1)
    assert (config.BACKBONE_NAME, config.SERVER.NAME) == ("mobilefacenet", "ir_101")
    assert config.OBFUSCATION.kinds == {"hybrid": 1.0}
    assert (config.CLIENT.LAYOUT, config.CLIENT.INPUT, config.CLIENT.INTERFACE) == ("published", "residual", "random")
    assert (config.COMPENSATION.form, config.SHUFFLE.BLOCK_PX) == ("gate", 28)
    assert (config.DISTILLATION.FORM, config.DISTILLATION.WEIGHT, config.CAMERA.share) == ("mse", 1, 0)


def test_the_published_recipe_is_the_defaults(tmp_path: Path) -> None:
    shipped = as_dict(load_config(ROOT / "configs" / "published.yaml"))
    defaults = as_dict(load_config(written(tmp_path)))
    changed = {key for key in defaults if shipped[key] != defaults[key]}
    assert changed == {*SMALLEST, "VAL_DATA_ROOT", "SERVER"}
    assert shipped["SERVER"].pop("CHECKPOINT") != defaults["SERVER"].pop("CHECKPOINT")
    assert shipped["SERVER"] == defaults["SERVER"]


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(
        written(tmp_path, VAL_DATA_ROOT="../sets", SERVER={"CHECKPOINT": "w/ir.ckpt"}, LOGS="/absolute/logs")
    )
    folder = tmp_path.resolve()
    assert folder / "images" == config.DATA_ROOT
    assert folder.parent / "sets" == config.VAL_DATA_ROOT
    assert folder / "w/ir.ckpt" == config.SERVER.CHECKPOINT
    assert Path("/absolute/logs") == config.LOGS


def test_default_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    for changes in ({}, {"SERVER": {"NAME": "ir_101"}}):
        config = load_config(written(tmp_path, **changes))
        assert config.SERVER.CHECKPOINT.is_relative_to(tmp_path.resolve())


def test_file_may_be_named_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert tmp_path.resolve() / "images" == load_config(Path("../experiment.yaml")).DATA_ROOT


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(written(tmp_path, DATA_ROOT="~/faces"))
    assert tmp_path.resolve() / "faces" == config.DATA_ROOT


def test_empty_strings_mean_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(["BACKBONE_RESUME", "HEAD_RESUME", "META_RESUME", "VAL_DATA_ROOT", "EMBEDDING_SIZE"], "")
    config = load_config(written(tmp_path, **empty, CLIENT={"INIT": ""}, SHUFFLE={"SEED": ""}))
    assert all(getattr(config, key) is None for key in empty)
    assert config.CLIENT.INIT is None and config.SHUFFLE.SEED is None


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text."""
    path = written(tmp_path)
    path.write_text(path.read_text() + "LRS: [1e-1, 1e-3]\nSTAGES: [2]\nWEIGHT_DECAY: 5e-4\n")
    config = load_config(path)
    assert config.LRS == (0.1, 0.001) and config.WEIGHT_DECAY == 0.0005


@pytest.mark.parametrize(("given", "meant"), [(True, "bf16"), (False, False), ("bf16", "bf16"), ("fp16", "fp16")])
def test_amp(tmp_path: Path, given: bool | str, meant: bool | str) -> None:
    config = load_config(written(tmp_path, AMP=given))
    assert meant == config.AMP


def test_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.NUM_EPOCH = 3
    with pytest.raises(ValueError, match="frozen"):
        config.SERVER.NAME = "ir_18"


# Wrong files


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        ["nonsense"],
        DATA_ROOT=None,
        NUM_EPOCHS=3,
        NUM_WORKERS=-1,
        HEAD_NAME="SphereFace",
        SERVER={"NAME": "ir_51", "CHANEL_ORDER": "rgb"},
        DATASETS=[{"name": "a", "batch_size": 0}, {"name": "b", "bach_size": 3}],
    )
    parts = [
        "override 'nonsense'", "DATA_ROOT is missing", "unknown key NUM_EPOCHS", "NUM_WORKERS = -1",
        "HEAD_NAME = 'SphereFace'", "unknown backbone 'ir_51'", "unknown key SERVER.CHANEL_ORDER",
        "DATASETS.0.batch_size = 0", "unknown key DATASETS.1.bach_size",
    ]  # fmt: skip
    for part in parts:
        assert sum(part in line for line in found) == 1, part
    assert len(found) == len(parts)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"NUM_EPOCHS": 3}, "unknown key NUM_EPOCHS; did you mean NUM_EPOCH?"),
        ({"SERVR": {}}, "unknown key SERVR; did you mean SERVER?"),
        ({"SERVER": {"CHEKPOINT": "x"}}, "unknown key SERVER.CHEKPOINT; did you mean CHECKPOINT?"),
        ({"OBFUSCATION": {"SIGMA": [1, 2]}}, "unknown key OBFUSCATION.SIGMA; did you mean SIGMA_PX?"),
        ({"DATASETS": [{"name": "a", "bach_size": 3}]}, "unknown key DATASETS.0.bach_size; did you mean batch_size?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_key_names_the_nearest(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    assert problems(tmp_path, **changes) == [line]


def test_unknown_key_without_a_near_one_lists_the_known(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, SHUFFLE={"QQQ": 1})
    assert line == "unknown key SHUFFLE.QQQ; known: TAPS, BLOCK_PX, SEED"


@pytest.mark.parametrize("key", sorted(RETIRED))
def test_retired_key_says_why(tmp_path: Path, key: str) -> None:
    assert problems(tmp_path, **{key: 1}) == [f"{key} is no longer a setting: {RETIRED[key]}; remove it"]


@pytest.mark.parametrize("key", sorted(RENAMED))
def test_renamed_key_says_its_present_name(tmp_path: Path, key: str) -> None:
    group, _, name = key.partition(".")
    assert problems(tmp_path, **{group: {name: 1}}) == [f"{key} is now called {RENAMED[key]}"]


@pytest.mark.parametrize("task", SCHEMAS)
def test_key_that_the_task_does_not_read_says_which_does(tmp_path: Path, task: str) -> None:
    levels = {name: {level for key in keys_of(schema) for level in levels_of(key)} for name, schema in SCHEMAS.items()}
    for key in set().union(*map(keys_of, SCHEMAS.values())) - keys_of(SCHEMAS[task]):
        unread = next(level for level in levels_of(key) if level not in levels[task])  # the key, or a group of it
        readers = ", ".join(name for name in SCHEMAS if unread in levels[name])
        line = problems(tmp_path, [f"{key}=1"], TASK=task)[-1]
        assert line == f"{unread} is not read by TASK: {task}, only by TASK: {readers}; remove it"


def test_allowed_heads_are_those_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(tmp_path, HEAD_NAME="Toy") == [f"HEAD_NAME = 'Toy': allowed are {', '.join(HEADS)}"]
    monkeypatch.setitem(HEADS, "Toy", HEADS["ArcFace"])
    assert load_config(written(tmp_path, HEAD_NAME="Toy")).HEAD_NAME == "Toy"


def test_component_settings_are_spelt_in_upper_case(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, CAMERA={"share": 0.5})
    assert line == "unknown key CAMERA.share; known: SHARE, BRIGHTNESS, SHIFT_PX, JPEG_QUALITY"


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"COMPENSATION": {"FORM": "sum"}}, r"COMPENSATION\.FORM = 'sum': allowed are gate, add, film"),
        ({"DISTILLATION": {"FORM": "l1"}}, r"DISTILLATION\.FORM = 'l1': allowed are cosine, mse"),
        ({"CAMERA": {"SHARE": 2}}, r"CAMERA\.SHARE = 2: .*less than or equal to 1"),
        ({"CAMERA": {"BRIGHTNESS": [2, 1]}}, r"CAMERA\.BRIGHTNESS: \[2\.0, 1\.0\]: expected \[low, high\]"),
        ({"VALIDATION": {"OBFUSCATIONS": ["blur"]}}, r"VALIDATION\.OBFUSCATIONS\.0 = 'blur': allowed are"),
        ({"NUM_EPOCH": "many"}, r"NUM_EPOCH = 'many': .*integer"),
        ({"NUM_EPOCH": 2.5}, r"NUM_EPOCH = 2\.5: .*integer"),
        ({"NUM_EPOCH": 0}, r"NUM_EPOCH = 0: .*greater than 0"),
        ({"NUM_EPOCH": [3]}, r"NUM_EPOCH = \[3\]: .*integer"),
        ({"SEED": "x"}, r"SEED = 'x': .*integer"),
        ({"DATA_ROOT": 5}, r"DATA_ROOT = 5: .*path"),
        ({"DATA_ROOT": ""}, r"DATA_ROOT = .*path"),
        ({"DATASETS": {"name": "a"}}, r"DATASETS = \{'name': 'a'\}: .*list"),
        ({"DATASETS": "train"}, r"DATASETS = 'train': .*list"),
        ({"DATASETS": []}, r"DATASETS = .*at least 1"),
        ({"DATASETS": [3]}, r"DATASETS\.0 = 3: .*dictionary"),
        ({"DATASETS": [{}]}, r"DATASETS\.0\.name is missing"),
        ({"DATASETS": [{"name": "a", "weight": -1}]}, r"DATASETS\.0\.weight = -1: .*greater than or equal to 0"),
        ({"SERVER": "ir_50"}, r"SERVER = 'ir_50': .*dictionary"),
        ({"SERVER": {"CHANNEL_ORDER": "grb"}}, r"SERVER\.CHANNEL_ORDER = 'grb': .*'auto', 'rgb' or 'bgr'"),
        ({"CLIENT": {"LAYOUT": "mine"}}, r"CLIENT\.LAYOUT = 'mine': .*'native' or 'published'"),
        ({"SHUFFLE": {"TAPS": [5]}}, r"SHUFFLE\.TAPS\.0 = 5: .*less than or equal to 4"),
        ({"MOMENTUM": 1.0}, r"MOMENTUM = 1\.0: .*less than 1"),
        ({"OPTIMIZER": "adam"}, r"OPTIMIZER = 'adam': .*'sgd' or 'adamw'"),
        ({"BACKBONE_NAME": "MobileNet"}, r"BACKBONE_NAME: unknown backbone 'MobileNet'; did you mean 'mobilefac"),
        ({"INPUT_SIZE": [224, 224]}, r"INPUT_SIZE: \[224, 224\]: .*\[112, 112\]"),
        ({"RGB_MEAN": [0.485, 0.456, 0.406]}, r"RGB_MEAN: \[0\.485, 0\.456, 0\.406\]: only \[0\.5, 0\.5, 0\.5\]"),
        ({"RGB_STD": [1, 1, 1]}, r"RGB_STD: \[1\.0, 1\.0, 1\.0\]: only \[0\.5, 0\.5, 0\.5\]"),
        ({"LRS": [0.1, 0.01]}, r"LRS has 2 rates and STAGES 4 epochs: expected one rate more"),
        ({"LRS": [0.1, -1, 0.1, 0.1, 0.1]}, r"LRS\.1 = -1: .*greater than or equal to 0"),
        ({"LRS": []}, r"LRS = .*at least 1"),
        ({"STAGES": [5, 10, 10, 22]}, r"STAGES \[5, 10, 10, 22\]: epochs must rise"),
        ({"STAGES": [10, 5, 16, 22]}, r"STAGES \[10, 5, 16, 22\]: epochs must rise"),
        ({"START_EPOCH": 30}, r"START_EPOCH 30 must be below NUM_EPOCH 30"),
        ({"OBFUSCATION": {"KINDS": {"blur": 1}}}, r"OBFUSCATION\.KINDS: .*'blur'.*gaussian, median, pixelate, hybrid"),
        ({"OBFUSCATION": {"KINDS": {"hybrid": 0}}}, r"OBFUSCATION\.KINDS: .*one of them > 0"),
        ({"OBFUSCATION": {"KINDS": {"hybrid": 2, "median": -1}}}, r"OBFUSCATION\.KINDS: .*>= 0"),
        ({"OBFUSCATION": {"KINDS": {}}}, r"OBFUSCATION\.KINDS: .*allowed are"),
        ({"OBFUSCATION": {"SIGMA_PX": [8, 2]}}, r"OBFUSCATION\.SIGMA_PX: \[8\.0, 2\.0\]: expected \[low, high\]"),
        ({"OBFUSCATION": {"MEDIAN_KERNEL_PX": [7, 18]}}, r"OBFUSCATION\.MEDIAN_KERNEL_PX: \[7, 18\]: .*odd"),
        ({"OBFUSCATION": {"MEDIAN_KERNEL_PX": [1, 7]}}, r"OBFUSCATION\.MEDIAN_KERNEL_PX: \[1, 7\]: .*at least 3"),
        ({"OBFUSCATION": {"BLOCK_PX": [0, 3]}}, r"OBFUSCATION\.BLOCK_PX: \[0, 3\]: expected"),
        ({"OBFUSCATION": {"GRID": [2, 113]}}, r"OBFUSCATION\.GRID: \[2, 113\]: expected"),
        ({"OBFUSCATION": {"GRID": [2, 3, 4]}}, r"OBFUSCATION\.GRID = \[2, 3, 4\]: .*2 items"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, changes: dict[str, Any], pattern: str) -> None:
    (line,) = problems(tmp_path, **changes)
    assert re.match(pattern, line), line


def test_cosine_needs_no_stages(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SCHEDULE="cosine", LRS=[0.1, 0.001]))
    assert config.LRS == (0.1, 0.001)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"configuration not found: .*gone\.yaml.*--config"):
        load_config(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType"),
        ("- 1\n", "found list"),
        ("text", "found str"),
        ("a: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"experiment\.yaml.*{message}"):
        load_config(tmp_path / "experiment.yaml")


# Overrides


def test_overrides_are_yaml_and_reach_into_groups_and_lists(tmp_path: Path) -> None:
    path = written(tmp_path, DATASETS=[{"name": "a"}, {"name": "b"}])
    overrides = [
        "NUM_EPOCH=3", "SERVER.NAME=ir_50", "SHUFFLE.TAPS=[1, 2]", "DATASETS.1.batch_size=8", "LRS=[0.1, 0.01]",
        "STAGES=[2]", "OBFUSCATION.KINDS={median: 2}", "AMP=true", "SHUFFLE.SEED=null", "BACKBONE_RESUME=",
        "DATASETS.0.name=x=y",
    ]  # fmt: skip
    config = load_config(path, overrides)
    assert (config.NUM_EPOCH, config.SERVER.NAME, config.SHUFFLE.TAPS) == (3, "ir_50", (1, 2))
    assert [data.batch_size for data in config.DATASETS] == [64, 8]
    assert (config.LRS, config.STAGES, config.AMP, config.SHUFFLE.SEED) == ((0.1, 0.01), (2,), "bf16", None)
    assert config.OBFUSCATION.kinds == {"median": 2}
    assert config.BACKBONE_RESUME is None
    assert [data.name for data in config.DATASETS] == ["x=y", "b"]


def test_a_later_override_wins(tmp_path: Path) -> None:
    assert load_config(written(tmp_path), ["NUM_EPOCH=3", "NUM_EPOCH=4"]).NUM_EPOCH == 4


def test_paths_in_overrides_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = written(tmp_path / "file")
    here = (tmp_path / "here").resolve()

    config = load_config(path, ["DATA_ROOT=faces", "SERVER.CHECKPOINT=../w.ckpt", "CLIENT.INIT=net.pth"])
    assert here / "faces" == config.DATA_ROOT
    assert here.parent / "w.ckpt" == config.SERVER.CHECKPOINT
    assert here / "net.pth" == config.CLIENT.INIT
    assert here.parent / "file" / "index" == config.INDEX_ROOT, "not overridden: relative to the file"

    whole_group = load_config(path, ["SERVER={NAME: ir_50, CHECKPOINT: w.ckpt}"])
    assert here / "w.ckpt" == whole_group.SERVER.CHECKPOINT


@pytest.mark.parametrize("value", ["", "''", '""', "null", "~"])
def test_a_path_can_be_overridden_with_none(tmp_path: Path, value: str) -> None:
    config = load_config(written(tmp_path, VAL_DATA_ROOT="sets"), [f"VAL_DATA_ROOT={value}"])
    assert config.VAL_DATA_ROOT is None


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("NUM_EPOCH", r"override 'NUM_EPOCH': expected KEY=value"),
        ("=3", r"override '=3': expected KEY=value"),
        ("NUM_EPOCH=[1", r"override 'NUM_EPOCH=\[1':"),
        ("DATASETS.7.batch_size=3", r"override 'DATASETS\.7\.batch_size=3':"),
        ("DATASETS.x.batch_size=3", r"override 'DATASETS\.x\.batch_size=3':"),
        ("NUM_WORKERS.x=3", r"override 'NUM_WORKERS\.x=3':"),
        ("NUM_EPOHC=3", r"unknown key NUM_EPOHC; did you mean NUM_EPOCH\?"),
        ("SERVER.NAMES=3", r"unknown key SERVER\.NAMES; did you mean NAME\?"),
        ("DATASETS.0.size=3", r"unknown key DATASETS\.0\.size; did you mean batch_size\?"),
        ("NUM_EPOCH=many", r"NUM_EPOCH = 'many': .*integer"),
        ("WORLD_SIZE=2", r"WORLD_SIZE is no longer a setting"),
    ],
)
def test_wrong_override_is_named(tmp_path: Path, override: str, pattern: str) -> None:
    (line,) = problems(tmp_path, [override], NUM_WORKERS=2)
    assert re.match(pattern, line), line


# Written and shipped files


def test_saved_configuration_loads_to_an_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(
        written(tmp_path, AMP=True, CLIENT={"INIT": "net.pth"}, SHUFFLE={"SEED": 3}, SAVE_EPOCHS=[1, 2]),
        ["OBFUSCATION.KINDS={median: 2, hybrid: 1}", "LRS=[0.1, 1e-5]", "STAGES=[7]"],
    )
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    save_config(config, Path("config.yaml"))
    again = load_config(Path("config.yaml"))
    assert again == config
    assert as_dict(again) == as_dict(config)
    assert list(again.OBFUSCATION.kinds) == ["median", "hybrid"], "the order decides what is drawn"


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_shipped_file_loads(path: Path) -> None:
    load_config(path)


def levels_of(key: str) -> list[str]:
    """The groups around a key, from the outermost, and the key itself."""
    names = key.split(".")
    return [".".join(names[:count]) for count in range(1, len(names) + 1)]


def keys_of(group: type, prefix: str = "") -> set[str]:
    found = set()
    for name, field in fields_of(group).items():
        inner = group_in(field.annotation)
        if inner is not None and name != "DATASETS":
            found |= keys_of(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def keys_in(values: dict[str, Any], groups: set[str], prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        if prefix + name in groups:
            found |= keys_in(value, groups, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_train_yaml_shows_every_key() -> None:
    path = ROOT / "train.yaml"
    if not path.is_file():
        pytest.skip("there is no train.yaml")
    values = yaml.safe_load(path.read_text())
    known = keys_of(ClientConfig)
    groups = {key.rpartition(".")[0] for key in known if "." in key}
    assert keys_in(values, groups) == known
    assert set(values["DATASETS"][0]) == set(DatasetConfig.model_fields)
