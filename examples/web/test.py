start_all()

with subtest("the server serves"):
    server.succeed("systemctl start nginx")
    server.wait_for_unit("nginx.service")
    server.wait_for_open_port(80)

with subtest("the client fetches the page by the server's name"):
    page = client.succeed("curl --fail --silent http://server/")
    assert page == "Hello from attest\n", page

with subtest("without its network the server cannot be reached, and with it again it can"):
    server.block()
    client.fail("curl --fail --silent --max-time 2 http://server/")
    server.unblock()
    client.wait_until_succeeds("curl --fail --silent http://server/")
