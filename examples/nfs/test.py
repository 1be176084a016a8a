start_all()
clients = [client1, client2]

server.succeed("systemctl enable --now --quiet nfs-server")
server.wait_for_open_port(2049)

with subtest("what one client writes the other reads"):
    wait_all(clients, lambda client: client.succeed("mount -t nfs4 server:/srv /mnt"))
    client1.succeed("echo one > /mnt/file")
    assert client2.succeed("cat /mnt/file") == "one\n"

with subtest("a lock of one client holds for the other"):
    client1.succeed(
        "systemd-run --quiet --unit=holder flock /mnt/lock sh -c"
        " 'while sleep 0.1; do date >> /mnt/written; done'"
    )
    server.wait_until_succeeds("test -s /srv/written")
    client2.fail("flock --nonblock /mnt/lock true")

with subtest("the server reboots: who writes goes on, and has its lock"):
    server.reboot()  # it knows from /var/lib/nfs who had locks, and lets them claim these again
    server.wait_for_open_port(2049)
    before = int(server.succeed("wc -l < /srv/written"))
    server.wait_until_succeeds(f"test $(wc -l < /srv/written) -gt {before}")
    client1.succeed("systemctl is-active holder")
    client2.fail("flock --nonblock /mnt/lock true")

with subtest("the lock is free when its holder ends"):
    client1.succeed("systemctl stop holder")
    client2.succeed("flock --nonblock /mnt/lock true")
