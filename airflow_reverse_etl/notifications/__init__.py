"""Notifications: report a change of a sync's health once, and its recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl._lazy import lazy

if TYPE_CHECKING:
    from airflow_reverse_etl.notifications.sync import SyncNotifier

__all__ = ["SyncNotifier"]

__getattr__, __dir__ = lazy(__name__, {"SyncNotifier": "airflow_reverse_etl.notifications.sync"})
