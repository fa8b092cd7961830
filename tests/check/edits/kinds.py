"""Random single edits of a project, of eight kinds. Whether an edit matters is not its business."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from sqlglot import exp

from tests.check.edits.trees import LAST, SOURCES, Model, Noise, Project, parsed


class NotHere(Exception):  # noqa: N818
    """The project has nothing that the edit could change."""


def edited(project: Project, random: Random) -> tuple[str, Project]:
    """Return the name of a random edit, and the project after it."""
    while True:
        kind = random.choice(list(KINDS))
        edit = random.choice(KINDS[kind])
        changed = project.copied()
        try:
            after = edit(changed, random)
        except NotHere:
            continue
        return f"{kind}: {edit.__name__}", after


# -- choosing ----------------------------------------------------------------------------------------------------------


def _pick(random: Random, found: Sequence[Any]) -> Any:
    if not found:
        raise NotHere
    return random.choice(found)


def _model(project: Project, random: Random) -> Model:
    names = list(project.models)
    return project.models[random.choice([*names, LAST])]


def _nodes(project: Project, *kinds: type[exp.Expr]) -> list[Any]:
    return [node for model in project.models.values() for node in model.tree.find_all(*kinds)]


def _node(project: Project, random: Random, *kinds: type[exp.Expr]) -> Any:
    return _pick(random, _nodes(project, *kinds))


def _condition(project: Project, random: Random) -> exp.Expr:
    """Return a condition in any clause."""
    found = []
    for clause in _nodes(project, exp.Where, exp.Having, exp.Qualify):
        found += list(clause.this.flatten()) if isinstance(clause.this, exp.And) else [clause.this]
    for join in _nodes(project, exp.Join):
        on = join.args.get("on")
        if on is not None:
            found += list(on.flatten()) if isinstance(on, exp.And) else [on]
    return _pick(random, found)


def _items(project: Project, random: Random) -> exp.Select:
    """Return a SELECT with several items."""
    return _pick(random, [select for select in _nodes(project, exp.Select) if len(select.expressions) > 1])


def _aliased(project: Project, random: Random) -> exp.Alias:
    """Return an item of a SELECT under an alias, which it gets if it has none."""
    item = _pick(random, [item for select in _nodes(project, exp.Select) for item in _named(select)])
    if isinstance(item, exp.Alias):
        return item
    alias = exp.alias_(item.copy(), item.name)
    item.replace(alias)
    return alias


def _named(select: exp.Select) -> list[exp.Expr]:
    return [item for item in select.expressions if isinstance(item, exp.Alias | exp.Column) and not item.is_star]


def _list_of(random: Random, node: exp.Expr, name: str = "expressions", least: int = 2) -> list[exp.Expr]:
    found = node.args.get(name) or []
    if len(found) < least:
        raise NotHere
    return found


# -- drop --------------------------------------------------------------------------------------------------------------


def item_dropped(project: Project, random: Random) -> Project:
    select = _items(project, random)
    select.expressions.pop(random.randrange(len(select.expressions)))
    return project


def condition_dropped(project: Project, random: Random) -> Project:
    condition = _condition(project, random)
    parent = condition.parent
    if isinstance(parent, exp.And):
        parent.replace(parent.right if condition is parent.left else parent.left)
    elif isinstance(parent, exp.Join):
        raise NotHere
    else:
        parent.pop()
    return project


def join_dropped(project: Project, random: Random) -> Project:
    _node(project, random, exp.Join).pop()
    return project


def window_key_dropped(project: Project, random: Random) -> Project:
    window = _node(project, random, exp.Window)
    order = window.args.get("order")
    lists = [window.args.get("partition_by") or [], order.expressions if order else []]
    keys = _pick(random, [one for one in lists if len(one) > 1])
    keys.pop(random.randrange(len(keys)))
    return project


def group_key_dropped(project: Project, random: Random) -> Project:
    group = _node(project, random, exp.Group)
    keys = _list_of(random, group)
    at = random.randrange(len(keys))
    # The item as well, so that the query remains valid.
    name = keys[at].name if not keys[at].is_int else group.parent.expressions[int(keys[at].name) - 1].alias_or_name
    select = group.parent
    select.set("expressions", [item for item in select.expressions if item.alias_or_name != name])
    if keys[at].is_int:
        keys.pop()
    else:
        keys.pop(at)
    return project


def distinct_dropped(project: Project, random: Random) -> Project:
    _pick(random, [node for node in _nodes(project, exp.Distinct) if isinstance(node.parent, exp.Select)]).pop()
    return project


def limit_dropped(project: Project, random: Random) -> Project:
    _node(project, random, exp.Limit).pop()
    return project


def branch_dropped(project: Project, random: Random) -> Project:
    union = _node(project, random, exp.Union)
    model = next(model for model in project.models.values() if model.tree is union.root())
    kept = random.choice([union.left, union.right]).copy()
    if union is model.tree:
        return project.replaced(replace(model, tree=kept))
    union.replace(kept)
    return project


def case_branch_dropped(project: Project, random: Random) -> Project:
    case = _node(project, random, exp.Case)
    branches = case.args["ifs"]
    if len(branches) > 1 and random.random() < 0.7:
        branches.pop(random.randrange(len(branches)))
    elif case.args.get("default"):
        case.set("default", None)
    else:
        raise NotHere
    return project


def model_dropped(project: Project, random: Random) -> Project:
    return replace(project, models={name: m for name, m in project.models.items() if name != LAST})


# -- rename ------------------------------------------------------------------------------------------------------------


def alias_renamed(project: Project, random: Random) -> Project:
    item = _aliased(project, random)
    others = [other.alias_or_name for other in item.parent.expressions if other is not item]
    new = random.choice(others) if others and random.random() < 0.15 else f"{item.alias}_new"
    item.set("alias", exp.to_identifier(new))
    return project


def column_renamed_everywhere(project: Project, random: Random) -> Project:
    """Rename a column in all models that come after its first, but for the last, which keeps the name for the sync."""
    name = random.choice(("plan", "score", "active", "amount", "status", "created_on"))
    staged = project.models["stg_orders" if name in ("amount", "status") else "stg_people"]
    for item in staged.tree.expressions:
        if item.alias_or_name == name:
            item.replace(exp.alias_(item.unalias().copy(), f"{name}_new"))
    for model in project.models.values():
        if model.name in ("stg_people", "stg_orders"):
            continue
        last = model.name == LAST
        for column in list(model.tree.find_all(exp.Column)):
            if column.name == name:
                is_item = isinstance(column.parent, exp.Select) and column.arg_key == "expressions"
                new = column.copy()
                new.set("this", exp.to_identifier(f"{name}_new"))
                column.replace(exp.alias_(new, name) if is_item and last else new)
    return project


def cte_renamed(project: Project, random: Random) -> Project:
    cte = _node(project, random, exp.CTE)
    old = cte.alias
    for table in cte.root().find_all(exp.Table):
        if table.name == old:
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(old)))
            table.set("this", exp.to_identifier(f"{old}_new"))
    cte.args["alias"].set("this", exp.to_identifier(f"{old}_new"))
    return project


def table_alias_renamed(project: Project, random: Random) -> Project:
    table = _pick(random, [t for t in _nodes(project, exp.Table, exp.Subquery) if t.alias and t.parent_select])
    old = table.alias
    table.args["alias"].set("this", exp.to_identifier(f"{old}x"))
    for column in table.parent_select.find_all(exp.Column):
        if column.table == old:
            column.set("table", exp.to_identifier(f"{old}x"))
    return project


def model_renamed(project: Project, random: Random) -> Project:
    old = random.choice(list(project.models))
    new = f"{old}_new"
    models = {}
    for model in project.models.values():
        for table in model.tree.find_all(exp.Table):
            if table.name == old:
                if not table.alias:
                    table.set("alias", exp.TableAlias(this=exp.to_identifier(old)))
                table.set("this", exp.to_identifier(new))
        name = new if model.name == old else model.name
        models[name] = replace(model, name=name)
    return replace(project, models=models)


def other_column_read(project: Project, random: Random) -> Project:
    column = _pick(random, [column for column in _nodes(project, exp.Column) if not column.is_star])
    names = [*SOURCES["people"], *SOURCES["orders"]]
    new = column.copy()
    new.set("this", exp.to_identifier(random.choice(names)))
    is_item = isinstance(column.parent, exp.Select) and column.arg_key == "expressions"
    column.replace(exp.alias_(new, column.name) if is_item else new)
    return project


def other_table_read(project: Project, random: Random) -> Project:
    """Read a column of the other side of a join."""
    column = _pick(random, [c for c in _nodes(project, exp.Column) if c.table and c.parent_select.args.get("joins")])
    select = column.parent_select
    tables = [select.args["from_"].this, *(join.this for join in select.args["joins"])]
    column.set("table", exp.to_identifier(random.choice(tables).alias_or_name))
    return project


# -- retype ------------------------------------------------------------------------------------------------------------

_TYPES = ("INT", "BIGINT", "DECIMAL(18, 2)", "DOUBLE", "VARCHAR", "VARCHAR(200)", "BOOLEAN", "DATE", "TIMESTAMP")


def cast_changed(project: Project, random: Random) -> Project:
    _node(project, random, exp.Cast).set("to", exp.DataType.build(random.choice(_TYPES)))
    return project


def cast_added(project: Project, random: Random) -> Project:
    item = _aliased(project, random)
    item.set("this", exp.cast(item.this.copy(), random.choice(_TYPES)))
    return project


def cast_dropped(project: Project, random: Random) -> Project:
    cast = _node(project, random, exp.Cast)
    cast.replace(cast.this)
    return project


# -- recase ------------------------------------------------------------------------------------------------------------


def _recased(name: str, random: Random) -> str:
    return random.choice((name.upper(), name.capitalize(), name.lower()))


def _respelled(identifier: exp.Expr, random: Random) -> None:
    identifier.replace(exp.to_identifier(_recased(identifier.name, random), quoted=random.random() < 0.5))


def alias_recased(project: Project, random: Random) -> Project:
    _respelled(_aliased(project, random).args["alias"], random)
    return project


def column_recased(project: Project, random: Random) -> Project:
    column = _pick(random, [column for column in _nodes(project, exp.Column) if not column.is_star])
    _respelled(column.this, random)
    return project


def table_alias_recased(project: Project, random: Random) -> Project:
    table = _pick(random, [t for t in _nodes(project, exp.Table, exp.Subquery) if t.alias])
    alias = table.args["alias"].this
    alias.replace(exp.to_identifier(_recased(alias.name, random)))
    return project


def keywords_recased(project: Project, random: Random) -> Project:
    model = _model(project, random)
    return project.replaced(replace(model, lower=True))


# -- move --------------------------------------------------------------------------------------------------------------


def file_moved(project: Project, random: Random) -> Project:
    return project.replaced(replace(_model(project, random), folder="models/marts"))


def schema_moved(project: Project, random: Random) -> Project:
    return project.replaced(replace(_model(project, random), schema="elsewhere"))


def condition_moved_to_join(project: Project, random: Random) -> Project:
    select = _pick(random, [s for s in _nodes(project, exp.Select) if s.args.get("where") and s.args.get("joins")])
    join = select.args["joins"][0]
    join.set("on", exp.and_(join.args["on"], select.args["where"].this.copy()))
    select.set("where", None)
    return project


def condition_moved_upstream(project: Project, random: Random) -> Project:
    """Move a filter of the last model into the first."""
    last = project.models[LAST].tree
    where = last.args.get("where")
    first = project.models["stg_people"].tree
    if where is None or where.find(exp.Query):
        raise NotHere
    condition = where.this.copy()
    for column in condition.find_all(exp.Column):
        column.set("table", None)
    last.set("where", None)
    assert isinstance(first, exp.Select)
    first.where(condition, copy=False)
    return project


def query_moved_into_cte(project: Project, random: Random) -> Project:
    model = _model(project, random)
    inner = model.tree.sql()
    names = ", ".join(item.alias_or_name for item in model.tree.selects)
    columns = "*" if random.random() < 0.5 else names
    tree = parsed(f"WITH final AS ({inner}) SELECT {columns} FROM final")
    return project.replaced(replace(model, tree=tree))


def cte_moved_into_subquery(project: Project, random: Random) -> Project:
    cte = _node(project, random, exp.CTE)
    root = cte.root()
    uses = [table for table in root.find_all(exp.Table) if table.name == cte.alias]
    if len(uses) != 1:
        raise NotHere
    (use,) = uses
    use.replace(exp.Subquery(this=cte.this.copy(), alias=exp.TableAlias(this=exp.to_identifier(use.alias_or_name))))
    found = cte.parent
    cte.pop()
    if not found.expressions:
        found.pop()
    return project


def query_moved_to_model(project: Project, random: Random) -> Project:
    """Let the last model select everything from a new one, which has its query."""
    last = project.models[LAST]
    new = Model(f"{LAST}_base", last.tree)
    tree = parsed(f"SELECT * FROM {new.name}")
    models = {**{name: model for name, model in project.models.items() if name != LAST}, new.name: new}
    return replace(project, models={**models, LAST: replace(last, tree=tree)})


# -- reword ------------------------------------------------------------------------------------------------------------


def literal_changed(project: Project, random: Random) -> Project:
    literal = _pick(random, [node for node in _nodes(project, exp.Literal) if not isinstance(node.parent, exp.Group)])
    if literal.is_string:
        text = literal.name
        if isinstance(literal.parent, exp.Cast | exp.DateTrunc):
            raise NotHere
        new = random.choice((f"{text} ", f"{text} -- x", text.upper(), f"{text}'s", "free", ""))
        literal.replace(exp.Literal.string(new))
    else:
        literal.replace(exp.Literal.number(int(literal.name) + random.choice((1, 2, 10))))
    return project


_SWAPS: Mapping[type[exp.Expr], tuple[type[exp.Expr], ...]] = {
    exp.GT: (exp.GTE, exp.LT, exp.NEQ),
    exp.GTE: (exp.GT, exp.EQ),
    exp.EQ: (exp.NEQ, exp.GTE),
    exp.NEQ: (exp.EQ,),
    exp.And: (exp.Or,),
    exp.Or: (exp.And,),
    exp.Upper: (exp.Lower,),
    exp.Lower: (exp.Upper, exp.Trim),
    exp.Trim: (exp.Lower,),
    exp.Sum: (exp.Max, exp.Min),
    exp.Max: (exp.Min,),
    exp.Min: (exp.Max,),
    exp.Add: (exp.Sub,),
    exp.Mul: (exp.Add,),
    exp.RowNumber: (exp.Rank,),
    exp.Rank: (exp.DenseRank, exp.RowNumber),
    exp.DenseRank: (exp.Rank,),
    exp.Lag: (exp.Lead,),
}


def operator_changed(project: Project, random: Random) -> Project:
    node = _node(project, random, *_SWAPS)
    new = random.choice(_SWAPS[type(node)])
    node.replace(new(**{name: value for name, value in node.args.items() if name in new.arg_types}))
    return project


def join_changed(project: Project, random: Random) -> Project:
    join = _node(project, random, exp.Join)
    join.set("side", None if join.side else "LEFT")
    return project


def union_changed(project: Project, random: Random) -> Project:
    union = _node(project, random, exp.Union)
    union.set("distinct", not union.args.get("distinct"))
    return project


def direction_changed(project: Project, random: Random) -> Project:
    ordered = _node(project, random, exp.Ordered)
    ordered.set("desc", not ordered.args.get("desc"))
    return project


def nulls_moved(project: Project, random: Random) -> Project:
    ordered = _node(project, random, exp.Ordered)
    ordered.set("nulls_first", not ordered.args.get("nulls_first"))
    return project


def condition_negated(project: Project, random: Random) -> Project:
    condition = _condition(project, random)
    condition.replace(exp.Not(this=exp.paren(condition.copy())))
    return project


def condition_added(project: Project, random: Random) -> Project:
    model = project.models[random.choice(("stg_people", "stg_orders"))]
    people = ("score < 8", "plan <> 'pro'", "NOT email IS NULL", "score = score", "1 = 1")
    orders = ("amount < 9", "status <> 'void'", "NOT person_id IS NULL")
    assert isinstance(model.tree, exp.Select)
    model.tree.where(random.choice(people if model.name == "stg_people" else orders), copy=False)
    return project


def count_changed(project: Project, random: Random) -> Project:
    count = _node(project, random, exp.Count)
    column = exp.column(random.choice(("status", "amount")))
    new = random.choice((exp.Star(), exp.Literal.number(1), column, exp.Distinct(expressions=[column.copy()])))
    count.set("this", new)
    return project


def distinct_added(project: Project, random: Random) -> Project:
    _node(project, random, exp.Select).set("distinct", exp.Distinct())
    return project


def item_added(project: Project, random: Random) -> Project:
    select = _node(project, random, exp.Select)
    select.expressions.append(exp.alias_(exp.Literal.number(1), "more"))
    return project


def comparison_flipped(project: Project, random: Random) -> Project:
    flips = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE, exp.EQ: exp.EQ, exp.NEQ: exp.NEQ}
    node = _node(project, random, *flips)
    node.replace(flips[type(node)](this=node.expression.copy(), expression=node.this.copy()))
    return project


def parentheses_added(project: Project, random: Random) -> Project:
    condition = _condition(project, random)
    condition.replace(exp.paren(condition.copy()))
    return project


def between_spelled_out(project: Project, random: Random) -> Project:
    node = _node(project, random, exp.Between)
    low = exp.GTE(this=node.this.copy(), expression=node.args["low"].copy())
    high = exp.LTE(this=node.this.copy(), expression=node.args["high"].copy())
    node.replace(exp.paren(exp.And(this=low, expression=high)))
    return project


def in_spelled_out(project: Project, random: Random) -> Project:
    node = _pick(random, [node for node in _nodes(project, exp.In) if node.expressions])
    node.replace(exp.paren(exp.or_(*(exp.EQ(this=node.this.copy(), expression=v.copy()) for v in node.expressions))))
    return project


def coalesce_spelled_out(project: Project, random: Random) -> Project:
    node = _node(project, random, exp.Coalesce)
    (other,) = node.expressions
    test = exp.Is(this=node.this.copy(), expression=exp.Null())
    node.replace(exp.Case(ifs=[exp.If(this=test, true=other.copy())], default=node.this.copy()))
    return project


def columns_qualified(project: Project, random: Random) -> Project:
    selects = [s for s in _nodes(project, exp.Select) if s.args.get("from_") and not s.args.get("joins")]
    select = _pick(random, selects)
    table = select.args["from_"].this
    if select.find(exp.Subquery, exp.Exists) or any(c.table for c in select.find_all(exp.Column)):
        raise NotHere
    if isinstance(table, exp.Table):
        table.set("alias", exp.TableAlias(this=exp.to_identifier("t")))
    for part in ("expressions", "where", "group", "having", "qualify", "order"):
        value = select.args.get(part)
        for node in value if isinstance(value, list) else [value] if value else []:
            for column in node.find_all(exp.Column):
                if column.parent_select is select and part in ("expressions", "where"):
                    column.set("table", exp.to_identifier(table.alias_or_name))
    return project


def group_by_position(project: Project, random: Random) -> Project:
    group = _node(project, random, exp.Group)
    names = [item.alias_or_name for item in group.parent.expressions]
    keys: list[exp.Expr] = []
    for key in group.expressions:
        if key.is_int:
            keys.append(group.parent.expressions[int(key.name) - 1].unalias().copy())
        elif key.name in names:
            keys.append(exp.Literal.number(names.index(key.name) + 1))
        else:
            raise NotHere
    group.set("expressions", keys)
    return project


def star_spelled_out(project: Project, random: Random) -> Project:
    """Name the columns of people instead of ``*``."""
    names = list(SOURCES["people"])
    found = []
    for select in _nodes(project, exp.Select):
        source = select.args["from_"].this if select.args.get("from_") else None
        if (
            len(select.expressions) == 1
            and select.is_star
            and getattr(source, "name", "") in ("stg_people", "people_clean")
        ):
            found.append(select)
    _pick(random, found).set("expressions", [exp.column(name) for name in names])
    return project


# -- reorder -----------------------------------------------------------------------------------------------------------


def _swap(items: list[Any], random: Random) -> None:
    first, second = random.sample(range(len(items)), 2)
    items[first], items[second] = items[second], items[first]


def items_reordered(project: Project, random: Random) -> Project:
    _swap(_items(project, random).expressions, random)
    return project


def conditions_reordered(project: Project, random: Random) -> Project:
    node = _node(project, random, exp.And, exp.Or)
    left, right = node.left.copy(), node.right.copy()
    node.set("this", right)
    node.set("expression", left)
    return project


def ctes_reordered(project: Project, random: Random) -> Project:
    """Add another CTE before the first."""
    with_ = _node(project, random, exp.With)
    spare = exp.CTE(this=parsed("SELECT 1 AS one"), alias=exp.TableAlias(this=exp.to_identifier("spare")))
    with_.expressions.insert(random.choice((0, len(with_.expressions))), spare)
    return project


def branches_reordered(project: Project, random: Random) -> Project:
    union = _node(project, random, exp.Union)
    left, right = union.left.copy(), union.right.copy()
    union.set("this", right)
    union.set("expression", left)
    return project


def window_keys_reordered(project: Project, random: Random) -> Project:
    window = _node(project, random, exp.Window)
    order = window.args.get("order")
    lists = [window.args.get("partition_by") or [], order.expressions if order else []]
    _swap(_pick(random, [one for one in lists if len(one) > 1]), random)
    return project


def group_keys_reordered(project: Project, random: Random) -> Project:
    _swap(_list_of(random, _node(project, random, exp.Group)), random)
    return project


def order_reordered(project: Project, random: Random) -> Project:
    orders = [order for order in _nodes(project, exp.Order) if isinstance(order.parent, exp.Select)]
    _swap(_list_of(random, _pick(random, orders)), random)
    return project


def case_branches_reordered(project: Project, random: Random) -> Project:
    _swap(_list_of(random, _node(project, random, exp.Case), "ifs"), random)
    return project


def operands_reordered(project: Project, random: Random) -> Project:
    node = _node(project, random, exp.DPipe, exp.Add, exp.Mul)
    left, right = node.left.copy(), node.right.copy()
    node.set("this", right)
    node.set("expression", left)
    return project


def values_reordered(project: Project, random: Random) -> Project:
    found = [node for node in _nodes(project, exp.In) if len(node.expressions) > 1]
    _swap(_pick(random, found).expressions, random)
    return project


# -- comment -----------------------------------------------------------------------------------------------------------

_COMMENTS = (
    "/* plan */ ",
    '-- it\'s "here"\n',
    "/* SELECT 'x' FROM y; -- z */",
    "{# a comment of Jinja's #} ",
    "\n\n\t",
    "-- \n",
    "/* , email */ ",
)


def commented(project: Project, random: Random) -> Project:
    model = _model(project, random)
    noise = Noise(random.choice(_COMMENTS), random.random())
    return project.replaced(replace(model, noise=(*model.noise, noise)))


Edit = Callable[[Project, Random], Project]

KINDS: Mapping[str, tuple[Edit, ...]] = {
    "drop": (
        *(item_dropped, item_dropped, condition_dropped, join_dropped, window_key_dropped, group_key_dropped),
        *(distinct_dropped, limit_dropped, branch_dropped, case_branch_dropped, model_dropped),
    ),
    "rename": (
        *(alias_renamed, alias_renamed, column_renamed_everywhere, cte_renamed, table_alias_renamed, model_renamed),
        *(other_column_read, other_table_read),
    ),
    "retype": (cast_changed, cast_added, cast_dropped),
    "recase": (alias_recased, column_recased, table_alias_recased, keywords_recased),
    "move": (
        *(file_moved, schema_moved, condition_moved_to_join, condition_moved_upstream, query_moved_into_cte),
        *(cte_moved_into_subquery, query_moved_to_model),
    ),
    "reword": (
        *(literal_changed, operator_changed, join_changed, union_changed, direction_changed, nulls_moved),
        *(condition_negated, condition_added, count_changed, distinct_added, item_added, comparison_flipped),
        *(parentheses_added, between_spelled_out, in_spelled_out, coalesce_spelled_out, columns_qualified),
        *(group_by_position, star_spelled_out),
    ),
    "reorder": (
        *(items_reordered, conditions_reordered, ctes_reordered, branches_reordered, window_keys_reordered),
        *(group_keys_reordered, order_reordered, case_branches_reordered, operands_reordered, values_reordered),
    ),
    "comment": (commented,),
}


def kinds() -> Iterator[str]:
    """Yield the name of every edit."""
    for kind, edits in KINDS.items():
        for edit in edits:
            yield f"{kind}: {edit.__name__}"
