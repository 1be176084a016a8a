start_all()
server.succeed("systemctl start nginx")
server.wait_for_open_port(80)
seen = []


@polling_condition
def served():
    "the server serves"
    seen.append("served")
    client.succeed("curl -sSf --max-time 5 http://server/ > /dev/null")


@polling_condition(seconds_interval=0.1, description="nginx runs")
def running():
    seen.append("running")
    status, _ = server.execute("pgrep -x nginx")
    return status == 0


with subtest("a condition can be waited for"):
    served.wait(timeout=60)

with subtest("conditions are checked while other things go on"):
    seen.clear()
    with served, running:
        client.succeed("sleep 3")
        client.succeed("true")
    assert seen.count("running") >= 3, seen
    assert "served" in seen

with subtest("one that does not hold any more ends what goes on"):
    server.succeed(
        "systemd-run -q --on-active=500ms --timer-property=AccuracySec=1ms systemctl stop nginx"
    )
    with t.assertRaisesRegex(Exception, "nginx runs"):
        with running:
            client.sleep(600)

with subtest("afterwards nobody asks for it"):
    count = len(seen)
    client.sleep(1)
    assert len(seen) == count
