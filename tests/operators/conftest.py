from tests.dbt.conftest import http, origin

__all__ = ["http", "origin"]
