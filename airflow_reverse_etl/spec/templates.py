"""Columns that a sync's templates read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_reverse_etl.errors import SpecError
from airflow_reverse_etl.spec.model import Sync, TemplateField

if TYPE_CHECKING:
    import jinja2


def jinja_environment() -> jinja2.Environment:
    """Build the sandbox that templates run in. A null value renders as empty text."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, finalize=lambda value: "" if value is None else value
    )


def template_columns(sync: Sync) -> tuple[str, ...]:
    """Return the columns that the sync's templates read, sorted.

    :raises SpecError: see :func:`template_reads`.
    """
    return tuple(template_reads(sync))


def template_reads(sync: Sync) -> dict[str, tuple[str, ...]]:
    """Map each column that templates read to the fields of those templates, both sorted.

    A template reads a column as ``row.name`` or ``row['name']``.

    :raises SpecError: a template does not parse, or uses ``row`` without naming a column.
    """
    templates = {name: field for name, field in sync.mapping.items() if isinstance(field, TemplateField)}
    if not templates:
        return {}
    from jinja2 import TemplateSyntaxError, nodes

    environment = jinja_environment()
    columns: dict[str, set[str]] = {}
    problems = []
    for name, field in templates.items():
        try:
            tree = environment.parse(field.template)
            environment.compile(field.template)
        except TemplateSyntaxError as error:
            problems.append(f"mapping.{name}.template: {error.message}")
            continue
        except (RecursionError, MemoryError, SyntaxError):
            problems.append(f"mapping.{name}.template: is nested too deep")
            continue

        # collect the columns that the template names
        accesses = 0
        for access in tree.find_all((nodes.Getattr, nodes.Getitem)):
            match access:
                case (
                    nodes.Getattr(node=nodes.Name(name="row"), attr=str(column))
                    | nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str(column)))
                ):
                    columns.setdefault(column, set()).add(name)
                    accesses += 1

        # any other use of row would read columns that nobody can name before the template runs
        mentions = sum(node.name == "row" for node in tree.find_all(nodes.Name))
        if accesses != mentions:
            problems.append(f"mapping.{name}.template: use row only as row.column or row['column']")
    if problems:
        raise SpecError(
            "the sync's templates cannot be used",
            problems=tuple(problems),
            todo="correct the templates listed below",
            sync=sync.name,
        )
    return {column: tuple(sorted(fields)) for column, fields in sorted(columns.items())}
