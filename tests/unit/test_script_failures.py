"""What a script that has failed says: where, what, what was compared, and what came before."""

from __future__ import annotations

from pathlib import Path

import pytest

import attest
from attest.errors import UsageError
from attest.events import EventLog
from attest.machine.conditions import PollingCondition
from attest.report.traceback import bounded, failure_lines
from attest.script.run import ScriptRun
from attest.support.concurrency import wait_all


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


def test_a_chain_may_be_longer_than_python_calls_deep() -> None:
    lines = said(
        "last = None\n"
        "for number in range(3000):\n"
        "  new = ValueError(number)\n"
        "  new.__context__, last = last, new\n"
        "raise last"
    )
    assert (lines[0], lines[-1]) == ("ValueError: 2999", "ValueError: 0")


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


def failed(text: str, **names: object) -> list[str]:
    """All that is told of a script that fails."""
    script = ScriptRun(60)
    script.load(text, "test.py")
    with pytest.raises(BaseException) as caught:
        script.run({"UsageError": UsageError, "wait_all": wait_all, **names})
    return failure_lines(caught.value, "test.py")


def test_an_error_of_attest_tells_what_the_script_was_handling() -> None:
    handling = "try:\n  1 / 0\nexcept Exception:\n  raise UsageError('no', hint='h')"
    assert failed(handling)[2:] == [
        "no", "  hint: h", "This was raised while the script handled:",
        "test.py:2: in <module>", "    1 / 0", "ZeroDivisionError: division by zero",
    ]  # fmt: skip
    because = handling.replace("Exception:", "Exception as e:") + " from e"
    assert failed(because)[4] == "This was raised because of:"
    assert failed(handling + " from None")[2:] == ["no", "  hint: h"]


def test_what_attest_has_met_inside_is_no_news() -> None:
    def inside() -> None:
        try:
            raise OSError("of attest's own")
        except OSError as error:
            raise UsageError("all that there is to know") from error

    inside.__code__ = inside.__code__.replace(co_filename=attest.__file__)
    assert failed("inside()", inside=inside) == [
        "test.py:1: in <module>", "    inside()", "all that there is to know",
    ]  # fmt: skip


def test_all_parts_of_a_group_are_told() -> None:
    lines = failed(
        "def part(text):\n"
        "  try:\n"
        "    raise ValueError(text)\n"
        "  except ValueError as error:\n"
        "    return error\n"
        "raise ExceptionGroup('both', [part('one'), UsageError('two', hint='h')])"
    )
    assert lines[2:] == [
        "ExceptionGroup: both (2 sub-exceptions)",
        "Part 1 of 2:", "  test.py:3: in part", "      raise ValueError(text)", "  ValueError: one",
        "Part 2 of 2:", "  two", "    hint: h",
    ]  # fmt: skip


def test_all_that_failed_in_threads_is_told() -> None:
    lines = failed(
        "import threading\n"
        "both = threading.Barrier(2)\n"
        "def fail(n):\n"
        "  both.wait()\n"
        "  raise KeyError(n) if n else UsageError('none', hint='h')\n"
        "wait_all([0, 1], fail)"
    )
    text = "\n".join(lines)
    for told in ("KeyError: 1", "none\n  hint: h", "test.py:5: in fail", "test.py:6: in <module>"):
        assert told in text
    assert "also failed: " in text
    assert "Also failed, in another thread:\ntest.py:5: in fail" in text


def test_the_lines_of_imported_modules_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_it.py").write_text("import json\n\ndef load(text):\n    json.loads(text)\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = failed("import beside_it\nbeside_it.load('{')")
    assert lines[:4] == [
        "test.py:2: in <module>", "    beside_it.load('{')",
        f"{tmp_path}/beside_it.py:4: in load", "    json.loads(text)",
    ]  # fmt: skip
    assert lines[4].startswith("json.decoder.JSONDecodeError: Expecting")
    assert len(lines) == 5
    (tmp_path / "broken_one.py").write_text("def f(:\n")
    text = "\n".join(failed("import broken_one"))
    assert f'File "{tmp_path}/broken_one.py", line 1' in text
    assert "frozen importlib" not in text


def test_an_endless_recursion_is_not_told_in_full() -> None:
    lines = failed("def f(n):\n  f(n + 1)\nf(0)")
    assert len(lines) < 50
    assert any(line.startswith("[… 9") and line.endswith(" calls …]") for line in lines)
    assert lines[-1].startswith("RecursionError: ")


def test_what_is_long_is_cut_in_the_middle() -> None:
    lines = failed("raise ValueError('x' * 3_000_000 + 999 * '\\ny')")
    shown = bounded(lines)
    assert len("".join(shown)) < 5_000
    assert f"[… {3_000_000 + len('ValueError: ') - 1999:,} characters …]" in shown[2]
    assert "[… 802 lines …]" in shown
    assert bounded(lines[:2]) == lines[:2]


def test_a_polling_condition_tells_what_its_check_raised() -> None:
    condition = PollingCondition(lambda: None, EventLog(), 0)
    lines = failed(
        "def check():\n"
        "  raise UsageError('no', hint='h')\n"
        "condition._condition = check\n"
        "condition.require()",
        condition=condition,
    )
    assert lines[2].startswith("polling condition failed: ")
    assert lines[3:] == [
        "This was raised because of:", "test.py:2: in check",
        "    raise UsageError('no', hint='h')", "no", "  hint: h",
    ]  # fmt: skip
