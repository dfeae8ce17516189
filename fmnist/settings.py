"""Every setting, defined once: its name, type, range, default and meaning.

`Settings` is one frozen tree with a section for each stage. A value comes from the caller (command
line or flow parameter), else the environment (`FMNIST_TRAINING__EPOCHS`), else a `.env` file in the
current folder, else the defaults below. They are read when a `Settings` is made, never at import.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from fmnist.locations import check_location, check_mirror, check_store_url, expand_home

ENV_PREFIX = "FMNIST_"
MIRRORS = "mirrors"
# Earlier names of settings of the training, still accepted from every source.
RENAMED = {"warmup": "warmup_fraction", "shifted": "shift_fraction", "erased": "max_erase_size"}


def _split_commas(value: object) -> object:
    """Let a list be written as `0.1,0.05,0` on a command line or in the environment."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _none_in_words(value: object) -> object:
    """Let an optional value be written as `none`, to get its default."""
    return None if value in ("none", "") else value


def _checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Accept names that can be printed and told apart."""
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("class names must be distinct and not empty")
    if not all(name.isprintable() for name in names):
        raise ValueError("class names must not contain control characters")
    return names


Item = TypeVar("Item")
CommaList = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split_commas)]
Pauses = CommaList[Annotated[float, Field(ge=0, le=3600)]]
OptionalFolder = Annotated[
    Path | None, BeforeValidator(_none_in_words), AfterValidator(expand_home)
]


class _Section(BaseModel):
    """What all sections share: frozen, described below each field, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataSettings(_Section):
    """Where the four data files come from."""

    source: Annotated[str, AfterValidator(check_location)] = MIRRORS
    """Where the files are: 'mirrors', a folder, an http(s):// address or s3://bucket/prefix."""
    mirrors: CommaList[Annotated[str, AfterValidator(check_mirror)]] = Field(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        ),
        min_length=1,
    )
    """Addresses of the official files, tried in order when the source is 'mirrors'."""
    cache: OptionalFolder = None
    """Folder for verified downloads; none uses the user's cache folder."""
    timeout: float = Field(30.0, gt=0, le=600)
    """Longest wait for a response from a server, in seconds."""
    retry_pauses: Pauses = Field((5.0, 30.0), max_length=10)
    """Delays between retries of the fetch, in seconds; one retry per value."""
    class_names: Annotated[CommaList[str], AfterValidator(_checked_names)] = Field(
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
         "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        min_length=2,
        max_length=256,
    )  # fmt: skip
    """Names of the classes, in the order of their labels, which count from 0."""
    max_leaked: float = Field(0.01, ge=0, le=1)
    """Largest share of the test images that may be among the training images too."""
    notable_share_change: float = Field(0.1, ge=0, le=1)
    """Flag a change in class shares since the champion's data above this Cramér's V."""
    notable_brightness_change: float = Field(0.1, ge=0, le=1)
    """Flag a change in brightness since the champion's data above this Kolmogorov-Smirnov D."""


class SplitSettings(_Section):
    """How the training images are divided into training and validation."""

    validation: float = Field(0.2, ge=0.01, le=0.5)
    """Share of the training images kept for validation."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the stratified split."""


class ModelSettings(_Section):
    """The network: hidden blocks of Dense, BatchNormalization, LeakyReLU and Dropout."""

    hidden: CommaList[Annotated[int, Field(ge=1, le=4096)]] = Field(
        (256, 128, 64), min_length=1, max_length=8
    )
    """Units in each hidden layer."""
    dropout: CommaList[Annotated[float, Field(ge=0, le=0.9)]] = Field(
        (0.1, 0.05, 0.02), min_length=1, max_length=8
    )
    """Dropout rate after each hidden layer, one per layer."""
    leaky_slope: float = Field(0.1, ge=0, le=1)
    """LeakyReLU's slope for negative inputs."""

    @model_validator(mode="after")
    def _one_rate_for_each_layer(self) -> Self:
        if len(self.hidden) != len(self.dropout):
            raise ValueError(
                f"model.dropout has {len(self.dropout)} rates for {len(self.hidden)} hidden layers:"
                " give one rate per layer"
            )
        return self


class TrainingSettings(_Section):
    """How the network is trained. The defaults were chosen on validation data alone."""

    when: Literal["always", "changed"] = "always"
    """Train always, or only if the data, settings, code or versions have changed (changed)."""
    epochs: int = Field(120, ge=1, le=10_000)
    """Maximum number of epochs."""
    batch_size: int = Field(2048, ge=8, le=65_536)
    """Images per training step."""
    learning_rate: float = Field(0.012, gt=0, le=1)
    """Adam's peak learning rate: reached after the warm-up, followed by cosine decay."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the steps during which the learning rate warms up."""
    weight_decay: float = Field(0.1, ge=0, le=10)
    """Adam's decoupled weight decay, for Dense kernels only."""
    shift_fraction: float = Field(0.5, ge=0, le=1)
    """Share of each batch to shift by one pixel."""
    max_erase_size: int = Field(6, ge=0, le=256)
    """Longest side, in pixels, of the rectangle erased from each image; 0 disables it."""
    patience: int = Field(50, ge=1, le=10_000)
    """Stop after this many epochs without a better validation accuracy."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the weights, shuffling and augmentation."""
    deterministic: bool = True
    """Give the same weights, to the byte, for the same seed and machine; a few percent slower."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the matrix products while training: auto is bfloat16 where the CPU has Intel's AMX."""


class GateSettings(_Section):
    """What a model must reach on the test set to be promoted."""

    min_accuracy: float = Field(0.90, ge=0, le=1)
    """Test accuracy a model must reach to be promoted."""
    lower_bound: bool = False
    """Also require the lower bound of the 95 % confidence interval to reach min_accuracy."""
    champion: Literal["off", "not_worse", "better"] = Field(
        "off",
        description="Comparison with the champion on the same test images: none (off), must not be "
        "significantly worse (not_worse), or must be significantly better (better).",
    )
    max_class_drop: Annotated[float | None, BeforeValidator(_none_in_words)] = Field(
        None, ge=0, le=1
    )
    """Largest allowed drop in any class's recall against the champion; none disables the check."""
    min_comparable: Annotated[int | None, BeforeValidator(_none_in_words)] = Field(
        None,
        ge=1,
        description="Fewest test images, new to both models, on which the comparison with the "
        "champion decides; none means 1,000, or half of a test set of less than 2,000.",
    )


class StoreSettings(_Section):
    """Where runs and the champion are kept."""

    url: Annotated[str, AfterValidator(check_store_url)] = Field("store", max_length=1000)
    """Where runs are published: a folder, or s3://bucket/prefix."""
    single_publisher: bool = False
    """Accept a bucket that ignores conditional writes; safe only if one job publishes there."""
    work: OptionalFolder = None
    """Folder for runs in the making or not yet published; none uses the user's cache folder."""
    retry_pauses: Pauses = Field((2.0, 10.0, 30.0), max_length=10)
    """Delays between retries of the publication, in seconds; one retry per value."""


class _StrictEnvironment(EnvSettingsSource):
    """The environment, where an unknown name with our prefix is a fault too."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        prefix = self._apply_case_sensitive(self.env_prefix)
        for name in self.env_vars:
            if name.startswith(prefix):
                section = name.removeprefix(prefix).partition("__")[0]
                if section not in self.settings_cls.model_fields:
                    found[name.removeprefix(prefix)] = self.env_vars[name]
        return found


def _current_names(source: PydanticBaseSettingsSource) -> Callable[[], dict[str, Any]]:
    """A source whose settings go by their current names, so that its precedence holds for each."""

    def read() -> dict[str, Any]:
        tree = source()
        if not isinstance(given := tree.get("training"), Mapping):
            return tree
        earlier = {new: given[old] for old, new in RENAMED.items() if old in given}
        current = {name: value for name, value in given.items() if name not in RENAMED}
        return tree | {"training": earlier | current}

    return read


class Settings(BaseSettings):
    """All settings of one run."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        dotenv_filtering="match_prefix",
        nested_model_default_partial_update=True,
    )

    data: DataSettings = Field(DataSettings(), description="Where the data comes from.")
    split: SplitSettings = Field(SplitSettings(), description="Training and validation.")
    model: ModelSettings = Field(ModelSettings(), description="The network.")
    training: TrainingSettings = Field(TrainingSettings(), description="How to train.")
    gate: GateSettings = Field(GateSettings(), description="What a model must reach.")
    store: StoreSettings = Field(StoreSettings(), description="Where runs are kept.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        """Order the sources: caller, environment, `.env`."""
        sources = init_settings, _StrictEnvironment(settings_cls), dotenv_settings
        return tuple(_current_names(source) for source in sources)


def read_sources() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the environment sets, and what `.env` sets, as trees of raw values."""
    sources = _StrictEnvironment(Settings), DotEnvSettingsSource(Settings)
    environment, dotenv = (_current_names(source)() for source in sources)
    return environment, dotenv


def sections() -> Mapping[str, type[BaseModel]]:
    """The sections of the tree by name, in the order of the stages."""
    return {name: type(field.default) for name, field in Settings.model_fields.items()}


def non_defaults(settings: Settings) -> Mapping[str, Any]:
    """The settings that differ from their defaults, by name, with their values."""
    return {
        f"{section}.{name}": getattr(getattr(settings, section), name)
        for section, kind in sections().items()
        for name, field in kind.model_fields.items()
        if getattr(getattr(settings, section), name) != field.default
    }
