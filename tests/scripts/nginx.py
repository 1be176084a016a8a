start_all()

server.succeed(
    "mkdir -p /var/www/site",
    "echo 'hello from nginx' > /var/www/site/index.html",
    "rm /etc/nginx/sites-enabled/default",
)
server.succeed(
    """cat > /etc/nginx/sites-enabled/site <<'EOF'
server {
    listen 80;
    root /var/www/site;
    location /private { return 403; }
    location /old { return 301 /index.html; }
}
EOF"""
)
server.succeed("systemctl start nginx.service")
server.wait_for_unit("nginx.service")
server.wait_for_open_port(80)

with subtest("the site is served to other machines"):
    assert client.succeed("curl -sSf http://server/") == "hello from nginx\n"

with subtest("status codes"):
    status = "curl -s -o /dev/null -w '%{http_code}' http://server"
    t.assertEqual(client.succeed(f"{status}/private"), "403")
    t.assertEqual(client.succeed(f"{status}/old"), "301")
    t.assertEqual(client.succeed(f"{status}/missing"), "404")
    client.fail("curl -sf http://server/missing")

with subtest("a reload takes a new page without a restart"):
    pid = server.get_unit_property("nginx.service", "MainPID")
    server.succeed("sed -i 's/403/418/' /etc/nginx/sites-enabled/site", "nginx -t -q")
    server.succeed("systemctl reload nginx.service")
    client.wait_until_succeeds(f"{status}/private | grep 418")
    assert server.get_unit_property("nginx.service", "MainPID") == pid

with subtest("a broken configuration is found before it does harm"):
    server.succeed("echo nonsense > /etc/nginx/sites-enabled/broken")
    code, _ = server.execute("nginx -t -q 2>/dev/null")
    assert code == 1
    server.fail("systemctl reload nginx.service")
    client.succeed("curl -sSf http://server/")
