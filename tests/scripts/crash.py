disk = "/dev/disk/by-id/virtio-disk0"
machine.start()
machine.wait_for_unit("multi-user.target")

with subtest("a file system on the disk"):
    machine.succeed(f"mkfs.ext4 -q {disk}", "mkdir -p /data", f"mount {disk} /data")
    machine.succeed("echo kept > /data/kept", "sync", "echo lost > /tmp/lost")

with subtest("a crash leaves what was written out"):
    assert machine.is_up()
    machine.crash()
    assert not machine.is_up()
    machine.start()
    machine.wait_for_unit("multi-user.target")
    machine.fail("test -e /tmp/lost")
    machine.succeed("mkdir -p /data", f"mount {disk} /data")
    assert machine.succeed("cat /data/kept") == "kept\n"

with subtest("so does an orderly end"):
    machine.succeed("echo more > /data/more")
    machine.shutdown()
    assert not machine.is_up()
    machine.start()
    machine.succeed("mkdir -p /data", f"mount {disk} /data")
    assert machine.succeed("cat /data/more") == "more\n"
