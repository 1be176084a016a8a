machine.start()

with subtest("a container runs, from an archive, with an overlay for its root"):
    machine.succeed("mkdir -p /tmp/image/bin", "cp /bin/busybox /tmp/image/bin/sh")
    machine.succeed("tar -C /tmp/image -c . | podman import - small")
    assert machine.succeed("podman info --format '{{.Store.GraphDriverName}}'") == "overlay\n"
    run = "podman run --rm --network=none --cgroups=disabled small /bin/sh -c"
    assert machine.succeed(f"{run} 'echo $((6 * 7)) > /file; cat /file'") == "42\n"
    assert "overlay" in machine.succeed(f"{run} 'mount | head -n 1'")

with subtest("images are kept over a reboot"):
    machine.reboot()
    assert "small" in machine.succeed("podman images")
