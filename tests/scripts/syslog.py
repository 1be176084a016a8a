start_all()

with subtest("a collector takes messages from the network"):
    collector.succeed(
        "printf '%s\\n' 'module(load=\"imtcp\")' 'input(type=\"imtcp\" port=\"514\")' "
        "'if $fromhost-ip != \"127.0.0.1\" then /var/log/remote.log' > /etc/rsyslog.d/in.conf",
        "systemctl enable -q --now rsyslog",
    )
    collector.wait_for_open_port(514)

with subtest("the sender forwards its own"):
    sender.succeed(
        "echo '*.* @@collector:514' > /etc/rsyslog.d/out.conf",
        "systemctl enable -q --now rsyslog",
        "logger -t greeter 'hello from afar'",
    )
    collector.wait_until_succeeds("grep 'sender greeter: hello from afar' /var/log/remote.log")

with subtest("messages are kept apart by facility"):
    collector.succeed("logger -p auth.info 'a secret'", "logger -p mail.info 'a letter'")
    collector.wait_for_file("/var/log/mail.log")
    collector.wait_until_succeeds("grep 'a letter' /var/log/mail.log")
    collector.wait_until_succeeds("grep 'a secret' /var/log/auth.log")
    collector.fail("grep 'a secret' /var/log/mail.log")
