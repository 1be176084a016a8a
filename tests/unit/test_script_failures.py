"""What a script that has failed says: where, what, what was compared, and what came before."""

from __future__ import annotations

import pytest

from attest.errors import UsageError
from attest.report.traceback import failure_lines
from attest.script.run import ScriptRun


def run_script(text: str) -> None:
    script = ScriptRun(60)
    script.load(text, "test.py")
    script.run({"UsageError": UsageError})


def said(text: str) -> list[str]:
    with pytest.raises(BaseException) as caught:
        run_script(text)
    lines = failure_lines(caught.value, "test.py")
    assert lines[0].startswith("test.py:")
    return lines[2:]  # after its first line of the script


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("assert 2 == 3", ["AssertionError: assert 2 == 3", "  left: 2", "  right: 3"]),
        ("assert 2 == 3, 'no'", ["AssertionError: no", "assert 2 == 3", "  left: 2", "  right: 3"]),
        ("x = 0\nassert x", ["AssertionError: assert x", "  value: 0"]),
        ("assert 'a' in 'b'", ["AssertionError: assert 'a' in 'b'", "  left: 'a'", "  right: 'b'"]),
        ("a, b = 'x\\ny\\n', 'x\\nz\\n'\nassert a == b",
         ["AssertionError: assert a == b", "  - left, + right:", "    x", "  - y", "  + z"]),
        ("open('/not/there')",
         ["FileNotFoundError: [Errno 2] No such file or directory: '/not/there'"]),
        ("raise UsageError('no', hint='yes')", ["no", "  hint: yes"]),
        ("import sys\nsys.exit(3)", ["SystemExit: 3"]),
    ],
)  # fmt: skip
def test_what_is_told(text: str, lines: list[str]) -> None:
    assert said(text) == lines


def test_long_values_are_cut_and_say_so() -> None:
    (_, left, right) = said("assert 'x' * 5000 == 1")
    assert left == f"  left: '{'x' * 399}… (5002 characters)"
    assert right == "  right: 1"


def test_a_message_of_many_lines_is_cut() -> None:
    lines = said("a, b = ('\\n'.join(map(str, range(n))) for n in (2, 100))\nassert a == b")
    assert lines[-1] == "  … 60 more lines"


def test_each_side_is_evaluated_once_and_in_order() -> None:
    text = "seen = []\nassert seen.append(1) or seen.append(2) == seen.append(3)\n"
    lines = said(f"{text}assert seen.append(4) == (seen.append(5) or seen)")
    assert lines[-1] == "  right: [1, 2, 3, 4, 5]"


def test_the_chain_of_causes_is_told() -> None:
    lines = said("try:\n  1 / 0\nexcept Exception as error:\n  raise ValueError('x') from error")
    assert lines == [
        "ValueError: x", "This was raised because of:", "test.py:2: in <module>", "    1 / 0",
        "ZeroDivisionError: division by zero",
    ]  # fmt: skip
    lines = said("try:\n  1 / 0\nexcept Exception:\n  open('/not/there')")
    assert lines[1] == "This was raised while the script handled:"
    assert said("try:\n  1 / 0\nexcept Exception:\n  raise ValueError from None") == ["ValueError"]


def test_asserts_in_functions_loops_and_classes_work() -> None:
    run_script(
        "class A:\n"
        "  x = 1\n"
        "  assert x == 1\n"
        "def f(n):\n"
        "  for i in range(n):\n"
        "    assert i < n, i\n"
        "  return [j for j in range(n)]\n"
        "assert f(3) == [0, 1, 2]\n"
        "assert (y := 3) == 3 and y\n",
    )
