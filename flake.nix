{
  description = "VM integration tests that start like unit tests";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEachSystem =
        make:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEachSystem (pkgs: rec {
        attest = pkgs.callPackage ./nix/package.nix { };
        agent = pkgs.pkgsStatic.callPackage ./nix/agent.nix { };
        default = attest;
      });

      # For a guest that attest's driver is to talk to, in a test or elsewhere.
      nixosModules.guest = ./nix/modules/guest.nix;

      # For a test of NixOS's framework: `imports` in a new one, `.extend { modules = [ … ]; }` for one that exists.
      testModules = {
        attest = import ./nix/modules/test.nix "qemu";
        firecracker = import ./nix/modules/test.nix "firecracker";
        cloudHypervisor = import ./nix/modules/test.nix "cloud-hypervisor";
        qemu = ./nix/modules/driver.nix;
      };

      lib = {
        makeTest = import ./nix/make-test.nix;
        # A Firecracker of a fork or a revision, as in `firecracker { inherit pkgs; src = inputs.fork; cargoHash = "…"; }`.
        firecracker =
          { pkgs, ... }@arguments:
          pkgs.callPackage ./nix/firecracker.nix { } (removeAttrs arguments [ "pkgs" ]);
      };

      checks = forEachSystem (
        pkgs:
        {
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) attest agent;
        }
        // import ./nix/checks.nix { inherit pkgs; }
      );

      # The tests whose evaluation nix/bench-eval.sh measures.
      bench = forEachSystem (pkgs: import ./nix/bench.nix { inherit pkgs; });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${pkgs.stdenv.hostPlatform.system}.attest ];
          packages = [
            pkgs.qemu_test
            pkgs.erofs-utils
            pkgs.ruff
            pkgs.mypy
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
