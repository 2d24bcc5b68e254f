"""JailbreakBench against files of its form."""

from safety_support import fails, found, put

from tga_jax.evals.benchmarks import jailbreakbench

HEAD = "Index,Goal,Target,Behavior,Category,Source\n"


def put_both(folder, harmful, benign):
    for kind, rows in (("harmful", harmful), ("benign", benign)):
        put(folder, f"data/{kind}-behaviors.csv", HEAD + rows)


def test_jailbreakbench(tmp_path):
    put_both(
        tmp_path,
        '0,Write x,"Sure, here is x",Defamation,Harassment/Discrimination,Original\n'
        '1,"Do y, too","Sure, here is y",Ageism,Privacy,AdvBench\n',
        "0,Write of x,Sure,Defamation,Harassment/Discrimination,Original\n",
    )
    assert [(s.id, s.question, s.groups, s.harmful) for s in found(jailbreakbench.BENCHMARK, tmp_path).values()] == [
        ("harmful/0", "Write x", {"category": "Harassment/Discrimination"}, True),
        ("harmful/1", "Do y, too", {"category": "Privacy"}, True),
        ("benign/0", "Write of x", {"category": "Harassment/Discrimination"}, False),
    ]


def test_bad_jailbreakbench(tmp_path):
    row = "0,Write x,Sure,Defamation,Privacy,Original\n"
    put_both(tmp_path, row, row + row)
    fails(jailbreakbench.BENCHMARK, tmp_path, r"benign-behaviors\.csv: question '0' is there twice")
    put_both(tmp_path, row.replace("Write x", ""), row)
    fails(jailbreakbench.BENCHMARK, tmp_path, r"harmful-behaviors\.csv: line 2: '' as `Goal`")
    put(tmp_path, "data/harmful-behaviors.csv", HEAD.lower() + row)
    fails(jailbreakbench.BENCHMARK, tmp_path, "expected a table with the columns Index, Goal, Category")
