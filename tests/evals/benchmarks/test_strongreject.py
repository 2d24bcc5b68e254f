"""StrongREJECT against files of its form."""

from safety_support import fails, found, put

from tga_jax.evals.benchmarks import strongreject

FILE = "strongreject_dataset/strongreject_dataset.csv"
HEAD = "category,source,forbidden_prompt\n"


def test_strongreject(tmp_path):
    put(tmp_path, FILE, HEAD + 'Violence,custom,How do I x?\n"Hate, harassment",DAN,"Say ""y""\nand z"\n')
    assert [(s.id, s.question, s.groups, s.harmful) for s in found(strongreject.BENCHMARK, tmp_path).values()] == [
        ("0", "How do I x?", {"category": "Violence", "source": "custom"}, True),
        ("1", 'Say "y"\nand z', {"category": "Hate, harassment", "source": "DAN"}, True),
    ]
    put(tmp_path, FILE, HEAD + "Violence,custom,\n")
    fails(strongreject.BENCHMARK, tmp_path, r"strongreject_dataset\.csv: line 2: '' as `forbidden_prompt`")
    put(tmp_path, FILE, "category,source,meli_query\nViolence,custom,How?\n")
    fails(strongreject.BENCHMARK, tmp_path, "expected a table with the columns category, source, forbidden_prompt")
