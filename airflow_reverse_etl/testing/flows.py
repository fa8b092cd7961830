"""Flows driven by replies, without a server."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from airflow_reverse_etl.http.messages import NotAnsweredError, Reply, Request

T = TypeVar("T")


def converse(flow: Generator[Request, Reply, T], *replies: Reply | NotAnsweredError) -> tuple[list[Request], T]:
    """Drive a flow, and answer its requests in turn; an error stands for a reply that does not arrive.

    :returns: the requests, and the flow's result.
    :raises AssertionError: the flow asks for more replies than there are, or for fewer.
    """
    requests: list[Request] = []
    answers: list[Any] = list(replies)
    try:
        request = next(flow)
        while True:
            requests.append(request)
            assert answers, f"no reply is left for the request {request.method} {request.url}"
            answer = answers.pop(0)
            request = flow.throw(answer) if isinstance(answer, NotAnsweredError) else flow.send(answer)
    except StopIteration as end:
        assert not answers, f"{len(answers)} replies are left"
        return requests, end.value
