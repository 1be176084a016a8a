calls = []


def third_time(last: bool) -> bool:
    calls.append(last)
    return len(calls) == 3


with subtest("it is called until it is content"):
    retry(third_time)
    assert calls == [False, False, False]

with subtest("the last call knows that it is the last"):
    calls.clear()

    def never(last: bool) -> bool:
        calls.append(last)
        return False

    with t.assertRaises(Exception):
        retry(never, timeout=1)
    assert calls[-1] and not any(calls[:-1])

with subtest("the outer part"):
    with subtest("holds an inner one"):
        with machine.nested("where something is done"):
            machine.succeed("true")
    log.info("both are told")
    machine.log("of the machine")

with subtest("commands that succeed late"):
    machine.execute("(sleep 0.5; touch /tmp/late) > /dev/null 2>&1 &")
    assert machine.wait_until_succeeds("ls /tmp/late") == "/tmp/late\n"
    machine.execute("(sleep 0.5; rm /tmp/late) > /dev/null 2>&1 &")
    machine.wait_until_fails("ls /tmp/late")

with subtest("time limits"):
    assert machine.execute("sleep 100", timeout=1) == (124, "")
    with t.assertRaises(Exception):
        machine.wait_until_succeeds("false", timeout=1)
    with t.assertRaises(Exception):
        machine.succeed("sleep 100", timeout=1)
