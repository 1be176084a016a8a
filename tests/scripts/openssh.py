start_all()

server.succeed("systemctl start ssh")
server.wait_for_unit("ssh.service")
server.wait_for_open_port(22)
options = "-o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=20"

with subtest("without a key nobody gets in"):
    client.fail(f"ssh {options} alice@server true")

with subtest("with the right key alice does"):
    client.succeed("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    key = client.succeed("cat ~/.ssh/id_ed25519.pub").strip()
    server.succeed(
        "install -d -m 700 -o alice -g alice /home/alice/.ssh",
        f"echo '{key}' > /home/alice/.ssh/authorized_keys",
        "chown alice: /home/alice/.ssh/authorized_keys",
    )
    assert client.succeed(f"ssh {options} alice@server id -un") == "alice\n"

with subtest("exit codes and input are carried"):
    code, _ = client.execute(f"ssh {options} alice@server exit 42")
    assert code == 42
    assert client.succeed(f"echo data | ssh {options} alice@server rev") == "atad\n"

with subtest("files are copied"):
    client.succeed("echo content > /tmp/file", f"scp {options} /tmp/file alice@server:copy")
    assert server.succeed("cat /home/alice/copy") == "content\n"
    assert server.succeed("stat -c %U /home/alice/copy") == "alice\n"

with subtest("a server with another key is refused"):
    server.succeed("rm /etc/ssh/ssh_host_*", "ssh-keygen -A", "systemctl restart ssh")
    server.wait_for_open_port(22)
    code, output = client.execute(f"ssh {options} alice@server true 2>&1")
    assert code == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in output
