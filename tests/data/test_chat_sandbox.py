"""Chat templates that never end, fill the memory or raise: one line, soon; all others as transformers renders them."""

import resource

import pytest
from tokenizer_support import llama_like

from tga_jax.data import chat_sandbox
from tga_jax.data.processor import Processor
from tga_jax.errors import UserError

ASKED = [{"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return llama_like(tmp_path_factory.mktemp("tokenizer"))


_DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(40) %}CHANGE{% endfor %}{{ messages[0].content }}"
_MANY = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
_NESTED = "{% set ns = namespace(x=1, y=1) %}{% for i in range(99) %}{% set ns.x = START %}{% set ns.y = START2 %}"
HOSTILE = {
    "loops": _MANY.replace("BODY", ""),
    "loops that write": _MANY.replace("BODY", "a" * 999),
    "a loop of 10^9": "{% for i in range(10**9) %}{% endfor %}",
    "loops within themselves": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 99 }}{% endfor %}",
    "a loop that is long within itself": "{% for i in range(9999) recursive %}{{ loop(range(9999)) if loop.depth < 9 }}"
    "{% endfor %}",
    "times": "{{ 'a' * 10**9 }}",
    "a list, times": "{{ [1] * 10**9 }}",
    "a power": "{{ 10 ** 10 ** 9 }}",
    "squares": _DOUBLED.replace("'ab'", "3").replace("CHANGE", "{% set ns.x = ns.x * ns.x %}"),
    "doubled by +": _DOUBLED.replace("CHANGE", "{% set ns.x = ns.x + ns.x %}"),
    "doubled by ~": _DOUBLED.replace("CHANGE", "{% set ns.x = ns.x ~ ns.x %}"),
    "doubled by a block": _DOUBLED.replace("CHANGE", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "doubled by a format": _DOUBLED.replace("CHANGE", "{% set ns.x = '{0}{0}'.format(ns.x) %}"),
    "doubled by %": _DOUBLED.replace("CHANGE", "{% set ns.x = '%s%s' % (ns.x, ns.x) %}"),
    "doubled by a filter": _DOUBLED.replace("CHANGE", "{% set ns.x = ns.x | replace('a', 'aa') %}"),
    "doubled by a method": _DOUBLED.replace("CHANGE", "{% set ns.x = ns.x.replace('', 'aa') %}"),
    "doubled by join": _DOUBLED.replace("CHANGE", "{% set ns.x = ns.x.join([ns.x, ns.x]) %}"),
    "doubled by JSON": _DOUBLED.replace("CHANGE", "{% set ns.x = [ns.x, ns.x] | tojson %}"),
    "a width": "{{ '%1000000000d' % 1 }}",
    "a width of format": "{{ '{:1000000000}'.format(1) }}",
    "a width as argument": "{{ '{:{}}'.format(1, 10**9) }}",
    "a filter's width": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "center by a filter": "{{ 'a' | center(10**9) }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "batch": "{{ [1] | batch(10**9, 0) | list }}",
    "center of each": "{{ ['a'] | map('center', 10**9) | list }}",
    "round": "{{ 5 | round(-10**9) }}{{ 5 | round(10**9, 'ceil') }}",
    "bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "filters of filters": "{% for i in range(9999) %}{{ range(99999) | map('string') | map('string') | list | length }}"
    "{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "lists of lists that are equal": _NESTED.replace("START2", "[ns.y, ns.y]").replace("START", "[ns.x, ns.x]")
    + "{% endfor %}{{ ns.x == ns.y }}",
    "tuples of tuples as a key": _NESTED.replace("START2", "1").replace("START", "(ns.x, ns.x)")
    + "{% endfor %}{{ {ns.x: 1} }}",
    "slices": "{% set ns = namespace(x=[]) %}{% set a = 'a' * 999999 %}{% for i in range(99999) %}"
    "{% set ns.x = [a[1:]] + ns.x %}{% endfor %}",
    "lorem ipsum": "{{ lipsum(10**9) }}",
    "parentheses": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "a length": "a" * 10**7,
    "a type": "{{ messages[0].content + 1 }}",
    "no number": "{{ 1 // 0 }}",
    "a file": "{% include '/etc/passwd' %}",
    "what is not there": "{{ nothing.at.all }}",
    "cut off": "{% for m in messages %}",
    "not the sandbox": "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused(tokenizer, name):
    tokenizer.chat_template = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"^the tokenizer's chat template") as error:
        Processor(tokenizer).chat(ASKED)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


# What published templates are made of.
PLAIN = {
    "namespaces": "{% set ns = namespace(n=0, seen=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% if not ns.seen and m.role == 'user' %}{% set ns.seen = true %}{{ ns.n }}{% endif %}{{ m.content }}{% endfor %}",
    "macros": "{% macro show(m, last=false) %}{{ m.role }}: {{ m['content'] | trim }}{{ '!' if last }}{% endmacro %}"
    "{% for m in messages %}{{ show(m, last=loop.last) }} {% endfor %}"
    "{% macro framed() %}<{{ caller() }}>{% endmacro %}{% call framed() %}a{% endcall %}",
    "loops": "{%- for m in messages -%}{{ loop.index ~ '/' ~ loop.length ~ loop.cycle('a', 'b') }}"
    "{% if loop.first %}{% continue %}{% endif %}{{ loop.previtem.role }}{{ loop.revindex0 }}{% if loop.index > 3 %}"
    "{% break %}{% endif %}\n    {%- else %}none{% endfor %}",
    "filters": "{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | unique | join(', ') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ (messages | last).content | upper }}"
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | first | default('-') }}"
    "{{ messages[0] | items | list }}{{ messages[0] | dictsort }}{{ messages[0].content | replace('a', 'bb') }}"
    "{{ 'x\ny' | indent(4, true) }}{{ '%05d' % 3 }}{{ '%s' | format(2) }}{{ [3, 1] | sort | string }}{{ 2 | round }}",
    "texts": "{% set t = messages[-1].content %}{{ t.split(' ')[-1].lstrip('A').replace('a', 'b') }}{{ t[::-1] }}"
    "{{ t.startswith(('a', 'W')) }}{{ '-'.join(['a', 'b']) }}{{ '{:>4}|{}'.format(1, t) }}"
    "{{ 'W' in t and t is string }}"
    "{{ 'a' * 3 + 'b' }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 1 / 4 }}{{ t | e }}",
    "sets": "{%- set block %}\n  <{{ bos_token }}>\n{% endset -%}\n  {% if messages is defined and tools is none %}\n"
    "{{ block }}{{ {'a': [1, (2, none)]} }}{{ dict(a=1) }}{{ undefined_name }}{{ [1] + [2] }}\n  {% endif %}\n"
    "{{ true }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "recursion": "{% for m in [1, [2, [3]]] recursive %}{{ loop(m) if m is iterable else m }}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_other_templates_are_rendered_as_transformers_does(tokenizer, name):
    tokenizer.chat_template = PLAIN[name]
    asked = [
        {"role": "system", "content": " a <b> & 'c' "},
        {"role": "user", "content": "What a day?"},
        {"role": "assistant", "content": "A \"good\" one\n"},
        {"role": "user", "content": "Why?"},
    ]  # fmt: skip
    for prompt in (False, True):
        expected = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=prompt)
        assert chat_sandbox.render(tokenizer, asked, prompt) == expected


def test_a_long_conversation_is_within_the_budget(tokenizer):
    tokenizer.chat_template = PLAIN["macros"] + "{% for m in messages %}{{ m.content.replace('<think>', '') }}"
    tokenizer.chat_template += "{{ m.content.split('</think>')[-1].strip() }}{{ m == messages[-1] }}{% endfor %}"
    asked = [{"role": "user", "content": "a word " * 100}] * 1000
    assert len(chat_sandbox.render(tokenizer, asked, True)) > 2 * 10**6
