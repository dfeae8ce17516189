"""The settings: where their values come from, and which values are refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from fmnist.settings import (
    DataSettings,
    ModelSettings,
    Settings,
    StoreSettings,
    non_defaults,
    sections,
)


def test_defaults_are_valid() -> None:
    """The defaults pass the same checks as any value that a user gives."""
    settings = Settings()
    assert Settings.model_validate(settings.model_dump()) == settings
    assert settings.data.source == "mirrors"
    assert settings.store.url == "store"
    assert settings.gate.min_accuracy == 0.9


@pytest.mark.parametrize("section", ["", *sections()])
def test_settings_are_frozen(section: str) -> None:
    settings = Settings()
    owner: Any = getattr(settings, section) if section else settings
    name = next(iter(type(owner).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(owner, name, getattr(owner, name))


def test_caller_comes_before_environment_before_dotenv_before_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Settings().training.epochs == 120
    (tmp_path / ".env").write_text("FMNIST_TRAINING__EPOCHS=3\n")
    assert Settings().training.epochs == 3
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "4")
    assert Settings().training.epochs == 4
    assert Settings(training={"epochs": 5}).training.epochs == 5  # type: ignore[arg-type]


def test_a_partial_value_keeps_its_siblings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A caller who sets one value of a section leaves the others to the sources below."""
    (tmp_path / ".env").write_text("FMNIST_TRAINING__BATCH_SIZE=64\nFMNIST_GATE__LOWER_BOUND=1\n")
    monkeypatch.setenv("FMNIST_TRAINING__SEED", "7")
    settings = Settings(training={"epochs": 5})  # type: ignore[arg-type]
    assert settings.training.epochs == 5
    assert settings.training.seed == 7
    assert settings.training.batch_size == 64
    assert settings.training.patience == 50
    assert settings.gate.lower_bound is True


def test_foreign_names_in_dotenv_are_not_ours_to_judge(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "PREFECT_API_URL=http://127.0.0.1:4200/api\nAWS_ACCESS_KEY_ID=x\nTRAINING__EPOCHS=1\n"
        "FMNIST_TRAINING__EPOCHS=9\n"
    )
    assert Settings().training.epochs == 9


def test_names_are_read_in_either_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("fmnist_training__epochs", "6")
    assert Settings().training.epochs == 6


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section, model in sections().items() for name in model.model_fields],
)
def test_every_setting_has_a_meaning(section: str, name: str) -> None:
    description = sections()[section].model_fields[name].description
    assert description and description[0].isupper() and description.endswith(".")


@pytest.mark.parametrize(
    "url", ["store", "/var/lib/fmnist", "~/models", "../beside", "s3://bucket", "s3://bucket/a/b"]
)
def test_folders_and_buckets_are_taken_as_a_store(url: str) -> None:
    assert StoreSettings(url=url).url == url


def test_a_slash_at_the_end_of_a_location_means_nothing() -> None:
    assert StoreSettings(url="s3://bucket/a/").url == "s3://bucket/a"
    assert DataSettings(source="https://example.org/data/").source == "https://example.org/data"


REFUSED = {
    "empty": ("", "empty"),
    "blank": ("  ", "empty"),
    "newline": ("s3://bucket/a\nb", "control"),
    "zero byte": ("folder\0", "control"),
    "escape": ("folder\x1b[31m", "control"),
    "tab and return": ("s3://bucket/\ta\r", "control"),
    "credentials": ("s3://KEY:SECRET@bucket/a", "credentials"),
    "user only": ("s3://user@bucket/a", "credentials"),
    "secret with a slash": ("s3://KEY:SEC/RET@bucket/a", "credentials"),
    "unknown scheme": ("ftp://example.org/a", "unknown scheme 'ftp://'"),
    "file scheme": ("file:///tmp/a", "unknown scheme"),
    "upper-case scheme": ("S3://bucket/a", "unknown scheme 'S3://'"),
    "no bucket": ("s3://", "names no bucket"),
    "no bucket, but a prefix": ("s3:///prefix", "names no bucket"),
    "parent": ("s3://bucket/../other", r"\.\."),
    "home of nobody": ("~nobody-of-this-name/models", "unknown user"),
    "parent at the end": ("s3://bucket/a/..", r"\.\."),
    "delete character": ("folder\x7f", "control"),
    "one slash too few": ("s3:/bucket/prefix", "one slash too few"),
    "query": ("s3://bucket/a?versionId=1", r"\?"),
    "fragment": ("s3://bucket/a#b", "#"),
    "half an address": ("s3://[bucket", "Invalid IPv6 URL"),
}


@pytest.mark.parametrize(("location", "reason"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("where", ["source", "mirrors", "url"])
def test_a_location_that_cannot_be_meant_is_refused(where: str, location: str, reason: str) -> None:
    section = StoreSettings if where == "url" else DataSettings
    with pytest.raises(ValidationError, match=reason):
        section(**{where: [location] if where == "mirrors" else location})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/bucket", "https://s3.example.org"])
def test_a_web_address_is_no_store(url: str) -> None:
    """A web address is refused as a store, with the variable that a server's address goes into."""
    with pytest.raises(ValidationError, match="AWS_ENDPOINT_URL_S3"):
        StoreSettings(url=url)
    assert DataSettings(source=url).source == url


def test_lists_are_written_with_commas_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_MODEL__HIDDEN", "32, 16")
    monkeypatch.setenv("FMNIST_MODEL__DROPOUT", "0.5,0")
    monkeypatch.setenv("FMNIST_DATA__MIRRORS", "https://a.example.org , http://b.example.org/x")
    monkeypatch.setenv("FMNIST_DATA__RETRY_PAUSES", "1")
    settings = Settings()
    assert settings.model.hidden == (32, 16)
    assert settings.model.dropout == (0.5, 0.0)
    assert settings.data.mirrors == ("https://a.example.org", "http://b.example.org/x")
    assert settings.data.retry_pauses == (1.0,)


def test_an_empty_list_of_pauses_means_no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_STORE__RETRY_PAUSES", "")
    assert Settings().store.retry_pauses == ()


@pytest.mark.parametrize("dropout", [(0.1,), (0.1, 0.1, 0.1)])
def test_each_hidden_layer_has_its_own_dropout_rate(dropout: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=f"{len(dropout)} rates for 2 hidden layers"):
        ModelSettings(hidden=(64, 32), dropout=dropout)
    assert ModelSettings(hidden=(64, 32), dropout=(0.1, 0.2)).dropout == (0.1, 0.2)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("training", "epochs", 2.5),
        ("training", "learning_rate", float("nan")),
        ("gate", "min_accuracy", 1.01),
        ("split", "seed", 2**32),
        ("split", "validation", 0),
        ("model", "dropout", (0.1, 0.1, 0.91)),
        ("data", "class_names", tuple(map(str, range(257)))),
        ("training", "max_erase_size", 257),
        ("data", "mirrors", ()),
        ("store", "retry_pauses", (1.0,) * 11),
        ("store", "url", "s3://bucket/" + "x" * 1000),
        ("data", "timeout", float("inf")),
    ],
)
def test_a_value_out_of_range_is_refused(section: str, name: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**{section: {name: value}})  # type: ignore[arg-type]
    assert caught.value.errors()[0]["loc"][:2] == (section, name)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (",", "distinct and not empty"),
        ("x,y,x", "distinct and not empty"),
        ("x,y\nz", "control characters"),
        ("x,\x1b[31my", "control characters"),
    ],
)
def test_class_names_must_tell_the_classes_apart(names: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DataSettings(class_names=names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (DataSettings, "class_names", ("0", "1")),
        (DataSettings, "class_names", tuple(map(str, range(256)))),
        (DataSettings, "retry_pauses", (1.0,) * 10),
        (StoreSettings, "retry_pauses", (1.0,) * 10),
    ],
)
def test_a_list_may_be_as_short_and_as_long_as_is_said(
    kind: type[BaseModel], name: str, value: object
) -> None:
    """The limits are 2 and 256 for the classes, and 10 for the pauses."""
    assert getattr(kind(**{name: value}), name) == value


def test_only_what_differs_from_the_defaults_is_a_deviation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However it was set, a value that is not the default is named, and no other."""
    monkeypatch.setenv("FMNIST_TRAINING__EPOCHS", "3")
    settings = Settings.model_validate({"gate": {"min_accuracy": 0.9}, "split": {"seed": 1}})
    assert non_defaults(settings) == {"training.epochs": 3, "split.seed": 1}


def test_descriptions_have_no_markup() -> None:
    """Prefect's form would render it, while help and tables show it as it is written."""
    for section in sections().values():
        for name, field in section.model_fields.items():
            assert not set("`*<>") & set(str(field.description)), name
