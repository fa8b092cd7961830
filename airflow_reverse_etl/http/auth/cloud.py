"""Credentials of Google Cloud and AWS, through their own libraries, from Airflow's connections to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_reverse_etl.errors import ConfigurationError, CredentialsError
from airflow_reverse_etl.http.auth.keys import Auth, AuthFlow
from airflow_reverse_etl.http.messages import NotAnsweredError, Request
from airflow_reverse_etl.spec.receipts import Outcome
from airflow_reverse_etl.sync.ports import ConnectionInfo

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: Prefix of an extra in connections that were made by Airflow 2.
_OLD_PREFIX = "extra__google_cloud_platform__"


class GoogleAuth(Auth):
    """An access token of Google Cloud.

    The credentials are the connection's ``keyfile_dict`` or ``key_path``, else the worker's own (Application Default
    Credentials, such as Workload Identity). The connection's ``scope`` is a list, separated by commas.

    :param connection: connection of type ``google_cloud_platform``.
    :param scopes: scopes, if the connection has none.
    """

    def __init__(self, connection: ConnectionInfo, scopes: tuple[str, ...] = (_GOOGLE_SCOPE,)) -> None:
        self._conn_id = connection.conn_id
        self._extra = {name.removeprefix(_OLD_PREFIX): value for name, value in connection.extra.items()}
        scope = str(self._extra.get("scope") or "")
        self._scopes = [part.strip() for part in scope.split(",") if part.strip()] or list(scopes)
        self._credentials: Any = None

    @property
    def blocking(self) -> bool:
        """Return True if the next request needs a token first."""
        return self._credentials is None or not self._credentials.valid

    @property
    def secrets(self) -> tuple[str, ...]:
        """The access token."""
        return (str(self._credentials.token),) if self._credentials and self._credentials.token else ()

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the access token; google-auth requests one if it has none, or one that is about to expire."""
        yield from ()  # makes the function a flow
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.auth.transport.requests import Request as Transport

        try:
            if self._credentials is None:
                self._credentials = self._load()
            if not self._credentials.valid:
                self._credentials.refresh(Transport())
        except TransportError:
            raise NotAnsweredError(
                Outcome.RETRYABLE, "no_access_token", "no access token: Google did not answer"
            ) from None
        except (GoogleAuthError, ValueError, OSError) as error:  # their texts may quote the key
            raise CredentialsError(
                f"no access token from Google: {type(error).__name__}",
                todo="check the connection's key, that the key is not deleted, and its scope",
                connection=self._conn_id,
            ) from None
        return request.with_header("Authorization", f"Bearer {self._credentials.token}")

    def forget(self, sent: Request) -> bool:
        """Forget the token, unless another request has renewed it already."""
        if (sent.headers or {}).get("Authorization") == f"Bearer {self._credentials.token}":
            self._credentials.token = None
        return True

    def _load(self) -> Any:
        import google.auth
        from google.oauth2 import service_account

        key = self._extra.get("keyfile_dict")
        if key:
            info = json.loads(key) if isinstance(key, str) else key
            return service_account.Credentials.from_service_account_info(info, scopes=self._scopes)
        if path := self._extra.get("key_path"):
            return service_account.Credentials.from_service_account_file(str(path), scopes=self._scopes)
        credentials, _ = google.auth.default(scopes=self._scopes)
        return credentials


class AwsAuth(Auth):
    """A signature of each request by AWS Signature Version 4.

    The credentials are the connection's login and password, or its ``profile_name``, else the worker's own. With
    ``role_arn`` that role is assumed.

    :param connection: connection of type ``aws``.
    :param service: name of the service in the signature, such as ``execute-api`` or ``es``.
    """

    def __init__(self, connection: ConnectionInfo, service: str) -> None:
        self._connection = connection
        self._service = service
        self._credentials: Any = None
        self._region = str(connection.extra.get("region_name") or "")

    @property
    def blocking(self) -> bool:
        """Return True: the worker's own credentials and those of a role are requested, and renewed by the library."""
        return True

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secret key and the session token."""
        return self._connection.password or "", str(self._connection.extra.get("aws_session_token") or "")

    def authenticate(self, request: Request) -> AuthFlow:
        """Add the signature. The request's URL must be absolute."""
        yield from ()  # makes the function a flow
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._credentials is None:
                self._credentials = self._load()
            # Only headers that no proxy changes are signed.
            kept = {name: text for name, text in (request.headers or {}).items() if name.lower() == "content-type"}
            signed = AWSRequest(request.method, request.url, kept, request.body or b"")
            SigV4Auth(self._credentials.get_frozen_credentials(), self._service, self._region).add_auth(signed)
        except (BotoCoreError, ClientError) as error:  # their texts may quote a key
            raise CredentialsError(
                f"no credentials of AWS: {type(error).__name__}",
                todo="check the connection's key, region_name and role_arn",
                connection=self._connection.conn_id,
            ) from None
        headers = {str(name): str(value) for name, value in signed.headers.items()}
        return replace(request, headers={**(request.headers or {}), **headers})

    def _load(self) -> Any:
        from botocore.credentials import (
            Credentials,
            DeferredRefreshableCredentials,
            create_assume_role_refresher,
        )
        from botocore.session import Session

        extra: Mapping[str, Any] = self._connection.extra
        session = Session(profile=extra.get("profile_name"))
        self._region = self._region or str(session.get_config_variable("region") or "")
        if not self._region:
            raise ConfigurationError(
                "the region of AWS is not known",
                todo="set region_name in the connection's extra",
                connection=self._connection.conn_id,
            )
        keys = {}
        if self._connection.login and self._connection.password:
            keys = {
                "aws_access_key_id": self._connection.login,
                "aws_secret_access_key": self._connection.password,
                "aws_session_token": extra.get("aws_session_token"),
            }
        if role := extra.get("role_arn"):
            client = session.create_client("sts", region_name=self._region, **keys)
            parameters = {"RoleArn": role, "RoleSessionName": "airflow-reverse-etl"}
            return DeferredRefreshableCredentials(create_assume_role_refresher(client, parameters), "assume-role")
        if keys:
            return Credentials(*keys.values())
        found = session.get_credentials()
        if found is None:
            raise CredentialsError(
                "no credentials of AWS",
                todo="put the access key into the connection, or give the worker a role",
                connection=self._connection.conn_id,
            )
        return found
