import re
from pathlib import Path


def test_example_runs_as_printed(capsys):
    readme = Path(__file__).parents[1] / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    assert len(example.splitlines()) <= 15
    exec(compile(example, str(readme), "exec"), {})
    out = capsys.readouterr().out
    assert "linear time" in out
    assert re.search(r"tensor\(\[0\.\d+, 0\.\d+, 0\.\d+\]\)", out)
