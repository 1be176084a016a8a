import pathlib
import tempfile

source = pathlib.Path(tempfile.mkdtemp())
(source / "tree" / "deep").mkdir(parents=True)
(source / "tree" / "deep" / "data").write_bytes(bytes(range(256)) * 100)
(source / "tree" / "run").write_text("#!/bin/sh\necho ran\n")
(source / "tree" / "run").chmod(0o755)

with subtest("a file and a tree go in"):
    machine.copy_from_host(str(source / "tree" / "run"), "/opt/bin/run")
    assert machine.succeed("/opt/bin/run") == "ran\n"
    machine.copy_from_host(str(source / "tree"), "/opt/tree")
    assert machine.succeed("/opt/tree/run") == "ran\n"
    machine.succeed("test $(stat -c %s /opt/tree/deep/data) = 25600")

with subtest("over the shell"):
    machine.copy_from_host_via_shell(str(source / "tree" / "deep" / "data"), "/opt/new/data")
    machine.succeed("cmp /opt/new/data /opt/tree/deep/data")

with subtest("and come out"):
    machine.succeed("rev /opt/tree/run > /opt/tree/nur")
    machine.copy_from_vm("/opt/tree", "results")
    out = pathlib.Path(machine.out_dir) / "results" / "tree"
    assert (out / "deep" / "data").read_bytes() == bytes(range(256)) * 100
    assert (out / "nur").read_text() == "hs/nib/!#\nnar ohce\n"
    machine.copy_from_machine("/etc/hostname")
    assert (machine.out_dir / "hostname").read_text() == "machine\n"
