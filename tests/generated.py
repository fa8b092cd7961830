"""Generator of committed files: the JSON Schema, tables of reference pages, the package's copy of one page.

A page has ``<!-- generated: name -->`` and ``<!-- end -->`` around each table. ``make schema`` writes them again; a
test fails when one is not up to date.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
SCHEMA = ROOT / "airflow_reverse_etl" / "schemas" / "sync.schema.json"
WIRE = ROOT / "tests" / "destinations" / "wire" / "http"
ERRORS = ROOT / "airflow_reverse_etl" / "errors.md"
FACE = ("operators", "sensors", "triggers", "hooks", "notifications")

_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated() -> Iterator[tuple[Path, str]]:
    """Yield each generated file with the text that it should have."""
    from airflow_reverse_etl.destinations.registry import sync_schema

    yield SCHEMA, json.dumps(sync_schema(), indent=2, ensure_ascii=False) + "\n"
    yield SCHEMA.with_name("connection_types.json"), json.dumps(connection_types(), indent=2, ensure_ascii=False) + "\n"
    for page in sorted(REFERENCE.glob("*.md")):
        text = _BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], page.read_text(encoding="utf-8"))
        yield page, text
        if page.name == ERRORS.name:
            yield ERRORS, re.sub(r"<!-- .* -->\n+", "", text)


def block(name: str) -> str:
    """Return the text of a generated block: ``config``, ``connections``, ``errors``, ``destination:<type>`` ..."""
    kind, _, argument = name.partition(":")
    text = {
        "config": config,
        "connections": connections,
        "errors": error_table,
        "git-errors": git_error_table,
        "dbt-errors": dbt_error_table,
        "sync": sync_tables,
        "privacy": privacy_tables,
        "destination": destination_tables,
        "gallery": gallery,
        "actions": actions,
        "answers": answers,
        "reply": reply_example,
        "face": face,
        "cli": cli,
    }[kind]
    return "\n" + (text(argument) if argument else text()).strip() + "\n\n"  # type: ignore[operator]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), ["---"] * len(list(head)), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in lines)


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").strip()


def _code(value: object) -> str:
    return f"`{value}`" if value not in ("", None) else ""


# -- configuration, connections, errors ------------------------------------------------------------------------------


def config() -> str:
    """Return the table of the options of ``[reverse_etl]``."""
    from airflow_reverse_etl.provider import get_provider_info

    options = get_provider_info()["config"]["reverse_etl"]["options"]
    rows = [
        (_code(name), _code(option["default"]), option["description"], _code(option["example"]))
        for name, option in options.items()
    ]
    return table(("option", "default", "meaning", "example"), rows)


def connections() -> str:
    """Return the tables of the additional fields of our connection types."""
    from airflow_reverse_etl.provider import get_provider_info

    parts = []
    for declared in get_provider_info()["connection-types"]:
        fields = declared.get("conn-fields", {}).items()
        rows = [(_code(name), field["label"], field["description"]) for name, field in fields]
        title = f"### {declared['hook-name']}: `{declared['connection-type']}`"
        parts.append(f"{title}\n\n" + table(("extra field", "label", "meaning"), rows))
    return "\n\n".join(parts)


def error_table() -> str:
    """Return the table of all errors and their meanings, in the order of the class tree."""
    from airflow_reverse_etl import errors

    rows = [
        (_code(cls.__name__), _code(cls.__mro__[1].__name__), _plain(_first(cls)))
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, errors.ReverseEtlError)
    ]
    return table(("error", "is a", "meaning"), rows)


def git_error_table() -> str:
    """Return the table of problems that git and ssh report, with the remedies."""
    from airflow_reverse_etl.git.errors import KNOWN_MESSAGES, PUSH_MESSAGES

    rows = [(known.what, known.todo, _code(known.error.__name__)) for known in (*KNOWN_MESSAGES, *PUSH_MESSAGES)]
    return table(("what happened", "what to do", "error"), rows)


def dbt_error_table() -> str:
    """Return the table of problems that dbt reports before it runs anything, with the remedies."""
    from airflow_reverse_etl.dbt.errors import _ADVICE

    rows = []
    for pattern, todo in _ADVICE:
        words = re.split(r"(?<!\\)\|", pattern)[0]
        said = re.sub(r"\(\[?[^)]*\)|\\[wd]\+|\.\*", "…", words).replace('\\"?', '"').replace("\\", "").replace("?", "")
        said = re.sub(r"\[\w(\w)\]", r"\1", said) + '"' * (said.count('"') % 2)
        rows.append((_code(said), todo.replace("{0}", "…")))
    return table(("dbt says", "what to do"), rows)


def _first(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0]


def cli() -> str:
    """Return a section with the arguments and options of each command."""
    from airflow_reverse_etl.cli.main import build_program

    parts = []
    for name, command in commands(build_program()):
        rows = [(_code(_written(parameter)), parameter.help) for parameter in options_of(command)]
        options = f"\n\n{table(('argument or option', 'meaning'), rows)}" if rows else ""
        parts.append(f"## `reverse-etl {name}`\n\n{command.help}{options}")
    return "\n\n".join(parts)


def _written(parameter: Any) -> str:
    """Return an option as it is written, or the name of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return ", ".join((*parameter.opts, *parameter.secondary_opts))


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, command) of each command, except those that only group other commands."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from commands(inner, f"{name} {word}".strip())


def options_of(command: Any) -> list[Any]:
    """Return the arguments and options of a command, except those that every command has."""
    return [parameter for parameter in command.params if parameter.name != "as_json"]


# -- pydantic models -------------------------------------------------------------------------------------------------

#: Meanings of fields without a description of their own.
_MEANING = {
    "model": "a dbt model: `name`, `package.name` or `name.v2`; or `{table: schema.name}`; or `{sql: select …}`",
    "destination": "destination of the rows; its type adds keys, see [destinations](destinations.md)",
    "mode": "how new, changed and removed rows are sent, see [modes](#modes)",
    "guards": "conditions that a plan must meet before anything is sent",
    "failure": "limits beyond which the task fails",
    "retry": "limits for sending a rejected row again while it stays unchanged",
    "rate": "limits for the requests to the destination",
    "warning": "limits beyond which the sync needs attention",
    "critical": "limits beyond which it counts as failing",
    "retry.max_attempts": "number of runs in which the row is sent",
    "retry.max_age": "time since it was first rejected",
    "method": "HTTP method",
    "code": "dotted path of the error's code",
    "message": "dotted path of the error's message",
    "rate.requests_per_second": "budget shared by everything that uses the destination's connection; default: the "
    "destination's own, for most no limit other than its answers",
}


def sync_tables() -> str:
    """Return the tables of the fields of a sync and of its nested mappings."""
    from airflow_reverse_etl.spec import model as spec
    from airflow_reverse_etl.spec.alerts.limits import AlertLimits, Alerts

    parts = [_model_table(spec.Sync)]
    for key in ("destination", "guards", "failure", "retry", "rate", "airflow"):
        model = spec.Sync.model_fields[key].annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        parts.append(f"### `{key}`\n\n{_model_table(model, f'{key}.')}")
    parts.append(f"### `alerts`\n\n{_model_table(Alerts)}")
    parts.append(f"### `alerts.warning`, `alerts.critical`\n\n{_model_table(AlertLimits)}")
    return "\n\n".join(parts)


def privacy_tables() -> str:
    """Return the tables of the keys of a privacy policy."""
    from airflow_reverse_etl.spec.privacy.policy import AllowedDestination, PrivacyPolicy

    return f"{_model_table(PrivacyPolicy)}\n\n### `destinations`\n\n{_model_table(AllowedDestination)}"


def connection_types() -> list[dict[str, Any]]:
    """Return the connection types of the built-in destinations, as a provider declares them."""
    from airflow_reverse_etl.destinations.info import ConnectionForm
    from airflow_reverse_etl.destinations.registry import BUILT_IN, destination_class

    forms = [destination_class(type_).info.connection for type_ in BUILT_IN]
    return [form.connection_type() for form in forms if isinstance(form, ConnectionForm)]


def destination_tables(type_: str) -> str:
    """Return the section of a destination type: its connection, an example, the keys that it adds."""
    from airflow_reverse_etl.destinations.info import ConnectionForm
    from airflow_reverse_etl.destinations.registry import destination_class

    cls = destination_class(type_)
    info = cls.info
    connection = info.connection
    if isinstance(connection, ConnectionForm):
        connection = f"The connection is of type `{connection.type}`, see [Connections](connections.md)."
    facts = [connection]
    if info.account is None:
        facts.append("The type cannot tell by itself which account the credentials belong to.")
    if info.docs:
        facts.append(f"[Documentation of {info.title}]({info.docs}).")
    if info.contract:
        facts.append(f"Proven against {info.contract}.")
    parts = [" ".join(facts), f"```yaml\n{info.example.strip()}\n```", _options_tables(cls.Options)]
    return "\n\n".join(parts)


def gallery() -> str:
    """Return a table with a row for each ability and a column for each built-in destination type."""
    from airflow_reverse_etl.destinations.registry import BUILT_IN

    columns = [_abilities(type_) for type_ in BUILT_IN]
    head = ("", *(f"[`{type_}`](destinations.md#{_anchor(type_)})" for type_ in BUILT_IN))
    return table(head, [(name, *(column[name] for column in columns)) for name in columns[0]])


def _anchor(type_: str) -> str:
    """Return the anchor of a type's section in the page of destinations."""
    from airflow_reverse_etl.destinations.registry import destination_class

    title = f"{type_}: {destination_class(type_).info.title}".lower()
    return re.sub(r"[^\w -]", "", title).replace(" ", "-")


def _abilities(type_: str) -> dict[str, str]:
    """Return what a destination type can do, as its class declares it for the type's own example."""
    from airflow_reverse_etl.destinations.info import ConnectionForm
    from airflow_reverse_etl.destinations.registry import create, destination_class
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.operations import OPERATIONS
    from airflow_reverse_etl.sync.ports import ConnectionInfo, LoadsInJobs, ReplacesObject

    info = destination_class(type_).info
    form = info.connection
    made = create(
        Sync.load(yaml.safe_load(info.example)),
        connection=ConnectionInfo("c", form.type if isinstance(form, ConnectionForm) else "postgres", host="h"),
        connect=lambda: None,
    )
    able = made.capabilities
    any_api = type_ == "http"  # the options of a sync decide, not the type
    missing = [
        mode for mode, parts in OPERATIONS.items() if not any_api and not {*parts.values()} <= {*able.operations}
    ]
    if not isinstance(made, ReplacesObject):
        missing.append("replace")
    answers = {_code(support.answers) for support in able.operations.values()}
    largest = max(support.max_rows or 0 for support in able.operations.values())
    return {
        "for": info.title,
        "modes": "all but " + ", ".join(map(_code, missing)) if missing else "all",
        "answers": "as its options say" if any_api else ", ".join(sorted(answers)),
        "rows in a batch, at most": "as its options say" if any_api else f"{largest:,}",
        "loads in jobs": _yes(isinstance(made, LoadsInJobs)),
        "checks the mapping against its fields": _yes(getattr(made, "describes_fields", False)),
        "recognises a change of account": "with `account`" if any_api else _yes(info.account),
        "takes only changed fields (`send: changed`)": _yes(able.always_sent is not None),
        "gives its ids back (`write_ids`)": "with `ids` or `find`" if any_api else _yes(able.gives_ids),
        "rate by itself": f"{able.requests_per_second:g} requests a second" if able.requests_per_second else "",
        "null clears a field by": "`null`" if able.nulls == "send" else "an empty text",
        "connection test": _yes(isinstance(form, ConnectionForm) or info.test),
        "proven against": info.contract,
    }


def _yes(able: object) -> str:
    return "yes" if able else ""


def _options_tables(options: type[BaseModel]) -> str:
    from airflow_reverse_etl.spec.model import DestinationSpec

    common = DestinationSpec.model_fields
    own = [
        name
        for name, field in options.model_fields.items()
        if name not in common or field.is_required() or field.description not in (None, common[name].description)
    ]
    return _with_nested(options, own)


def _with_nested(model: type[BaseModel], names: Iterable[str]) -> str:
    parts, waiting, seen = [], [("", model, list(names))], {model}
    while waiting:
        prefix, found, fields = waiting.pop(0)
        title = f"### `{prefix}`\n\n" if prefix else ""
        parts.append(title + _model_table(found, only=fields))
        for name in fields:
            for nested in _models(found.model_fields[name].annotation):
                if nested not in seen:
                    seen.add(nested)
                    waiting.append((f"{prefix}.{name}".lstrip("."), nested, list(nested.model_fields)))
    return "\n\n".join(parts)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _model_table(model: type[BaseModel], prefix: str = "", only: Iterable[str] | None = None) -> str:
    names = list(model.model_fields if only is None else only)
    rows = [
        (_code(name), _type(field), _default(field), field.description or _MEANING.get(prefix + name) or _common(name))
        for name, field in ((name, model.model_fields[name]) for name in names)
    ]
    return table(("key", "type", "default", "meaning"), rows)


def _common(name: str) -> str:
    """Return the common meaning of a destination's key, for types that only make the key required."""
    from airflow_reverse_etl.spec.model import DestinationSpec

    field = DestinationSpec.model_fields.get(name)
    return (field.description or "") if field else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in (None, (), {}, []):
        return ""
    if hasattr(value, "days"):
        return f"`{value.days}d`"
    return _code(str(value).lower() if isinstance(value, bool) else value)


def _type(field: FieldInfo) -> str:
    return _type_name(field.annotation, field.metadata)


def _type_name(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    for item in metadata:
        schema = getattr(item, "json_schema", None)
        if isinstance(schema, dict) and "pattern" in schema:
            return "duration"
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _type_name(inner, more)
    if origin is Literal:
        return ", ".join(_code(value) for value in get_args(annotation))
    if origin in (Union, UnionType):
        kinds = [_type_name(item) for item in get_args(annotation) if item is not NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin in (tuple, list):
        [item, *_] = get_args(annotation)
        return "list" if isinstance(item, type) and issubclass(item, BaseModel) else "text, or a list"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return ", ".join(_code(value) for value in annotation.__members__.values())
    return {"str": "text", "int": "number", "float": "number", "bool": "`true`, `false`"}.get(
        getattr(annotation, "__name__", ""), "any"
    )


# -- replies ---------------------------------------------------------------------------------------------------------

#: Action → what it means for the rows of a request, and what the engine does.
_ACTIONS = {
    "accept": "the rows were written. On an error status, or a reply that `success` refuses, it speaks of one row: "
    "the batch is split until that row is alone",
    "partial": "some rows were written, and `results` names them or the others. If it names none, the rows are "
    "`unknown`; if sending them twice is safe, the batch is split",
    "refuse": "nothing was written because of some row: the rows that `results` names are rejected, and the others "
    "sent again; without such rows the batch is split until the bad row is alone. If the rows may not be sent twice, "
    "the others are `unknown`, unless `atomic: true` promises that a refused request writes nothing",
    "conflict": "as `refuse`, but the rows are sent again when all others are settled: another record has a value that "
    "must be unique",
    "reject": "every row is refused as it is",
    "skip": "the destination does not have the row; on an error status it speaks of one row, as with `accept`",
    "retry": "nothing was written; the rows are sent again later",
    "throttle": "as `retry`, and nothing is sent on this connection for the time that the reply asks for, else for 10 "
    "seconds or more",
    "unknown": "the rows may have been written: they are sent again if that is safe, else `failure.on_unknown` decides",
    "credentials": "the load stops with a `CredentialsError`",
    "configuration": "the load stops with a `ConfigurationError`",
}


def actions() -> str:
    """Return the table of actions: where an option allows them, and which statuses have them by default."""
    from airflow_reverse_etl.destinations.results import RowAction
    from airflow_reverse_etl.http.status_table import ACTIONS, Action

    assert set(_ACTIONS) == {action.value for action in Action}
    classes = {status: f"other {status}xx" for status in range(2, 6)}
    rows = []
    for name, meaning in _ACTIONS.items():
        usual = [classes.get(status, str(status)) for status, action in sorted(ACTIONS.items()) if action == name]
        usual.sort(key=lambda text: text.startswith("other"))
        rows.append((_code(name), ", ".join(usual), "yes" if name in get_args(RowAction) else "", meaning))
    return table(("action", "statuses", "rows", "meaning"), rows)


def answers() -> str:
    """Return the table of what each built-in destination type promises about its operations."""
    from airflow_reverse_etl.destinations.registry import create
    from airflow_reverse_etl.spec.model import Sync
    from airflow_reverse_etl.spec.operations import Operation
    from airflow_reverse_etl.sync.ports import ConnectionInfo

    http = {"type": "http", "path": "/", "operations": {"delete": {}}}
    results = {"list": "results", "ok": {"ok": True}}
    types: dict[str, dict[str, Any]] = {
        "`http`": http,
        "`http` with `results`, or with `rows: single`": {**http, "results": results},
        "`http` with `answers: taken`, or answered with status 202": {**http, "answers": "taken"},
        "`table`": {"type": "table", "object": "contacts"},
        "`file`": {"type": "file", "url": "/exports"},
    }
    rows = []
    for title, options in types.items():
        common = {"name": "s", "model": "m", "source": "w", "mapping": {"id": "id"}}
        destination = {"connection": "c", "match_on": "id", **options}
        made = create(
            Sync.load({**common, "destination": destination}),
            connection=ConnectionInfo("c", "postgres", host="h"),
            connect=lambda: None,
        )
        supported = made.capabilities.operations
        repeatable = [operation.value for operation in Operation if made.capabilities.idempotent(operation)]
        worth = {support.answers for support in supported.values()}
        rows.append((title, ", ".join(sorted(map(_code, worth))), ", ".join(repeatable)))
    return table(("type", "answers", "operations that are safe to send twice"), rows)


def reply_example(case: str) -> str:
    """Return a recorded case as an example: the options that matter, the reply, the outcome of each row, the source."""
    wire = json.loads((WIRE / f"{case}.json").read_text(encoding="utf-8"))
    api = case.partition("_")[0]
    options = {"type": "http", "connection": api, **wire["destination"]}
    options.pop("match_on", None)  # is of the sync's mapping, which the example leaves out
    text = yaml.safe_dump({"destination": options}, sort_keys=False, default_flow_style=None, width=100)
    text = re.sub(r"'(\d+)': ", r"\1: ", text)  # numbers are the keys of objects as text in JSON
    reply = wire["replies"][0]
    rows = [
        (_code(_shortened(record)), outcome, _code(code), message)
        for record, (outcome, code, message) in zip(wire["records"], wire["receipts"], strict=True)
    ]
    parts = [
        f"```yaml\n{text}```",
        f"Status {reply['status']}:",
        f"```json\n{_json(reply['body'])}\n```",
        table(("row", "outcome", "code", "message"), rows),
        f"*Source: {wire['source']}.*",
    ]
    return "\n\n".join(parts)


def _json(value: Any) -> str:
    """Return JSON on one line, or with one line for each field if that is too long."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= 100 or not isinstance(value, dict):
        return text
    fields = (f"  {json.dumps(name)}: {json.dumps(inner, ensure_ascii=False)}" for name, inner in value.items())
    return "{\n" + ",\n".join(fields) + "\n}"


def _shortened(record: Any) -> str:
    text = json.dumps(record, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


# -- classes of the face ---------------------------------------------------------------------------------------------


def face(kind: str) -> str:
    """Return the documentation of a package's public classes and functions, from their docstrings."""
    package = import_module(f"airflow_reverse_etl.{kind}")
    return "\n\n".join(f"### `{name}`\n\n{described(getattr(package, name))}" for name in package.__all__)


def described(thing: Any) -> str:
    """Return a docstring in Markdown, with its parameters as a table."""
    body, raises = split_docstring(thing)[0], split_docstring(thing)[2]
    parts = [_plain(body), *parameter_table(thing)]
    if raises:
        parts.append("\n".join(f"- raises `{name}`: {_plain(text)}" for name, text in raises))
    return "\n\n".join(part for part in parts if part)


def parameter_table(thing: Any) -> list[str]:
    """Return a list of one table, or an empty list without parameters."""
    meanings = split_docstring(thing)[1]
    rows = [
        (
            _code(name),
            "required" if default is inspect.Parameter.empty else _code(_shown(default)),
            _plain(meanings.get(name, "")),
        )
        for name, default in parameters(thing).items()
    ]
    return [table(("parameter", "default", "meaning"), rows)] if rows else []


def _shown(default: object) -> str:
    return "" if default is None else repr(default)


def parameters(thing: Any) -> dict[str, Any]:
    """Return parameters with their defaults: those of a class and of our base classes, not Airflow's."""
    if not inspect.isclass(thing):
        return {name: value.default for name, value in inspect.signature(thing).parameters.items()}
    found: dict[str, Any] = {}
    for cls in thing.__mro__:
        if not cls.__module__.startswith("airflow_reverse_etl.") or "__init__" not in vars(cls):
            continue
        for name, value in inspect.signature(cls.__init__).parameters.items():
            if name != "self" and value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL):
                found.setdefault(name, value.default)
    return found


def split_docstring(thing: Any) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """Split a docstring into its text, the meanings of parameters by name, and pairs of error and meaning."""
    doc = inspect.getdoc(thing) or ""
    text, *fields = re.split(r"(?:^|(?<=\s)):(?=(?:param|raises|returns?)\b)", doc)
    meanings, raises = {}, []
    for field in fields:
        head, _, meaning = field.partition(":")
        kind, _, name = head.partition(" ")
        if kind == "param":
            meanings[name.strip()] = meaning.strip()
        elif kind == "raises":
            raises.append((name.strip(), meaning.strip()))
    return text.strip(), meanings, raises


def _plain(text: str) -> str:
    """Convert reStructuredText's roles and double backticks to Markdown."""
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda found: f"`{found[1].rpartition('.')[2]}`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)
