start_all()
broker.succeed(
    "printf '%s\\n' 'listener 1883' 'allow_anonymous false' 'password_file /etc/mosquitto/users' "
    "> /etc/mosquitto/conf.d/test.conf",
    "touch /etc/mosquitto/users",
    "mosquitto_passwd -b /etc/mosquitto/users tester secret",
    "chown mosquitto: /etc/mosquitto/users",
    "systemctl start mosquitto",
)
broker.wait_for_unit("mosquitto")
broker.wait_for_open_port(1883)
access = "-h broker -u tester -P secret"

with subtest("who has no password is refused"):
    publisher.fail("mosquitto_pub -h broker -t news -m hello")

with subtest("what is published arrives"):
    subscriber.execute(
        f"mosquitto_sub {access} -t 'news/#' -v -C 2 > /tmp/news 2> /dev/null &",
        check_output=False,
    )
    broker.wait_until_succeeds(
        "journalctl -u mosquitto | grep -c tester || grep tester /var/log/mosquitto/mosquitto.log"
    )
    publisher.wait_until_succeeds(
        f"mosquitto_pub {access} -t news/local -m hello && "
        f"mosquitto_pub {access} -t news/far -m world"
    )
    subscriber.wait_until_succeeds("test $(wc -l < /tmp/news) = 2")
    assert subscriber.succeed("sort /tmp/news") == "news/far world\nnews/local hello\n"

with subtest("a retained message waits for its reader"):
    publisher.succeed(f"mosquitto_pub {access} -t state -r -m on")
    assert subscriber.succeed(f"mosquitto_sub {access} -t state -C 1 -W 30") == "on\n"
