"""Rendering chat templates, which are programs from outside, in bounded time and memory.

The output is that of transformers' `apply_chat_template`. Its sandbox keeps a template from reaching the process, but
lets it loop for ever and fill the memory. Here whatever a template does is paid for out of a budget, in characters and
list entries, before or as it is done: a step of a loop, a call, a filter, an operator that makes something larger,
every piece of output.
"""

import collections.abc
import contextvars
import dataclasses
import datetime
import functools
import json
import re
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.visitor
from jinja2 import nodes
from jinja2.runtime import LoopContext

from tga_jax.errors import UserError

_LONGEST = 1 << 18  # characters of a template; published ones have fewer than 1 << 15
_LEAST, _PER_CHARACTER, _MOST = 1 << 25, 1 << 10, 1 << 27  # the budget: at least, for each character said, at most
_SECONDS = 2  # of the processor; published templates take milliseconds
_STEP, _ENTRY = 256, 32  # what a step of a loop or a call costs beside what it makes, and a look at an entry
_WORD = 64  # bits of a whole number that count as one character
# Filters and methods that make nothing larger than what they are given, whatever their arguments. Of all others the
# result is taken to be as large as the product of what goes in.
_FILTERS = {
    "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "lower", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "safe", "select",
    "selectattr", "sort", "title", "trim", "unique", "upper", "wordcount",
}  # fmt: skip
_METHODS = {
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
}  # fmt: skip
_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_UNBOUNDED = ("pprint", "striptags", "urlize", "wordwrap")  # filters whose time no size tells; no template has them


class BudgetError(UserError):
    """A template that does or writes too much."""

    def __init__(self, reason: str):
        super().__init__(f"the tokenizer's chat template cannot be used: {reason}")


@dataclasses.dataclass
class _Budget:
    left: int
    until: float  # of the thread's processor time, which is looked at now and then: asking for it takes long
    asked: int = 0


_budget: contextvars.ContextVar[_Budget | None] = contextvars.ContextVar("budget", default=None)


def _spend(amount: int) -> None:
    budget = _budget.get()
    if budget is None:
        return
    budget.left -= amount
    if budget.left < 0:
        raise BudgetError("it writes or repeats too much")
    budget.asked += 1
    if budget.asked % 64 == 0 and time.thread_time() > budget.until:
        raise BudgetError(f"it takes more than {_SECONDS} seconds")


def _length(value: Any) -> int:
    """Of the value itself, not of what its entries hold."""
    if isinstance(value, int):
        return 1 + value.bit_length() // _WORD
    return 1 + (len(value) if isinstance(value, collections.abc.Sized) else 0)


def _size(value: Any) -> int:
    """Characters of the value as text, about. Spends on the way: a list in a list in a list ... may be endless."""
    if isinstance(value, str):
        return 1 + len(value)
    total, left = 0, [value]
    while left:
        one = left.pop()
        total += 1
        if isinstance(one, (str, bytes)):
            total += len(one)
        elif isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, *_VIEWS)):
            left += one  # pyrefly: ignore
        elif isinstance(one, int):
            total += one.bit_length() // _WORD
        _spend(_ENTRY)
    return total


def _product(values: Iterable[Any]) -> int:
    found = 1
    for value in values:
        found *= 1 + (abs(value) if isinstance(value, int) else _size(value))
    return found


def _widths(text: Any) -> int:
    """Of a text that is filled in, what its widths multiply, such as "%100d"."""
    found = re.findall(r"\d+", text if isinstance(text, str) else repr(text))
    return 1 + max((int(digits) if len(digits) < 10 else _MOST for digits in found), default=0)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _spend(_STEP)
        yield value


def _shown(value: Any) -> Any:
    _spend(_size(value))
    return value


def _copied(value: Any) -> Any:
    _spend(_length(value))
    return value


def _filter(name: str, function: Any) -> Any:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        own = [*args[first:], *kwargs.values()]
        if name in _FILTERS:
            _spend(_STEP + 8 * _length(own[0] if own else None))
        else:
            _spend(_STEP + _product(own) * (_widths(own[0]) if name == "format" and own else 1))
        made = function(*args, **kwargs)
        return _each(made) if isinstance(made, types.GeneratorType) else made

    return counted


class _Counted(jinja2.visitor.NodeTransformer):
    """Puts the counting filters into a template."""

    def _through(self, name: str, node: Any) -> Any:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._through("_each", node.iter)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)  # so that `finalize` sees it

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._through("_shown", part) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._through("_shown", node.expr)
        for operand in node.ops:
            operand.expr = self._through("_shown", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._through("_copied", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._through("_shown", node) if node.ctx == "load" else node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._through("_shown", node)

    visit_Dict = visit_List

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        return self._through("_copied", node)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks answers for transformers, and writes what stands in it."""

    tags = {"generation"}  # noqa: RUF012  jinja2 wants a set

    def parse(self, parser: Any) -> Any:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(lineno)

    def _written(self, caller: Any) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """Without names that begin with an underscore, as transformers has it."""

    def __init__(*args: Any, **kwargs: Any):
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)  # attributes of its own are what the template has put there
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot have {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@jinja2.pass_context  # so that nothing is computed before the template runs
def _finalize(_: Any, value: Any) -> Any:
    return _shown(value)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        extensions = [_Generation, jinja2.ext.loopcontrols]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_finalize, optimized=False
        )
        known = {**self.filters, "tojson": _tojson}
        self.filters = {name: _filter(name, made) for name, made in known.items() if name not in _UNBOUNDED}
        self.filters |= {"_each": _each, "_shown": _shown, "_copied": _copied}
        known_globals: dict[str, Any] = self.globals
        known_globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: datetime.datetime.now().strftime(format),
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
            "namespace": _Namespace,
        }
        del known_globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Counted().visit(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _spend(_STEP)
        if isinstance(__obj, LoopContext) and args:  # a loop within itself
            args = (_each(args[0]), *args[1:])
        name = getattr(__obj, "__name__", "")
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            given = [*args[name == "replace" :], *kwargs.values()]
            if name in _METHODS:
                _spend(8 * _length(owner))
            else:
                _spend(_product([owner, *given]) * (_widths(owner) if name.startswith("format") else 1))
        elif owner is not None:
            _spend(_length(owner))
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            _spend(_length(left) + _length(right))
        elif operator == "%":
            _spend(_product([left, right]) * _widths(left) if isinstance(left, (str, bytes)) else _length(left))
        elif operator == "**":
            _spend((1 + _bits(left)) * (1 + abs(right)) if isinstance(right, int) else 1)
        else:
            pair = ((left, right), (right, left))
            sizes = [abs(a) if isinstance(a, int) and isinstance(b, Sequence) else _length(a) for a, b in pair]
            _spend(sizes[0] * sizes[1])
        return super().call_binop(context, operator, left, right)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 1


@functools.cache
def _environment() -> _Environment:
    return _Environment()


@functools.lru_cache(32)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
    """The conversation in the tokenizer's template; prompt: up to where an answer starts. messages: JSON values alone.

    Raises BudgetError for a template that does too much, and otherwise whatever a template raises.
    """
    template = tokenizer.get_chat_template()
    if len(template) > _LONGEST:
        raise BudgetError(f"it has {len(template):,} characters, expected at most {_LONGEST:,}")
    said = sum(_size(message) for message in messages)
    most = min(_LEAST + _PER_CHARACTER * said, _MOST)
    token = _budget.set(_Budget(most, time.thread_time() + _SECONDS))
    try:
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        return _compiled(template).render(**{**tokenizer.special_tokens_map, **given})
    finally:
        _budget.reset(token)
