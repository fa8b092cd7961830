"""New orders become Parquet files for a partner, once a day: append, so every run writes the rows of its query.

A query as the model, templates of Airflow in the destination's path. Connections: ``warehouse``, ``partner_bucket``.
"""
