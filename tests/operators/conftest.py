from tests.git.conftest import http, origin, sshd

__all__ = ["http", "origin", "sshd"]
