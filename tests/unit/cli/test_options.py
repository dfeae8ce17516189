"""The command line: its options, its help, and how it tells a user what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fmnist.cli.command import Context, failure_line, parse, run
from fmnist.cli.train import training_app
from fmnist.configure import Setting, all_settings, load_named_settings, load_settings
from fmnist.errors import DataError, ExitCode, SettingsError
from fmnist.settings import Settings

# For each setting: what is written, and what it must be read as.
VALUES: dict[str, tuple[str, object]] = {
    "data.source": ("/data/files", "/data/files"),
    "data.mirrors": ("https://a.org,https://b.org", ("https://a.org", "https://b.org")),
    "data.cache": ("/var/cache/x", Path("/var/cache/x")),
    "data.timeout": ("2.5", 2.5),
    "data.retry_pauses": ("1,2", (1.0, 2.0)),
    "data.class_names": ("a,b,c,d,e,f,g,h,i,j", tuple("abcdefghij")),
    "data.max_leaked": ("0.05", 0.05),
    "data.notable_share_change": ("0.3", 0.3),
    "data.notable_brightness_change": ("0", 0),
    "split.validation": ("0.1", 0.1),
    "split.seed": ("11", 11),
    "model.hidden": ("64,32,16", (64, 32, 16)),
    "model.dropout": ("0.3,0.2,0.1", (0.3, 0.2, 0.1)),
    "model.leaky_slope": ("0.2", 0.2),
    "training.when": ("changed", "changed"),
    "training.epochs": ("3", 3),
    "training.batch_size": ("64", 64),
    "training.learning_rate": ("1e-3", 0.001),
    "training.warmup_fraction": ("0", 0.0),
    "training.weight_decay": ("0.01", 0.01),
    "training.shift_fraction": ("0", 0.0),
    "training.max_erase_size": ("0", 0),
    "training.patience": ("4", 4),
    "training.seed": ("5", 5),
    "gate.min_accuracy": ("0.85", 0.85),
    "training.deterministic": ("false", False),
    "training.precision": ("auto", "auto"),
    "gate.lower_bound": ("true", True),
    "gate.champion": ("not_worse", "not_worse"),
    "gate.max_class_drop": ("0.02", 0.02),
    "gate.min_comparable": ("500", 500),
    "store.url": ("s3://bucket/prefix", "s3://bucket/prefix"),
    "store.single_publisher": ("true", True),
    "store.work": ("/var/tmp/x", Path("/var/tmp/x")),
    "store.retry_pauses": ("0.5", (0.5,)),
}

every_setting = pytest.mark.parametrize("setting", all_settings(), ids=lambda each: each.name)


def value_of(settings: Settings, name: str) -> object:
    section, _, leaf = name.partition(".")
    return getattr(getattr(settings, section), leaf)


def no_job(_: Settings) -> Any:
    """A training job that must not run."""
    raise AssertionError


def context_of(*words: str) -> Context:
    """What the training job is started with for a command line."""
    _, positional, _ = parse(training_app(no_job), words, Console())
    context = positional[0]
    assert isinstance(context, Context)
    return context


def faults(*words: str) -> list[str]:
    """The lines that a wrong command line is answered with."""
    with pytest.raises(SettingsError) as caught:
        context_of(*words)
    assert caught.value.exit_code == ExitCode.SETTINGS
    return str(caught.value).split("\n")


@every_setting
@pytest.mark.parametrize("form", ["two words", "one word", "load", "environment"])
def test_each_setting_can_be_given(
    setting: Setting, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an option by its dotted name or by its variable; only that one changes."""
    name, (text, expected) = setting.name, VALUES[setting.name]
    default = Settings()
    match form:
        case "two words":
            settings = context_of(f"--{name}", text).settings
        case "one word":
            settings = context_of(f"--{name}={text}").settings
        case "load":
            settings = load_named_settings({name: text})
        case _:
            monkeypatch.setenv(setting.variable, text)
            settings = context_of().settings
    assert value_of(settings, name) == expected
    for other in VALUES.keys() - {name}:
        assert value_of(settings, other) == value_of(default, other)


def test_no_option_means_defaults() -> None:
    assert (context_of().settings, context_of().overrides) == (Settings(), {})


def test_of_a_repeated_option_the_last_counts() -> None:
    context = context_of("--training.epochs", "3", "--training.epochs=4")
    assert context.settings.training.epochs == 4


RENAMES = {"warmup": ("warmup_fraction", 0.3), "shifted": ("shift_fraction", 0.2),
           "erased": ("max_erase_size", 3)}  # fmt: skip


@pytest.mark.parametrize("old", RENAMES)
@pytest.mark.parametrize("place", ["option", "environment", ".env", "parameter"])
def test_the_earlier_name_of_a_setting_is_still_accepted(
    old: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, value = RENAMES[old]
    variable = f"FMNIST_TRAINING__{old.upper()}"
    if place == "environment":
        monkeypatch.setenv(variable, str(value))
    elif place == ".env":
        (tmp_path / ".env").write_text(f"{variable}={value}\n")
    option = (f"--training.{old}", str(value)) if place == "option" else ()
    settings = context_of(*option).settings
    if place == "parameter":
        settings = load_settings({"training": {old: value}})
    assert getattr(settings.training, name) == value


@pytest.mark.parametrize("names", [("warmup", "warmup_fraction"), ("warmup_fraction", "warmup")])
def test_an_earlier_name_has_the_precedence_of_its_source(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option takes precedence over the environment, whichever of them has the earlier name."""
    option, variable = names
    monkeypatch.setenv(f"FMNIST_TRAINING__{variable.upper()}", "0.2")
    context = context_of(f"--training.{option}", "0.3")
    assert context.settings.training.warmup_fraction == 0.3


def test_a_wrong_value_by_an_earlier_name_is_told_by_the_current_one() -> None:
    assert faults("--training.warmup", "2") == [
        "training.warmup_fraction: '2' was given; allowed: number from 0 below 1"
    ]


@every_setting
def test_a_default_can_be_given_as_it_is_shown(setting: Setting) -> None:
    settings = load_named_settings({setting.name: setting.default})
    assert value_of(settings, setting.name) == value_of(Settings(), setting.name)


def test_no_pauses_can_be_written() -> None:
    assert load_named_settings({"data.retry_pauses": ""}).data.retry_pauses == ()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--training.epoch", "5"], ["--training.epoch:", "did you mean --training.epochs?"]),
        (["--training.epoch=5"], ["--training.epoch:", "did you mean --training.epochs?"]),
        (["--min_accuracy", "0.9"], ["--min_accuracy:", "did you mean --gate.min_accuracy?"]),
        (["--Training.Epochz", "5"], ["did you mean --training.epochs?"]),
        (["--epochs", "5"], ["--epochs:", "did you mean --training.epochs?"]),
        (["--seed", "5"], ["did you mean --split.seed or --training.seed?"]),
        (["--qqq", "5"], ["--qqq:", "no such option", "--help"]),
        (["--training.epochs", "many"], ["training.epochs:", "'many'", "integer from 1 to 10000"]),
        (["--training.epochs", "1.5"], ["training.epochs:", "'1.5'", "integer"]),
        (["--training.epochs", ""], ["training.epochs:", "''", "integer"]),
        (["--training.epochs", "0"], ["training.epochs:", "'0'", "from 1 to 10000"]),
        (["--training.learning_rate", "0"], ["training.learning_rate:", "above 0 to 1"]),
        (["--training.learning_rate", "-1"], ["training.learning_rate:", "'-1'"]),
        (["--training.warmup_fraction", "1"], ["training.warmup_fraction:", "from 0 below 1"]),
        (["--gate.min_accuracy", "nan"], ["gate.min_accuracy:", "'nan'", "from 0 to 1"]),
        (["--gate.lower_bound", "maybe"], ["gate.lower_bound:", "'maybe'", "true or false"]),
        (["--model.dropout", "0.1,x,0"], ["model.dropout:", "'x'", "0 to 0.9"]),
        (["--model.hidden", "8,8"], ["model.dropout", "3 rates", "2 hidden layers"]),
        (["--data.class_names", "a"], ["data.class_names:", "2 to 256 values"]),
        (["--data.class_names", "a,\x1b[31m"], ["data.class_names:", "control characters"]),
        (["--data.retry_pauses", "1,1,1,1,1,1,1,1,1,1,1"], ["data.retry_pauses:", "0 to 10"]),
        (["--store.url", "http://host"], ["store.url:", "'http://host'", "AWS_ENDPOINT_URL_S3"]),
        (["--store.url", "x" * 2000], ["store.url:", "2000 characters"]),
        (["--training.epochs"], ["--training.epochs needs a value"]),
        (["train"], ["train: unexpected argument", "--name VALUE"]),
        (["--training.epochs", "5", "7"], ["7: unexpected argument"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_fault_is_one_line_that_says_what_is_wrong(
    arguments: list[str], parts: list[str]
) -> None:
    lines = faults(*arguments)
    assert len(lines) == 1
    assert len(lines[0]) < 300
    for part in parts:
        assert part in lines[0]


def test_all_wrong_values_are_told_at_once() -> None:
    lines = faults("--training.epochs", "0", "--gate.min_accuracy", "2", "--split.seed", "1")
    assert [line.partition(":")[0] for line in lines] == ["training.epochs", "gate.min_accuracy"]


def test_wrong_names_and_wrong_values_are_told_at_once() -> None:
    lines = faults("--training.epoch", "5", "--gate.mn_accuracy", "1", "--split.seed", "x")
    assert {line.partition(":")[0] for line in lines} == {
        "--training.epoch", "--gate.mn_accuracy", "split.seed",
    }  # fmt: skip


FAULTS_OUTSIDE = {
    "wrong value": (
        "TRAINING__EPOCHS",
        "training.epochs: '0' was given; allowed: integer from 1 to 10000",
    ),
    "wrong name": (
        "TRAINING__PATIENCES",
        "training.patiences: no such setting; did you mean training.patience?",
    ),
    "wrong section": (
        "TRAINNG__EPOCHS",
        "trainng.epochs: no such setting; did you mean training.epochs?",
    ),
    "no section": ("EPOCHS", "epochs: no such setting; did you mean training.epochs?"),
}


@pytest.mark.parametrize(("variable", "line"), FAULTS_OUTSIDE.values(), ids=FAULTS_OUTSIDE)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_fault_outside_the_command_line_names_the_setting_too(
    place: str, variable: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if place == ".env":
        (tmp_path / ".env").write_text(f"FMNIST_{variable}=0\n")
    else:
        monkeypatch.setenv(f"FMNIST_{variable}", "0")
    (told,) = faults()
    assert told == line


def test_a_broken_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section's variable that is no JSON is told by its name, without our code's own names."""
    monkeypatch.setenv("FMNIST_TRAINING", "epochs=5")
    (line,) = faults()
    assert "FMNIST_TRAINING" in line
    assert "_StrictEnvironment" not in line


def test_a_dotenv_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00FMNIST")
    assert ".env" in faults()[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--store.url", "s3://KEY:TOPSECRET@bucket/prefix"],
        ["--store.url", "S3://KEY:TOPSECRET@bucket"],
        ["--store.url", "http://KEY:TOPSECRET@host"],
        ["--store.url", "https:/KEY:TOPSECRET@host"],
        ["--store.url", "s3://KEY:TOP/TOPSECRET@bucket"],
        ["--data.source", "https://user:p@TOPSECRET@host/x"],
        ["--data.source", "https://user:TOPSECRET@host/\n"],
        ["--data.source", "https://user:" + "x" * 150 + "TOPSECRET@[host"],
        ["--data.source", "https://host/x?X-Amz-Signature=TOPSECRET"],
        ["--data.mirrors", "https://a.org,https://user:TOPSECRET@b.org"],
        ["--training.epochs", "s3://KEY:TOPSECRET@bucket"],
        ["--store.ulr", "s3://KEY:TOPSECRET@bucket"],
        ["--store.ulr=s3://KEY:TOPSECRET@bucket"],
        ["s3://KEY:TOPSECRET@bucket"],
    ],
    ids=lambda value: " ".join(value).replace("\n", "%0A"),
)
def test_credentials_in_a_location_are_never_repeated(arguments: list[str]) -> None:
    message = "\n".join(faults(*arguments))
    assert "TOPSECRET" not in message
    assert "KEY" not in message


def output_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that trains nothing prints."""
    assert run(training_app(no_job), words, json=False) == ExitCode.OK
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains_every_setting_and_exit_code(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help has each setting's meaning, range, default and variable, in a panel by section.

    It needs no valid settings.
    """
    monkeypatch.setenv("FMNIST_SPLIT__SEED", "bad")
    monkeypatch.setenv("COLUMNS", "500")
    text = output_of("--training.epochs", "bad", flag, capsys=capsys)
    assert "python flows/train.py" in text
    for setting in all_settings():
        panel = text.partition(f"─ {setting.name.partition('.')[0]} ─")[2].partition("╰")[0]
        entry = panel.partition(f"--{setting.name} ")[2].partition("--")[0]
        shown = f"{setting.allowed} | default {setting.default} | {setting.variable} "
        assert f"{setting.meaning} " in entry and shown in entry, setting.name
    for code in ExitCode:
        assert f"  {int(code):3}  {code.meaning}" in text.splitlines()


def shown(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What `--show-settings` prints: each setting's line after its name."""
    text = output_of("--show-settings", *words, capsys=capsys)
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def test_show_settings_has_value_and_origin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("FMNIST_SPLIT__SEED=3\nFMNIST_TRAINING__SEED=3\n")
    monkeypatch.setenv("FMNIST_TRAINING__SEED", "4")
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "4")
    monkeypatch.setenv("FMNIST_TRAINING__ERASED", "4")
    monkeypatch.setenv("FMNIST_GATE", '{"min_accuracy": 0.5}')
    lines = shown(
        "--training.epochs", "5", "--model.hidden", "9,8,7", "--training.warmup", "0", capsys=capsys
    )
    assert re.fullmatch(r"5 +command line", lines["training.epochs"])
    assert re.fullmatch(r"9,8,7 +command line", lines["model.hidden"])
    assert re.fullmatch(r"0.0 +command line", lines["training.warmup_fraction"])
    assert re.fullmatch(r"4 +environment, FMNIST_TRAINING__SEED", lines["training.seed"])
    assert re.match(r"4 +environment", lines["training.max_erase_size"])
    assert re.match(r"0.5 +environment", lines["gate.min_accuracy"])
    assert re.fullmatch(r"3 +\.env", lines["split.seed"])
    assert re.fullmatch(r"50 +default", lines["training.patience"])
    assert re.fullmatch(r"none +default", lines["store.work"])
    assert lines.keys() == {setting.name for setting in all_settings()}


def test_show_settings_cuts_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A long value is shown complete and on one line, since a user may want to copy it."""
    assert ",".join(Settings().data.mirrors) in shown(capsys=capsys)["data.mirrors"]


def test_a_failure_ends_with_a_line_of_its_kind_run_and_message() -> None:
    """The last line names the run, if there is one, and says how many lines stand above it."""
    error = DataError("no mirror\n  one\n  two")
    assert failure_line(error) == "failed  -  data: no mirror (and 2 more lines above)"
    error.run_id = "an-id"
    assert failure_line(error).startswith("failed  an-id  data: ")
