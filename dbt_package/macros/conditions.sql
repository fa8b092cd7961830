{# Returns a limit of a test as SQL: the variable's number, or of its mapping the number of the row's sync. #}
{% macro limit_of(name) %}
  {%- set limit = var(name) -%}
  {%- if limit is mapping -%}
    {%- if "default" not in limit -%}
      {{ exceptions.raise_compiler_error("the variable " ~ name ~ " has no `default`: add one, for all other syncs") }}
    {%- endif -%}
    case sync
      {%- for sync, number in limit.items() if sync != "default" %}
      when {{ reverse_etl.text(sync) }} then {{ number }}
      {%- endfor %}
      else {{ limit["default"] }}
    end
  {%- else -%}
    {{ limit }}
  {%- endif -%}
{% endmacro %}


{# Returns a condition: a time is within the days that the variable reverse_etl_days names. #}
{% macro is_recent(column) -%}
  {{ dbt.datediff(column, dbt.current_timestamp(), "day") }} < {{ var("reverse_etl_days") }}
{%- endmacro %}


{# Returns the hours from a time until now, as SQL. #}
{% macro hours_since(column) -%}
  {{ dbt.datediff(column, dbt.current_timestamp(), "minute") }} / 60.0
{%- endmacro %}
