{#
  Selects a table of the state, with the rows of all syncs.

  :param table: runs, rejections or change_log.
  :param columns: name → SQL type, without `sync`.
#}
{% macro state_rows(table, columns) %}
  {%- if var("reverse_etl_state") == "delta" -%}
    {%- set relations = reverse_etl.delta_relations(table) -%}
  {%- elif table == "rejections" -%}
    {%- set relations = reverse_etl.rejection_tables() -%}
  {%- else -%}
    {%- set relations = none -%}
  {%- endif -%}

  {%- if relations is none -%}
    select sync, {{ columns | join(", ") }}
    from {{ source("reverse_etl", table) }}
  {%- else -%}
    {%- for sync, relation in relations %}
    select cast({{ reverse_etl.text(sync) }} as {{ dbt.type_string() }}) as sync, {{ columns | join(", ") }}
    from {{ relation }}
    {% if not loop.last %}union all{% endif %}
    {%- else -%}
    select
      cast(null as {{ dbt.type_string() }}) as sync
      {%- for column, type in columns.items() %},
      cast(null as {{ type }}) as {{ column }}
      {%- endfor %}
    from (select 1 as one) as nothing
    where 1 = 0
    {%- endfor %}
  {%- endif -%}
{% endmacro %}


{# Returns pairs of a sync and its Delta Lake table. The runs of a sync are in the table `history`. #}
{% macro delta_relations(table) %}
  {%- if not var("reverse_etl_syncs") -%}
    {{ exceptions.raise_compiler_error("no syncs are named: list them in the variable reverse_etl_syncs") }}
  {%- endif -%}
  {%- set relations = [] -%}
  {%- for sync in var("reverse_etl_syncs") -%}
    {%- do relations.append((sync, source("reverse_etl_" ~ sync, "history" if table == "runs" else table))) -%}
  {%- endfor -%}
  {{ return(relations) }}
{% endmacro %}


{# Returns pairs of a sync and its table of rejections, whose name begins with the sync's prefix. #}
{% macro rejection_tables() %}
  {%- set syncs = source("reverse_etl", "syncs") -%}
  {%- set relations = [] -%}
  {%- if execute -%}
    {%- for row in run_query("select sync, table_prefix from " ~ syncs ~ " order by sync") -%}
      {%- do relations.append((row[0], syncs.incorporate(path={"identifier": row[1] ~ "_rejections"}))) -%}
    {%- endfor -%}
  {%- endif -%}
  {{ return(relations) }}
{% endmacro %}
