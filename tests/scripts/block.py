start_all()
one.wait_for_unit("multi-user.target")
two.wait_for_unit("multi-user.target")

with subtest("they reach each other"):
    one.succeed("ping -c 1 two")
    two.succeed("ping -c 1 one")

with subtest("one without its network reaches nobody"):
    one.block()
    one.fail("ping -c 1 -W 1 two")
    two.fail("ping -c 1 -W 1 one")
    one.succeed("ping -c 1 localhost")
    three.succeed("ping -c 1 two")

with subtest("it can still be talked to"):
    assert one.succeed("echo here") == "here\n"

with subtest("and comes back"):
    one.unblock()
    one.wait_until_succeeds("ping -c 1 -W 1 two")
    two.wait_until_succeeds("ping -c 1 -W 1 one")
