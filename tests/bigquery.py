"""BigQuery, played by DuckDB behind the two interfaces that its clients speak, for processes that come by a proxy.

Sources: BigQuery's REST reference (``jobs.insert``, ``jobs.get``, ``jobs.getQueryResults``, ``tables.get``, and the
``error`` object of a refusal); the Storage Read API v1 (``CreateReadSession``, ``ReadRows``), with the Arrow types of
its "Arrow schema details"; RFC 6749, for the token.

The clients find Google's hosts where they always are: the environment names a proxy, which leads there, and the
certificate that vouches for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pyarrow as pa
import sqlglot
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.bigquery_storage_v1 import types

PROJECT = "shop"
_HOSTS = [f"{name}.googleapis.com" for name in ("bigquery", "bigquerystorage", "oauth2", "iamcredentials")]
_STORAGE, _LOGIN = _HOSTS[1:3]
_BATCH = 1000  # rows
_KINDS = {"int": "INTEGER", "double": "FLOAT", "string": "STRING", "binary": "BYTES", "bool": "BOOLEAN", "date": "DATE"}
_KINDS |= {"time": "TIME", "decimal128": "NUMERIC", "decimal256": "BIGNUMERIC", "struct": "RECORD"}


#: Metadata of a field of type JSON.
_JSON = {b"ARROW:extension:name": b"google:sqlType:json"}


class BigQuery:
    """A project without tables: queries make their own rows.

    :ivar asked: the language of each client that had a query run, from what it says of itself: ``go``, ``python``.
    :ivar breaks_after: so many rows into a stream, it is over, as one is after the six hours that a session has.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.breaks_after: int | None = None
        self._jobs: dict[str, dict[str, Any]] = {}
        self._tables: dict[str, pa.Table] = {}

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[dict[str, str]]:
        """The environment in which clients find it, with a service account's key as the default credentials."""
        authority, certificate = _certificates()
        (folder / "authority.pem").write_bytes(authority)
        (folder / "server.pem").write_bytes(certificate)
        rest = ThreadingHTTPServer(("127.0.0.1", 0), type("Rest", (_Rest,), {"service": self}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        rest.socket = context.wrap_socket(rest.socket, server_side=True)
        storage = grpc.server(ThreadPoolExecutor(4))
        storage.add_generic_rpc_handlers((self._handlers(),))
        port = storage.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(certificate, certificate)]))
        proxy = socket.create_server(("127.0.0.1", 0))
        ports = {**dict.fromkeys(_HOSTS, rest.server_address[1]), _STORAGE: port}
        threading.Thread(target=rest.serve_forever, daemon=True).start()
        threading.Thread(target=_proxy, args=(proxy, ports), daemon=True).start()
        storage.start()
        (folder / "key.json").write_text(json.dumps(_service_account()))
        trusted = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
        try:
            yield {
                **dict.fromkeys(trusted, str(folder / "authority.pem")),
                **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), f"http://127.0.0.1:{proxy.getsockname()[1]}"),
                "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "key.json"),
            }
        finally:
            proxy.close()
            storage.stop(None)
            rest.shutdown()
            rest.server_close()

    # -- REST --------------------------------------------------------------------------------------------------------

    def insert_job(self, path: str, job: dict[str, Any], client: str) -> tuple[int, dict[str, Any]]:
        query = job["configuration"]["query"]
        if f"/projects/{PROJECT}/jobs" not in path or job["jobReference"].get("location") != "EU":
            return _refusal(403, "accessDenied", "Access Denied: another project, or place")
        if "datasetId" not in query.get("defaultDataset", {"datasetId": ""}):
            return _refusal(400, "required", "Required parameter is missing: datasetId")
        self.asked.append(re.findall(r"gl-(\w+)/", client)[0])
        try:
            with duckdb.connect() as database:
                database.execute("SET TimeZone = 'UTC'")
                relation = database.sql(sqlglot.transpile(query["query"], "bigquery", "duckdb")[0])
                kinds = relation.types
                table = relation.to_arrow_table()
        except duckdb.ConversionException as error:
            return _refusal(400, "invalidQuery", "Bad int64 value: " + re.findall("'(.*?)'", str(error))[0])
        except duckdb.Error as error:
            return _refusal(400, "invalidQuery", f"{str(error).splitlines()[0]} at [1:8]")
        table = table.cast(pa.schema([_arrow_field(*field) for field in zip(table.schema, kinds, strict=True)]))
        reference = {"projectId": PROJECT, "jobId": uuid.uuid4().hex, "location": "EU", **job["jobReference"]}
        name = f"anon{uuid.uuid4().hex}"
        query["destinationTable"] = {"projectId": PROJECT, "datasetId": "_anon", "tableId": name}
        self._tables[name] = table
        self._jobs[reference["jobId"]] = {
            "kind": "bigquery#job",
            "id": f"{PROJECT}:EU.{reference['jobId']}",
            "jobReference": reference,
            "configuration": {**job["configuration"], "jobType": "QUERY"},
            "status": {"state": "DONE"},
            "statistics": {"query": {"statementType": "SELECT"}},
        }
        return 200, self._jobs[reference["jobId"]]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        kind, name = path.split("/")[-2:]
        if kind == "jobs":
            return 200, self._jobs[name]
        if kind == "tables":
            table = self._tables[name]
            reference = {"projectId": PROJECT, "datasetId": "_anon", "tableId": name}
            return 200, {"tableReference": reference, "type": "TABLE", "schema": _schema(table), "location": "EU"}
        if kind != "queries":
            return _refusal(404, "notFound", f"Not found: {path}")
        job = self._jobs[name]
        table = self._tables[job["configuration"]["query"]["destinationTable"]["tableId"]]
        return 200, {
            "schema": _schema(table),
            "jobReference": job["jobReference"],
            "totalRows": str(table.num_rows),
            "jobComplete": True,
        }

    # -- Storage Read API --------------------------------------------------------------------------------------------

    def _handlers(self) -> Any:
        session = grpc.unary_unary_rpc_method_handler(
            self._create_session, types.CreateReadSessionRequest.deserialize, types.ReadSession.serialize
        )
        rows = grpc.unary_stream_rpc_method_handler(
            self._read_rows, types.ReadRowsRequest.deserialize, types.ReadRowsResponse.serialize
        )
        methods = {"CreateReadSession": session, "ReadRows": rows}
        return grpc.method_handlers_generic_handler("google.cloud.bigquery.storage.v1.BigQueryRead", methods)

    def _create_session(self, request: Any, context: Any) -> Any:
        """Two streams, if the client takes as many; a stream has every other batch."""
        name = request.read_session.table.rpartition("/")[2]
        schema, rows = self._tables[name].schema, self._tables[name].num_rows
        streams = 0 if not rows else 1 if request.max_stream_count == 1 else 2
        return types.ReadSession(
            name=f"projects/{PROJECT}/locations/eu/sessions/{name}",
            data_format=types.DataFormat.ARROW,
            arrow_schema=types.ArrowSchema(serialized_schema=schema.serialize().to_pybytes()),
            streams=[types.ReadStream(name=f"{name}/streams/{at}-{streams}") for at in range(streams)],
            estimated_row_count=rows,
        )

    def _read_rows(self, request: Any, context: Any) -> Iterator[Any]:
        name, _, stream = request.read_stream.split("/")
        at, streams = map(int, stream.split("-"))
        sent = 0
        for batch in self._tables[name].combine_chunks().to_batches(max_chunksize=_BATCH)[at::streams]:
            if sent >= request.offset:
                if self.breaks_after is not None and sent >= self.breaks_after:
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "session expired")
                answer = types.ReadRowsResponse(row_count=batch.num_rows)
                answer.arrow_record_batch.serialized_record_batch = batch.serialize().to_pybytes()
                if sent == request.offset:
                    answer.arrow_schema.serialized_schema = batch.schema.serialize().to_pybytes()
                yield answer
            sent += batch.num_rows


class _Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: BigQuery

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Host"] == _LOGIN:
            self._answer(200, {"access_token": "t", "token_type": "Bearer", "expires_in": 3600})
        else:
            self._answer(*self.service.insert_job(self.path, json.loads(body), self.headers["X-Goog-Api-Client"]))

    def do_GET(self) -> None:
        self._answer(*self.service.get(self.path.partition("?")[0]))

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is told."""


def _refusal(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    errors = [{"reason": reason, "message": message}]
    return status, {"error": {"code": status, "message": message, "errors": errors}}


def _arrow_field(field: pa.Field, kind: Any) -> pa.Field:
    """BigQuery's field for one of DuckDB's.

    :param kind: its type in DuckDB.
    """
    return pa.field(field.name, _arrow_type(field.type, kind), metadata=_JSON if str(kind) == "JSON" else None)


def _arrow_type(found: pa.DataType, kind: Any) -> pa.DataType:
    """BigQuery's type for one of DuckDB's."""
    if pa.types.is_list(found):
        [(_, item)] = kind.children
        return pa.list_(_arrow_field(found.value_field, item))
    if pa.types.is_struct(found):
        return pa.struct([_arrow_field(part, item) for part, (_, item) in zip(found, kind.children, strict=True)])
    if pa.types.is_integer(found):
        return pa.int64()
    if pa.types.is_decimal(found):
        return pa.decimal128(38, 9) if found.scale < 5 else pa.decimal256(76, 38)
    if pa.types.is_timestamp(found) and found.tz:
        return pa.timestamp("us", "UTC")
    return found


def _schema(table: pa.Table) -> dict[str, Any]:
    return {"fields": [_field(field) for field in table.schema]}


def _field(field: pa.Field) -> dict[str, Any]:
    kind = field.type
    if field.metadata == _JSON:
        return {"name": field.name, "type": "JSON"}
    if pa.types.is_list(kind):
        return {**_field(kind.value_field), "name": field.name, "mode": "REPEATED"}
    if pa.types.is_timestamp(kind):
        return {"name": field.name, "type": "TIMESTAMP" if kind.tz else "DATETIME"}
    found = {"name": field.name, "type": next(value for word, value in _KINDS.items() if str(kind).startswith(word))}
    if pa.types.is_struct(kind):
        found["fields"] = [_field(part) for part in kind]
    return found


# -- how clients get here --------------------------------------------------------------------------------------------


def _proxy(listener: socket.socket, ports: dict[str, int]) -> None:
    """``CONNECT``, for these hosts only."""
    with contextlib.suppress(OSError):  # closed
        while True:
            threading.Thread(target=_tunnel, args=(listener.accept()[0], ports), daemon=True).start()


def _tunnel(client: socket.socket, ports: dict[str, int]) -> None:
    head = b""
    with contextlib.suppress(OSError), client:  # it may go at any time
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(4096) or b"\r\n\r\n"
        host = re.match(rb"CONNECT ([\w.]+):443 ", head)
        if not host or host[1].decode() not in ports:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", ports[host[1].decode()])) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            there = threading.Thread(target=_pump, args=(client, server))
            there.start()
            _pump(server, client)
            there.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # either has gone
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _certificates() -> tuple[bytes, bytes]:
    """An authority's certificate; and one for Google's hosts, with its key."""
    key, names = rsa.generate_private_key(65537, 2048), [x509.DNSName(host) for host in _HOSTS]

    def signed(name: str, extensions: list[tuple[x509.ExtensionType, bool]]) -> bytes:
        subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, cn)]) for cn in (name, "authority"))
        today = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(today - timedelta(1)).not_valid_after(today + timedelta(1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    ours = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mark)
    authority = signed("authority", [(x509.BasicConstraints(ca=True, path_length=None), True), (mark, False)])
    server = signed("server", [(x509.SubjectAlternativeName(names), False), (ours, False)])
    return authority, server + _pem(key)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _service_account() -> dict[str, str]:
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "1",
        "private_key": _pem(rsa.generate_private_key(65537, 2048)).decode(),
        "client_email": f"sync@{PROJECT}.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"https://{_LOGIN}/token",
    }


#: Extra with which a connection is read by Google's client, as the ADBC driver does not know its option.
BY_CLIENT = {"quota_project_id": "another-project"}


class Hook:
    """BigQueryHook's parts that are used, copied from apache-airflow-providers-google 22.8."""

    project_id, location = PROJECT, "EU"

    def get_credentials(self) -> Any:
        from google.oauth2.service_account import Credentials

        return Credentials.from_service_account_file(
            os.environ["GOOGLE_APPLICATION_CREDENTIALS"], scopes=["https://www.googleapis.com/auth/cloud-platform"]
        )

    def get_client(self, project_id: str, location: str | None) -> Any:
        from google.cloud.bigquery import Client

        return Client(project=project_id, location=location, credentials=self.get_credentials())
