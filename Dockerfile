# Airflow's official image with this package, built from the repository:  docker build --tag airflow-reverse-etl .
# EXTRAS and ADAPTER choose the warehouse:  --build-arg EXTRAS=snowflake,dbt,git --build-arg ADAPTER=dbt-snowflake
ARG AIRFLOW_VERSION=3.3.2
FROM apache/airflow:${AIRFLOW_VERSION}-python3.11

ARG AIRFLOW_VERSION
ARG EXTRAS=duckdb,dbt,git
ARG ADAPTER=dbt-duckdb

# dbt projects come from Git repositories.
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/*

USER airflow
# A new volume takes its owner from the folder that it covers: see compose.yaml.
RUN mkdir /opt/airflow/state
COPY --chown=airflow:0 pyproject.toml README.md LICENSE /opt/reverse-etl/
COPY --chown=airflow:0 airflow_reverse_etl /opt/reverse-etl/airflow_reverse_etl
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" "/opt/reverse-etl[${EXTRAS}]" "${ADAPTER}"
