"""A further kind of store needs its class and one line in `STORES`, nothing else."""

from pathlib import Path

import pytest

from fmnist.data.fetch import check_source, fetch_files
from fmnist.data.records import FILES
from fmnist.locations import STORES
from fmnist.settings import DataSettings, StoreSettings
from fmnist.store.base import Store, open_store
from tests.support.memory import MemoryStore
from tests.support.mirrors import OWN, in_cache, read, with_sums

OBJECTS: dict[str, bytes] = {}


class SharedStore(MemoryStore):
    """A store in memory, opened by its URL; all of them share their objects."""

    def __init__(self, url: str, *, single_publisher: bool = False) -> None:
        super().__init__()
        self.url = url
        self.objects = OBJECTS

    def location(self, key: str) -> str:
        return f"{self.url}/{key}"


@pytest.fixture(autouse=True)
def made_up_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is registered by its one line."""
    OBJECTS.clear()
    monkeypatch.setitem(STORES, "mem", f"{__name__}:SharedStore")


def test_the_settings_accept_its_scheme() -> None:
    """Both the store and the data may be at an address of the new kind."""
    assert StoreSettings(url="mem://bucket/runs/").url == "mem://bucket/runs"
    assert DataSettings(source="mem://bucket/data").source == "mem://bucket/data"


def test_it_is_opened_by_its_scheme() -> None:
    store: Store = open_store("mem://bucket/runs", single_publisher=True)
    assert isinstance(store, SharedStore)
    store.put_if_absent("runs/a", b"1")
    assert open_store("mem://bucket/runs").read("runs/a") == b"1"
    assert store.location("runs/a") == "mem://bucket/runs/runs/a"


def test_the_data_are_read_through_it(tmp_path: Path) -> None:
    OBJECTS.update(with_sums(OWN))
    data = DataSettings(source="mem://bucket/data", cache=tmp_path / "cache")
    assert "mem://bucket/data has the files that its SHA256SUMS lists" in check_source(data)
    assert in_cache(tmp_path / "cache") == set()
    assert read(fetch_files(data)) == {name: OWN[name] for name in FILES}
    assert in_cache(tmp_path / "cache") == set(OWN.values())
