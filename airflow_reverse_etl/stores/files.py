"""Small files under the state URL: a folder, or any object storage that Delta Lake supports."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from airflow_reverse_etl.errors import ConfigurationError, UnreachableError
from airflow_reverse_etl.object_storage import error_text, open_storage, storage_errors
from airflow_reverse_etl.worker_disk import is_full

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import ObjectStoreMethods

#: Name of a file that proves that an object storage does not create a file twice.
_PROOF = "created-once.txt"
_PROOF_TEXT = b"Every worker tries to create this file again before it relies on the storage to refuse that.\n"


class StateFiles:
    """Files by path relative to ``url``. Folders are created as needed.

    :param url: a folder's path, ``file://``, or an object storage URL such as ``s3://bucket/prefix``, ``gs://``, ``az://``.
    :param storage_options: credentials and settings of the object storage, as deltalake takes them.
    :raises UnreachableError: from every method, when the storage does not answer or refuses.
    :raises ConfigurationError: from every method, when the object storage cannot be opened with these options.
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
        self._opened: ObjectStoreMethods | None = None
        self._is_proven = False

    @property
    def root(self) -> Path | None:
        """The folder, or None if the files are in object storage."""
        return self._root

    @property
    def _storage(self) -> ObjectStoreMethods:
        if self._opened is None:
            self._opened = open_storage(self.url, self.storage_options)
        return self._opened

    def child(self, path: str) -> str:
        """Return the absolute URL, or local path, of a path under this URL."""
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """Return the file's content; None if the file does not exist."""
        with reachable(self.url):
            try:
                if self._root:
                    return (self._root / path).read_bytes()
                return bytes(self._storage.get(path).bytes())
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, path: str) -> pa.NativeFile | None:
        """Open a file, to read parts of it; None if the file does not exist.

        Read it inside :func:`reachable`.
        """
        import pyarrow as pa

        with reachable(self.url):
            try:
                if self._root:
                    return pa.OSFile(str(self._root / path))
                return pa.PythonFile(_RemoteFile(self._storage, path), mode="r")
            except FileNotFoundError:
                return None

    def download(self, path: str, target: Path) -> None:
        """Copy a file from the object storage to the worker."""
        with reachable(self.url), target.open("wb") as file:
            for chunk in self._storage.get(path):
                file.write(chunk)

    def upload(self, source: Path, path: str) -> None:
        """Copy a file from the worker to the object storage. It appears there when it is complete."""
        with reachable(self.url):
            self._storage.put(path, source)

    def copy(self, path: str, target: StateFiles) -> None:
        """Copy a file to the same path in another place. It appears there when it is complete."""
        with tempfile.TemporaryDirectory() as folder:
            file = self._root / path if self._root else Path(folder) / "copy"
            if not self._root:
                self.download(path, file)
            if not target._root:
                target.upload(file, path)
                return
            with reachable(target.url), _written(target._root / path, file) as new:
                new.replace(target._root / path)

    def exists(self, path: str) -> bool:
        """Return whether the file exists."""
        with reachable(self.url):
            if self._root:
                return (self._root / path).is_file()
            try:
                self._storage.head(path)
            except FileNotFoundError:
                return False
            return True

    def write(self, path: str, data: bytes) -> None:
        """Write the file durably and atomically: readers and crashes see the old content or the new one."""
        with reachable(self.url):
            if self._root:
                with _written(self._root / path, data) as new:
                    new.replace(self._root / path)
            else:
                self._storage.put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Write the file durably and atomically, unless it exists. Only one of several workers can create it.

        :returns: False if the file exists. If an answer of the storage was lost, this call may have created it.
        :raises ConfigurationError: the storage replaces a file that it was asked to create.
        """
        with reachable(self.url):
            if self._root:
                return _create(self._root / path, data)
            if not self._is_proven:
                self._prove()
            return self._put_new(path, data)

    def _put_new(self, path: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError

        try:
            self._storage.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def _prove(self) -> None:
        # The first worker of all creates the file. After that, each attempt must be refused.
        if self._put_new(_PROOF, _PROOF_TEXT) and self._put_new(_PROOF, _PROOF_TEXT):
            raise ConfigurationError(
                "the object storage ignores If-None-Match: it replaces a file that it was asked to create",
                todo="set [reverse_etl] state_url to a storage with conditional writes, such as Amazon S3, Google Cloud"
                " Storage or Azure Blob Storage, or to a folder that all workers share",
                url=self.url,
            )
        self._is_proven = True

    def list(self, folder: str) -> list[str]:
        """Return the names directly in the folder, sorted; an empty list if the folder does not exist."""
        with reachable(self.url):
            if self._root:
                directory = self._root / folder
                if not directory.is_dir():
                    return []
                names = [path.name for path in directory.iterdir()]
                return sorted(name for name in names if not name.startswith(_TEMPORARY))
            found = self._storage.list_with_delimiter(folder)
            paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
            return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def times(self, folder: str) -> dict[str, datetime]:
        """Return every file in the folder and below: its path in the folder → time of its last change.

        The times are those of the storage's clock.
        """
        with reachable(self.url):
            if self._root:
                found = _files_below(self._root / folder)
                return {path: datetime.fromtimestamp(status.st_mtime, UTC) for path, status in found}
            entries = self._storage.list(folder).collect()
            return {entry["path"].removeprefix(f"{folder}/"): entry["last_modified"] for entry in entries}

    def sizes(self, folder: str) -> dict[str, int]:
        """Return every file in the folder and below: its path in the folder → number of bytes."""
        with reachable(self.url):
            if self._root:
                return {path: status.st_size for path, status in _files_below(self._root / folder)}
            entries = self._storage.list(folder).collect()
            return {entry["path"].removeprefix(f"{folder}/"): entry["size"] for entry in entries}

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything in it. A missing path is not an error."""
        with reachable(self.url):
            if self._root:
                _remove(self._root / path)
                return
            entries = self._storage.list(path).collect()
            # Nothing is below the path of a file.
            for found in [entry["path"] for entry in entries] or [path]:
                with contextlib.suppress(FileNotFoundError):
                    self._storage.delete(found)


_TEMPORARY = ".writing-"


#: What file systems without hard links answer.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class _RemoteFile(io.RawIOBase):
    """A file in an object storage. Reads what is asked for, and some of what follows."""

    def __init__(self, storage: ObjectStoreMethods, path: str) -> None:
        import obstore

        self._reader = obstore.open_reader(storage, path)  # type: ignore[arg-type]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def read(self, size: int = -1) -> bytes:
        return bytes(self._reader.read(None if size < 0 else size))


@contextlib.contextmanager
def reachable(url: str, *others: type[Exception]) -> Iterator[None]:
    """Raise storage errors, and those of other classes, as UnreachableError.

    The remote's text names buckets and paths, never keys.
    """
    try:
        yield
    except (*storage_errors(), *others) as error:
        raise unreachable(error, url) from None


def unreachable(error: Exception, url: str) -> UnreachableError:
    """Build the error for a storage that failed."""
    todo = "check that [reverse_etl] state_url exists and that state_conn_id may read and write there"
    if is_full(error):
        todo = "make space under [reverse_etl] state_url; the next try resumes by itself"
    return UnreachableError(f"the state storage failed: {error_text(error)}", todo=todo, url=url)


@contextlib.contextmanager
def _written(path: Path, data: bytes | Path) -> Iterator[Path]:
    """Write the data durably to a file next to ``path`` that the caller gives its name; then sync the folder.

    :param data: or a file that has the data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        with new.open("wb") as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield new
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(path: Path, data: bytes) -> bool:
    """Create the file by a link, which appears with its content, and for one worker only."""
    with _written(path, data) as new:
        try:
            path.hardlink_to(new)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise ConfigurationError(
                f"the file system of the state folder has no hard links: {error_text(error)}",
                todo="set [reverse_etl] state_url to a folder on another file system, or to an object storage",
                url=str(path.parent),
            ) from None
    return True


def _files_below(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file in the folder and below, by its path in the folder, unless another worker deletes it now."""
    for path in top.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                yield str(path.relative_to(top)), status


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
