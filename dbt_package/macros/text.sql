{# Returns a text as an SQL literal. #}
{% macro text(value) %}'{{ dbt.escape_single_quotes(value) }}'{% endmacro %}
