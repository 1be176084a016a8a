start_all()
address = "192.168.1.200"

for machine, priority in ((first, 150), (second, 100)):
    machine.succeed(
        f"""cat > /etc/keepalived/keepalived.conf <<'EOF'
vrrp_instance web {{
    interface eth0
    virtual_router_id 5
    priority {priority}
    advert_int 0.2
    version 3
    virtual_ipaddress {{
        {address}/24
    }}
}}
EOF""",
        f"echo {machine.name} > /var/www/html/index.html",
        "systemctl start nginx keepalived",
    )
    machine.wait_for_unit("keepalived.service")
    machine.wait_for_open_port(80)

with subtest("the one with the higher priority has the address"):
    client.wait_until_succeeds(f"curl -sSf --max-time 2 http://{address}/ | grep first")
    second.fail(f"ip addr show dev eth0 | grep {address}")

with subtest("the other takes it over"):
    first.crash()
    client.wait_until_succeeds(f"curl -sSf --max-time 2 http://{address}/ | grep second")
    second.succeed(f"ip addr show dev eth0 | grep {address}")
