from tests.git.conftest import origin

__all__ = ["origin"]
