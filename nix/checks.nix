# The flake's own tests: a new one, one of nixpkgs' that is switched, and how much a test carries.
{ pkgs }:
let
  makeTest = import ./make-test.nix;
  web = {
    services.nginx.enable = true;
    networking.firewall.allowedTCPPorts = [ 80 ];
  };
  test =
    arguments:
    makeTest (
      {
        inherit pkgs;
        testScript = ''
          start_all()
          for machine in machines:
              machine.wait_for_open_port(80)
        '';
      }
      // arguments
    );
  one = test {
    name = "one";
    nodes.web = web;
  };
  four = test {
    name = "four";
    nodes.web = web;
    replicas.web = 4;
  };
  closure =
    check:
    pkgs.callPackage ./closure.nix { } {
      inherit (check) name;
      roots = [ check.driver ];
    };
in
{
  inherit one four;
  pair = test {
    name = "pair";
    nodes = {
      server = web;
      client = { };
    };
    testScript = ''
      server.wait_for_unit("nginx.service")
      client.succeed("curl --fail http://server/")
    '';
  };
  switched = pkgs.nixosTests.nginx.extend {
    modules = [ (import ./modules/test.nix "firecracker") ];
  };
  closure-one = closure one;
  closure-four = closure four;
}
