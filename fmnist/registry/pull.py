"""Copy the champion from a store into a folder."""

import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fmnist.errors import SettingsError, writing
from fmnist.registry.champion import read_champion
from fmnist.registry.records import ChampionRecord
from fmnist.store.base import Store
from fmnist.store.durable import flush_folder, write_flushed


@dataclass(frozen=True)
class Pulled:
    """A champion in a folder of this machine.

    Attributes:
        champion: the champion record.
        folder: where the files are.
        files: their names.
        new: whether the files were copied now; otherwise they were there already.
    """

    champion: ChampionRecord
    folder: Path
    files: tuple[str, ...]
    new: bool


def pull_champion(store: Store, folder: Path) -> Pulled:
    """Copy the champion's files into a new folder, all of them or none.

    A folder that exists and holds something else is a `SettingsError`.
    """
    champion, files = read_champion(store)
    pulled = Pulled(champion, folder, tuple(sorted(files)), new=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    with writing(folder, "name another folder"), ExitStack() as at_end:
        at_end.callback(shutil.rmtree, temporary, ignore_errors=True)
        if folder.exists() or folder.is_symlink():
            if _holds(folder, files):
                return Pulled(champion, folder, pulled.files, new=False)
            raise SettingsError(
                f"{folder} exists already and is not a complete copy of the champion, "
                f"{champion.run_id}; name another folder, or move it away"
            )
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_flushed(temporary / name, content)
        for path in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            flush_folder(path)
        temporary.rename(folder)
        flush_folder(folder.parent)
    return pulled


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == content for name, content in files.items())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
