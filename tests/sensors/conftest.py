from tests.dbt.conftest import origin

__all__ = ["origin"]
