"""Git and dbt: repositories, projects, and what their artifacts say."""
