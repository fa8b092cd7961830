"""Connections: what their forms look like, how they are tested, what they open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.hooks.http import ReverseEtlHttpHook

__all__ = ["ReverseEtlHttpHook"]

__getattr__, __dir__ = lazy(__name__, {"ReverseEtlHttpHook": "airflow_reverse_etl.hooks.http"})
