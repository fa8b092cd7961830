{# Emails are compared without regard to case. #}
{% macro clean_email(column) %}
    {{ return(adapter.dispatch('clean_email', 'customer_metrics')(column)) }}
{% endmacro %}

{% macro default__clean_email(column) %}
    lower(trim({{ column }}))
{% endmacro %}

{% macro bigquery__clean_email(column) %}
    lower(trim(safe_cast({{ column }} as string)))
{% endmacro %}
