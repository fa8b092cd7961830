"""Small files under the state URL: a folder, or any object storage that Delta Lake supports."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class StateFiles:
    """Files by path relative to ``url``. Folders are created as needed.

    :param url: a folder's path, ``file://``, or an object storage URL such as ``s3://bucket/prefix``, ``gs://``, ``az://``.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None) -> None:
        scheme, netloc, path, *_ = urlsplit(url)
        is_local = scheme in ("", "file")
        if not is_local and not netloc:
            raise ConfigurationError("the state URL has no bucket", todo="write it as s3://bucket/prefix", url=url)
        local_path = unquote(path) if scheme else url
        self._root = Path(local_path).absolute() if is_local else None
        self.url = str(self._root) if self._root else url.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self._remote: FileSystem | None = None

    @property
    def root(self) -> Path | None:
        """The folder, or None if the files are in object storage."""
        return self._root

    def filesystem(self) -> FileSystem:
        """Return a pyarrow filesystem of these files; paths are relative to the URL."""
        from pyarrow import fs

        if self._root:
            return fs.SubTreeFileSystem(str(self._root), fs.LocalFileSystem())
        if self._remote is None:
            with _reachable(self.url):
                self._remote = fs.PyFileSystem(_object_storage(self.url, self.storage_options))
        return self._remote

    def child(self, path: str) -> str:
        """Return the absolute URL, or local path, of a path under this URL."""
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """Return the file's content; None if the file does not exist."""
        with _reachable(self.url):
            try:
                if self._root:
                    return (self._root / path).read_bytes()
                with self.filesystem().open_input_file(path) as file:
                    return bytes(file.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def exists(self, path: str) -> bool:
        """Return whether the file exists."""
        with _reachable(self.url):
            if self._root:
                return (self._root / path).is_file()
            from pyarrow import fs

            return bool(self.filesystem().get_file_info(path).type == fs.FileType.File)

    def write(self, path: str, data: bytes) -> None:
        """Write the file durably and atomically: readers and crashes see the old content or the new one."""
        with _reachable(self.url):
            if self._root:
                _replace(self._root / path, data)
                return
            with self.filesystem().open_output_stream(path) as file:  # an object appears when its upload completes
                file.write(data)

    def list(self, folder: str) -> list[str]:
        """Return the names directly in the folder, sorted; an empty list if the folder does not exist."""
        with _reachable(self.url):
            if self._root:
                directory = self._root / folder
                if not directory.is_dir():
                    return []
                names = [path.name for path in directory.iterdir()]
                return sorted(name for name in names if not name.startswith(_TEMPORARY))
            from pyarrow import fs

            found = self.filesystem().get_file_info(fs.FileSelector(folder, allow_not_found=True))
            return sorted({info.path.rstrip("/").rsplit("/", 1)[-1] for info in found})

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything in it. A missing path is not an error."""
        from pyarrow import fs

        with _reachable(self.url):
            if self._root:
                _remove(self._root / path)
                return
            # The path may be a folder: its files first. Then it may be a file.
            found = self.filesystem().get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            for info in found:
                if info.type == fs.FileType.File:
                    self.filesystem().delete_file(info.path)
            if self.filesystem().get_file_info(path).type == fs.FileType.File:
                self.filesystem().delete_file(path)


_TEMPORARY = ".writing-"


def _object_storage(url: str, options: dict[str, str]) -> Any:
    """Return deltalake's object storage for pyarrow, with writing fixed: deltalake accepts only bytes, not buffers."""
    import pyarrow as pa
    from deltalake.fs import DeltaStorageHandler

    class Writer(io.RawIOBase):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return int(self._stream.write(bytes(data)))

        def close(self) -> None:
            if not self.closed:
                self._stream.close()
            super().close()

    class Handler(DeltaStorageHandler):
        def open_output_stream(self, path: str, metadata: Any = None) -> pa.PythonFile:
            return pa.PythonFile(Writer(self._handler.open_output_stream(path, metadata)), mode="w")

    return Handler(url, options)


@contextlib.contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Raise storage errors as UnreachableError. The remote's text names buckets and paths, never keys."""
    try:
        yield
    except OSError as error:
        raise UnreachableError(
            f"the state storage failed: {error}",
            todo="check that [reverse_etl] state_url exists and that state_conn_id may read and write there",
            url=url,
        ) from error


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
