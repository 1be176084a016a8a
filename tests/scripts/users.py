machine.wait_for_unit("multi-user.target")

with subtest("a user of ones own"):
    machine.succeed("useradd -m -s /bin/bash -G sudo bob", "echo bob:secret | chpasswd")
    assert machine.succeed("id -nG bob").split() == ["bob", "sudo"]
    assert machine.succeed("su - bob -c pwd") == "/home/bob\n"

with subtest("passwords are asked for"):
    machine.fail("su alice -c 'echo wrong | sudo -S -u bob true'")
    machine.succeed("su bob -c 'echo secret | sudo -S true'")
    machine.fail("su bob -c 'echo wrong | sudo -k -S true'")

with subtest("permissions hold"):
    machine.succeed(
        "echo mine > /home/bob/file", "chown bob: /home/bob/file", "chmod 600 /home/bob/file"
    )
    machine.fail("su alice -c 'cat /home/bob/file'")
    machine.succeed("setfacl -m u:alice:x /home/bob", "setfacl -m u:alice:r /home/bob/file")
    assert machine.succeed("su alice -c 'cat /home/bob/file'") == "mine\n"

with subtest("limits hold"):
    machine.succeed("echo 'alice hard nproc 77' > /etc/security/limits.d/alice.conf")
    assert machine.succeed("su - alice -c 'ulimit -u'") == "77\n"

with subtest("a user that is removed is gone"):
    machine.execute("loginctl terminate-user bob")
    machine.wait_until_fails("pgrep -u bob")
    machine.succeed("userdel -r bob 2>/dev/null")
    machine.fail("id bob", "test -e /home/bob")
