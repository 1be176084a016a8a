# What nix/bench-eval.sh evaluates: the same tests by nixpkgs' own framework and by attest.
{ pkgs }:
let
  inherit (pkgs) lib;
  # Nodes that differ, as in most tests.
  nodes =
    count:
    lib.genAttrs (map (index: "node${toString index}") (lib.range 1 count)) (name: {
      services.nginx = {
        enable = true;
        virtualHosts."${name}.test" = { };
      };
    });
  test =
    modules: count:
    pkgs.testers.runNixOSTest {
      imports = modules;
      name = "bench";
      nodes = nodes count;
      testScript = "start_all()";
    };
  attest = import ./modules/test.nix "firecracker";
in
{
  nixpkgs-1 = test [ ] 1;
  nixpkgs-4 = test [ ] 4;
  nixpkgs-8 = test [ ] 8;
  attest-1 = test [ attest ] 1;
  attest-4 = test [ attest ] 4;
  attest-8 = test [ attest ] 8;
  attest-4-replicas = test [
    attest
    { attest.replicas.node1 = 4; }
  ] 1;
  attest-8-replicas = test [
    attest
    { attest.replicas.node1 = 8; }
  ] 1;
}
