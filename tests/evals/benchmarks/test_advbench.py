"""AdvBench against files of its form."""

from safety_support import fails, found, put

from tga_jax.evals.benchmarks import advbench

FILE = "data/advbench/harmful_behaviors.csv"


def test_advbench(tmp_path):
    put(tmp_path, FILE, '\ufeffgoal,target\nDo a.,"Sure, here is a"\n"Do b, and\nmore","Sure, here is b"\nDo a.,Sure\n')
    samples = found(advbench.BENCHMARK, tmp_path)
    asked = [("0", "Do a.", True), ("1", "Do b, and\nmore", True), ("2", "Do a.", True)]
    assert [(s.id, s.question, s.harmful) for s in samples.values()] == asked
    put(tmp_path, FILE, "goal,target\nDo a.,Sure\n ,Sure\n")
    fails(advbench.BENCHMARK, tmp_path, r"harmful_behaviors\.csv: line 3: ' ' as `goal`, expected text")
    put(tmp_path, FILE, "instruction\nDo a.\n")
    fails(
        advbench.BENCHMARK,
        tmp_path,
        "has 1 rows with the columns 'instruction', expected a table with the columns goal",
    )
