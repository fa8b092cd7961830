"""Credentials of HTTP requests: keys, access tokens, signatures, and which of them a connection describes."""
