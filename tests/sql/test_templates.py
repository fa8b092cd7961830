"""Statements that are written one clause a line."""

from __future__ import annotations

from airflow_reverse_etl.sql.templates import fill


def test_a_template_becomes_one_line_and_its_parts_stay_as_they_are() -> None:
    sql = fill(
        """
        SELECT {column}
        FROM (
            {query}
        ) AS model
        {where}
        """,
        column="'a  {b}\n(' AS c",
        query="SELECT 1",
        where="",
    )
    assert sql == "SELECT 'a  {b}\n(' AS c FROM (SELECT 1) AS model"
