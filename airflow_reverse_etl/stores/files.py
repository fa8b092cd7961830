"""Small files under the state URL: a folder, or any object storage that Delta Lake tables can live in."""

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
    """Files by path relative to ``url``; folders come and go with their files.

    :param url: a folder's path, ``file://``, or an object storage URL such as ``s3://bucket/prefix``, ``gs://``, ``az://``.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    """

    def __init__(self, url: str, storage_options: Mapping[str, str] | None = None) -> None:
        scheme, netloc, path, *_ = urlsplit(url)
        if scheme not in ("", "file") and not netloc:
            raise ConfigurationError("the state URL names no bucket", todo="write it as s3://bucket/prefix", url=url)
        self._root = None if scheme not in ("", "file") else Path(unquote(path) if scheme else url).absolute()
        self.url = str(self._root) if self._root else url.rstrip("/")
        self.storage_options = dict(storage_options or {})
        self._remote: FileSystem | None = None

    @property
    def root(self) -> Path | None:
        """The folder, or None where the files are in object storage."""
        return self._root

    def filesystem(self) -> FileSystem:
        """The same files for pyarrow; paths are relative to the URL."""
        from pyarrow import fs

        if self._root:
            return fs.SubTreeFileSystem(str(self._root), fs.LocalFileSystem())
        if self._remote is None:
            with _reachable(self.url):
                self._remote = fs.PyFileSystem(_object_storage(self.url, self.storage_options))
        return self._remote

    def child(self, path: str) -> str:
        """The absolute URL, or local path, of something under this URL."""
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """The file's content; None when it is absent."""
        with _reachable(self.url):
            try:
                if self._root:
                    return (self._root / path).read_bytes()
                with self.filesystem().open_input_file(path) as file:
                    return bytes(file.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with _reachable(self.url):
            if self._root:
                return (self._root / path).is_file()
            from pyarrow import fs

            return bool(self.filesystem().get_file_info(path).type == fs.FileType.File)

    def write(self, path: str, data: bytes) -> None:
        """Durable when it returns, and atomic: readers and crashes see the old content or the new one."""
        with _reachable(self.url):
            if self._root:
                _replace(self._root / path, data)
                return
            with self.filesystem().open_output_stream(path) as file:  # an object appears when its upload completes
                file.write(data)

    def list(self, folder: str) -> list[str]:
        """Names directly in the folder, sorted; empty when there is no such folder."""
        with _reachable(self.url):
            if self._root:
                place = self._root / folder
                names = [path.name for path in place.iterdir()] if place.is_dir() else []
                return sorted(name for name in names if not name.startswith(_TEMPORARY))
            from pyarrow import fs

            selector = fs.FileSelector(folder, allow_not_found=True)
            return sorted(
                {info.path.rstrip("/").rsplit("/", 1)[-1] for info in self.filesystem().get_file_info(selector)}
            )

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything in it; absent ones are no error."""
        from pyarrow import fs

        with _reachable(self.url):
            if self._root:
                _remove(self._root / path)
                return
            found = self.filesystem().get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            for info in found:
                if info.type == fs.FileType.File:
                    self.filesystem().delete_file(info.path)
            if self.filesystem().get_file_info(path).type == fs.FileType.File:
                self.filesystem().delete_file(path)


_TEMPORARY = ".writing-"


def _object_storage(url: str, options: dict[str, str]) -> Any:
    """deltalake's object storage for pyarrow, writing repaired: pyarrow hands it buffers, it takes only bytes."""
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
    """Storage errors in our words. The remote's text names buckets and paths, never keys."""
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
