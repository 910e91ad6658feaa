"""Pure: a file that says what is wanted, strictly read, and what is done."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from hermes.cloudbreak._fields import check_keys, convert
from hermes.cloudbreak._settings import differences, say_changes
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconcile import Fail, Update, diff
from hermes.cloudbreak.specs import Key, Kind, Observed, Spec

__all__ = (
    "KINDS",
    "Form",
    "Plan",
    "Row",
    "read_plan",
    "read_run",
    "rows",
    "seconds",
)


@dataclass(frozen=True)
class Form:
    """A kind of table in a file.

    Attributes:
        kind: What its tables describe.
        spec: Where the class is that its keys are fields of.
        settings: The table that says where such things are.
    """

    kind: Kind
    spec: str
    settings: str


# To add a kind is to add a line here, and its cloud in `_together`.
_GOOGLE = "hermes.cloudbreak.clouds.google"
KINDS: Mapping[str, Form] = {
    "cluster": Form(Kind.CLUSTER, f"{_GOOGLE}:Cluster", "google"),
    "node_pool": Form(Kind.NODE_POOL, f"{_GOOGLE}:NodePool", "google"),
    "triton": Form(
        Kind.DEPLOYMENT,
        "hermes.cloudbreak.deployment:TritonSpec",
        "kubernetes",
    ),
    "vm": Form(Kind.VM, f"{_GOOGLE}:VMDescription", "google"),
}

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "google": ("credentials", "project"),
    "kubernetes": ("context", "kubeconfig", "namespace"),
}
_USUAL = {"lifetime": "24h", "timeout": "30m"}
_TOP = (*_USUAL, "owner", "run")
_KNOWN = (*_TOP, *KINDS, *_SETTINGS)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


@dataclass(frozen=True)
class Plan:
    """What a file says.

    Attributes:
        run: What its resources are found by again, together with the owner.
        owner: Who answers for them.
        lifetime: Seconds after which anybody may delete them.
        timeout: Seconds until they have to be ready.
        specs: What is wanted.
        settings: Where, by cloud.
        kinds: Kinds of resources that it has tables of.
        troubles: What is wrong with it beyond that. What of it can be read is
            here all the same.
    """

    run: str
    owner: str
    lifetime: float
    timeout: float
    specs: tuple[Spec, ...]
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kinds: frozenset[Kind] = frozenset()
    troubles: tuple[InvalidSpec, ...] = ()

    def stamp(self, today: float) -> Stamp:
        """Give what its resources are labelled with."""
        return Stamp.make(self.owner, self.run, today + self.lifetime)


@dataclass(frozen=True)
class Row:
    """A line of what would be done.

    Attributes:
        action: ``"create"``, ``"keep"``, ``"change"``, ``"delete"``, or
            ``"refuse"`` where it is there and would have to be another one.
        key: With what.
        where: The zone that it is in, or the first to be tried.
        what: What changes, from what to what; else its settings, as far as
            they are not what they are by default, and when its cloud itself
            ends what is new.
    """

    action: str
    key: Key
    where: str = ""
    what: str = ""


def seconds(text: str) -> float:
    """Read a duration: ``"90s"``, ``"30m"``, ``"6h"`` or ``"2d"``.

    Raises:
        InvalidSpec: If it is none.
    """
    found = _DURATION.fullmatch(str(text).strip())
    if not found:
        raise InvalidSpec(f"{text!r} is no duration: give one such as '6h'")
    return float(found[1]) * _SECONDS[found[2]]


def read_plan(content: Mapping[str, Any]) -> Plan:
    """Read what `tomllib` has read.

    Raises:
        InvalidSpec: If something in it is unknown, missing or wrong; it says
            where.
    """
    plan = read_run(content)
    if plan.troubles:
        raise plan.troubles[0]
    return plan


def read_run(content: Mapping[str, Any]) -> Plan:
    """Read which run it is, and where; of the rest, what can be read.

    Who looks for what is there, or deletes it, needs no more: an error in the
    description of a resource must not keep another one, which costs money.

    Raises:
        InvalidSpec: If what says which run it is, or where, is unknown,
            missing or wrong.
    """
    lists = {k: v for k, v in content.items() if isinstance(v, list)}
    others = {k: v for k, v in content.items() if k not in lists}
    check_keys(others, _KNOWN, "the file")
    if not content.get("run"):
        raise InvalidSpec(
            'the file has no run: write run = "a-name", by which its '
            "resources are found again"
        )
    stamp = Stamp.make(content.get("owner"), str(content["run"]), 0)
    settings = {
        name: _read_settings(name, content)
        for name in _SETTINGS
        if name in content
    }
    troubles: list[InvalidSpec] = []
    for name in lists:
        with _keep(troubles):
            check_keys([name], _KNOWN, "the file")
    return Plan(
        stamp.run,
        stamp.owner,
        _some_seconds(content, "lifetime", troubles),
        _some_seconds(content, "timeout", troubles),
        _read_specs(content, troubles),
        settings,
        frozenset(KINDS[name].kind for name in KINDS if name in content),
        tuple(troubles),
    )


def rows(plan: Plan, observed: Iterable[Observed] = ()) -> list[Row]:
    """Tell what would be done.

    Args:
        plan: What is wanted.
        observed: What is there of the plan's run, and what it may use that
            is not.
    """
    there = {each.key: each for each in observed}
    wanted = {each.key: each for each in plan.specs}
    stamp = plan.stamp(0)
    others = {k for k, each in there.items() if not stamp.is_on(each.labels)}
    found = [
        _row(spec, there[key], others)
        if key in there
        else _new_row(spec, plan.lifetime)
        for key, spec in wanted.items()
    ]
    gone = sorted(there.keys() - wanted.keys(), key=str)
    return found + [Row("delete", key) for key in gone]


def _new_row(spec: Spec, lifetime: float) -> Row:
    said = [_say(spec)]
    find: Callable[[float], float | None] | None = getattr(
        spec, "ends_after", None
    )
    if find and (seconds := find(lifetime)):
        said.append(f"each machine ends after {seconds / 3600:g} h")
    what = ", ".join(filter(None, said))
    return Row("create", spec.key, _first_zone(spec), what)


def _first_zone(spec: Spec) -> str:
    return next(iter(getattr(spec, "zones", ())), "")


def _row(spec: Spec, found: Observed, others: Collection[Key]) -> Row:
    where = found.where or _first_zone(spec)
    match next(
        iter(diff({spec.key: spec}, {}, [found], adopted=others)), None
    ):
        case Update():
            what = say_changes(differences(spec, found))
            return Row("change", spec.key, where, what)
        case Fail(_, reason, is_conflict=True):
            return Row("refuse", spec.key, where, reason)
    return Row("keep", spec.key, where, _say(spec))


def _say(spec: Any) -> str:
    """List what is not as by default; of what may be secret, the names."""
    said = []
    for each in dataclasses.fields(spec):
        value = getattr(spec, each.name)
        is_shown = each.repr or isinstance(value, Mapping)
        if not is_shown or each.name in {"name", "zones", "cluster"}:
            continue
        default = (
            each.default
            if each.default_factory is dataclasses.MISSING
            else each.default_factory()
        )
        if value != default:
            # variables of an environment may be secrets
            shown = list(value) if isinstance(value, Mapping) else value
            said.append(f"{each.name}={shown}")
    return ", ".join(said)


@contextlib.contextmanager
def _keep(troubles: list[InvalidSpec]) -> Iterator[None]:
    """Keep what is wrong, and go on."""
    try:
        yield
    except InvalidSpec as error:
        troubles.append(error)


def _some_seconds(
    content: Mapping[str, Any], name: str, troubles: list[InvalidSpec]
) -> float:
    with _keep(troubles):
        text = content.get(name, _USUAL[name])
        if (found := seconds(text)) > 0:
            return found
        raise InvalidSpec(f"{name}={text!r}: give more than nothing")
    return seconds(_USUAL[name])


def _read_specs(
    content: Mapping[str, Any], troubles: list[InvalidSpec]
) -> tuple[Spec, ...]:
    specs = []
    for name in KINDS:
        with _keep(troubles):
            for table in _tables(content, name):
                with _keep(troubles):
                    specs.append(_read_spec(name, table))
    if not troubles:  # else what one refers to may be what could not be read
        with _keep(troubles):
            _check_specs(specs)
    return tuple(specs)


def _tables(content: Mapping[str, Any], name: str) -> list[Any]:
    tables = content.get(name, [])
    if not isinstance(tables, list) or not all(
        isinstance(each, dict) for each in tables
    ):
        raise InvalidSpec(f"[{name}] has to be written as [[{name}]]")
    return tables


def _read_settings(name: str, content: Mapping[str, Any]) -> dict[str, str]:
    settings = content[name]
    if not isinstance(settings, dict):
        raise InvalidSpec(f"{name} has to be a table: write [{name}]")
    check_keys(settings, _SETTINGS[name], f"[{name}]")
    return {
        key: convert(str, value, f"[{name}] {key}", key != "credentials")
        for key, value in settings.items()
    }


def _read_spec(name: str, table: Mapping[str, Any]) -> Spec:
    module, _, attribute = KINDS[name].spec.partition(":")
    make: Callable[..., Spec] = getattr(
        importlib.import_module(module), attribute
    )
    hints = get_type_hints(make)
    fields = {f.name: f for f in dataclasses.fields(make)}  # type: ignore[arg-type]
    where = f"[[{name}]] {table.get('name', '')}".strip()
    check_keys(table, tuple(fields), where)
    for each in fields.values():
        has_none = each.default is each.default_factory is dataclasses.MISSING
        if has_none and each.name not in table:
            raise InvalidSpec(f"{where} has no {each.name}")
    return make(
        **{
            key: convert(
                hints[key], value, f"{where}: {key}", fields[key].repr
            )
            for key, value in table.items()
        }
    )


def _check_specs(specs: Sequence[Spec]) -> None:
    keys = [each.key for each in specs]
    for key in keys:
        if keys.count(key) > 1:
            raise InvalidSpec(f"{key} is there twice: give each its own name")
        if key.parent is not None and key.parent not in keys:
            raise InvalidSpec(f"{key}: there is no such cluster in the file")
