"""Mutation testing: small faults, one at a time, in what computes losses, masks, verdicts and scores; the tests of each
module have to fail on them.

    pip install cosmic-ray
    python tests/reliability/mutants.py                             all groups, and a table: about an hour on two cores
    python tests/reliability/mutants.py GROUP... --sample=N --seed=S   these, N mutants drawn of each

A mutant lives in the memory of a process that is forked for it, never in a file. Those that survive are printed; those
of `survivors.md` are known, with the reason, and any other makes the status 1. Strings and annotations are not mutated.
"""

import argparse
import ast
import dataclasses
import importlib
import importlib.machinery
import itertools
import os
import random
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.md")


@dataclasses.dataclass(frozen=True)
class Group:
    """skip: functions that are left out, with the reason beside them. tests: files, or single tests."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    skip: tuple[str, ...] = ()


_ASKED = (  # the judges that are models, but not those at an endpoint
    "reading_replies",
    "reading_replies_about_safety",
    "a_model_is_asked_about_safety",
    "a_model_is_asked_about_answers_with_words_only",
    "a_model_is_not_asked_for_nothing",
    "too_few_replies_are_an_error",
)
_PHRASES = (  # but not the time they take
    "refusals",
    "answers",
    "partial_refusals",
    "nothing_said_is_unknown",
    "any_text_gets_a_verdict",
    "as_a_judge",
    "a_judgement_answers_questions_for_yes_or_no",
    "each_pattern_is_needed",
    "only_the_beginning_is_read",
)
GROUPS = {
    "losses": Group(("losses",), ("test_losses.py",)),
    "guides": Group(
        ("guides/base", "guides/pooled", "guides/transport", "guides/twin"),
        (
            "guides/test_guide_parts.py", "guides/test_pooled.py", "guides/test_twin.py", "guides/test_transport.py",
        ),
    ),
    "packing": Group(("models/packing",), ("models/test_packing.py",)),
    "attention": Group(
        ("models/attention",),
        ("models/test_attention.py",),
        skip=("_cudnn", "_by_device", "works"),  # they need a GPU, several devices and an accelerator
    ),
    "token masks": Group(
        ("data/tokens",),
        ("data/test_tokens.py", "data/test_token_masks.py", "data/test_special_tokens.py"),
        skip=("Vocabulary",),  # what it does is the tokenizer's
    ),
    "judges": Group(
        (
            "evals/judge", "evals/judges/agreement", "evals/judges/model", "evals/judges/phrases",
            "evals/judges/published",
        ),
        (
            "evals/test_judge.py", "evals/test_judge_limits.py", "evals/test_agreement.py", "evals/test_published.py",
            *(f"evals/test_judges.py::test_{name}" for name in _ASKED),
            *(f"evals/test_phrases.py::test_{name}" for name in _PHRASES),
        ),
    ),
    "scorers": Group(
        ("evals/choices", "evals/degenerate", "evals/outcomes", "evals/summary", "evals/vqa"),
        (
            "evals/test_outcomes.py", "evals/test_degenerate.py", "evals/benchmarks/test_choices.py",
            "evals/benchmarks/test_vqa_accuracy.py",
        ),
        skip=("remarks", "terminal_table", "terminal"),  # sentences and a terminal's layout
    ),
    "intervals": Group(("report/intervals",), ("report/test_intervals.py",)),
}  # fmt: skip

OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{pair}"
        for pair in (
            "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "LShift_RShift",
            "BitAnd_BitOr", "BitOr_BitAnd",
        )
    ),
    *(
        f"ReplaceComparisonOperator_{pair}"
        for pair in (
            "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
            "Is_IsNot", "IsNot_Is",
        )
    ),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("USub", "Not", "Invert")),
    "AddNot", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "NumberReplacer",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop", "ExceptionReplacer",
)  # fmt: skip
NAMES = {  # what cosmic-ray has no operator for
    "all": "any", "any": "all", "argmax": "argmin", "cumsum": "sum", "exp": "log", "fullmatch": "match", "log": "exp",
    "log_softmax": "softmax", "lower": "upper", "match": "search", "max": "min", "maximum": "minimum", "mean": "sum",
    "min": "max", "minimum": "maximum", "ones": "zeros", "search": "match", "softplus": "relu", "strip": "lstrip",
    "startswith": "endswith", "stop_gradient": "optimization_barrier",  # the identity, with a gradient
    "sum": "mean", "zeros": "ones",
}  # fmt: skip
PRELOADED = (
    "chex", "flax.linen", "hypothesis", "jax", "jax.numpy", "ml_collections", "numpy", "optax", "pytest", "rich.table",
    "scipy.stats", "tokenizers", "transformers",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    before: str
    after: str
    code: str

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    @property
    def row(self) -> tuple[str, str, str]:
        return self.file, self.before, self.after


def _operators() -> Iterator:
    import cosmic_ray.plugins
    import parso.python.tree
    from cosmic_ray.operators.operator import Operator

    class ReplaceName(Operator):
        def mutation_positions(self, node):
            if isinstance(node, parso.python.tree.Name) and node.value in NAMES:
                yield node.start_pos, node.end_pos

        def mutate(self, node, index):
            return parso.python.tree.Name(NAMES[node.value], node.start_pos, node.prefix)

        @classmethod
        def examples(cls):
            return ()

    yield ReplaceName()
    for name in OPERATORS:
        yield cosmic_ray.plugins.get_operator(f"core/{name}")()


class _Plain(ast.NodeTransformer):
    """Without annotations, which compute nothing, and the functions that are left out."""

    def __init__(self, skip: tuple[str, ...]):
        self.skip = skip

    def generic_visit(self, node):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
        if getattr(node, "name", None) in self.skip:
            return None
        return super().generic_visit(node)


def mutants(path: Path, skip: tuple[str, ...]) -> list[Mutant]:
    from cosmic_ray.mutating import mutate_code

    def plain(code: str) -> str:
        return ast.dump(_Plain(skip).visit(ast.parse(code)))

    source = path.read_text()
    found, seen = [], {plain(source)}
    for operator in _operators():
        at = 0
        while (code := mutate_code(source, operator, at)) is not None:
            at += 1
            try:
                key = plain(code)
            except SyntaxError:
                continue
            if key in seen:
                continue
            seen.add(key)
            pairs = zip(source.splitlines(), code.splitlines(), strict=False)
            line, (before, after) = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
            if any(before[: sign.start()] + before[sign.end() :] == after for sign in re.finditer(r"-(?=\d)", before)):
                continue  # the last axis is often also axis 1; -2 and 0 are tried in its place
            found.append(Mutant(str(path.relative_to(ROOT)), line, before.strip(), after.strip(), code))
    return sorted(found, key=lambda mutant: mutant.line)


def _tests(tests: tuple[str, ...], mutant: Mutant | None) -> None:
    """In a process of its own: never returns."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    if mutant is not None:
        usual = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader, name):
            own = name == mutant.module
            return compile(mutant.code, loader.path, "exec") if own else usual(loader, name)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    status = 70
    try:
        import pytest

        import tga_jax

        assert Path(tga_jax.__file__).is_relative_to(ROOT)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
        # File by file, as the first of them are often enough, and collecting the others takes seconds.
        for _, own in itertools.groupby(tests, lambda test: test.partition("::")[0]):
            if status := int(pytest.main([*options, *(str(ROOT / "tests" / test) for test in own)])):
                break
    finally:
        os._exit(status)


def passes(tests: tuple[str, ...], mutant: Mutant | None, limit: float) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, of forks: it has computed nothing yet here
        child = os.fork()
    if not child:
        os.setsid()
        _tests(tests, mutant)
    end = time.monotonic() + limit
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(done[1]) == 0


def known() -> dict[tuple[str, str, str], str]:
    """(file, line, what it becomes) -> why its survival is no matter."""
    found = {}
    for line in SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else ():
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) == 6 and cells[2].startswith("`"):
            found[cells[1], cells[2].strip("`"), cells[3].strip("`")] = cells[4]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--sample", type=int, help="so many mutants of each group; without: all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := set(args.groups) - set(GROUPS):
        parser.error(f"{', '.join(sorted(unknown))}: expected of {', '.join(GROUPS)}")
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="tga-mutants-") as folder:
        # Most programs of a mutant are those of the others.
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        for name in PRELOADED:
            importlib.import_module(name)
        import hypothesis

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure is enough: it is not shrunk
        hypothesis.settings.register_profile("mutants", max_examples=20, deadline=None, derandomize=True, phases=phases)
        return _report(args.groups or list(GROUPS), args.sample, args.seed)


def _report(groups: list[str], sample: int | None, seed: int) -> int:
    reasons, table, new = known(), [], 0
    for name in groups:
        group = GROUPS[name]
        every = [m for module in group.modules for m in mutants(ROOT / f"tga_jax/{module}.py", group.skip)]
        tried = every if sample is None else random.Random(seed).sample(every, min(sample, len(every)))
        start = time.monotonic()
        if not (passes(group.tests, None, 600) and passes(group.tests, None, 600)):
            print(f"{name}: its tests fail without a mutant")
            return 2
        limit = 30 + 5 * (time.monotonic() - start)
        print(f"{name}: {len(tried)} of {len(every)} mutants", flush=True)
        survived = []
        for mutant in tried:
            if passes(group.tests, mutant, limit):
                survived.append(mutant.row)
                print(f"{'known' if mutant.row in reasons else 'NEW  '} {mutant.file}:{mutant.line}")
                print(f"    {mutant.before}\n    {mutant.after}", flush=True)
        print(f"{name}: {len(tried) - len(survived)} killed in {time.monotonic() - start:.0f} s", flush=True)
        harmless = sum(row in reasons for row in survived)
        new += len(survived) - harmless
        killed = len(tried) - len(survived)
        shares = (f"{100 * killed / max(count, 1):.1f} %" for count in (len(tried), len(tried) - harmless))
        table.append((name, len(every), len(tried), killed, len(survived), harmless, *shares))
    print("\n| group | mutants | tried | killed | survived | of them known | share killed | without the known |")
    print("|---" * 8 + "|")
    for row in table:
        print(f"| {' | '.join(map(str, row))} |")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
