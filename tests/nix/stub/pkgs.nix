# A package set of nothing: each package is a derivation that only has a name, and tests are evaluated by `modules.nix`
# on top of the few options of NixOS that attest reads.
{ system }:
let
  lib = import ./lib.nix;
  inherit (import ./modules.nix { inherit lib; }) evalModules;

  derivationNamed =
    name: attributes:
    derivation {
      inherit name system;
      builder = "/bin/sh";
      text = attributes.text or "";
    }
    // {
      pname = name;
      version = "1.0";
    }
    // attributes
    // (attributes.passthru or { });
  option = default: lib.mkOption { inherit default; };
  undefined = lib.mkOption { };

  kernelPackages = version: {
    kernel =
      let
        kernel = derivationNamed "linux-${version}" { inherit version; };
      in
      kernel
      // {
        modDirVersion = version;
        dev = derivationNamed "linux-${version}-dev" { };
      };
  };

  # What NixOS and its test framework say of a node.
  nodeModule =
    name: number:
    { config, ... }:
    {
      options = {
        virtualisation = {
          memorySize = option 1024;
          cores = option 1;
          vlans = option [ 1 ];
          interfaces = option { };
          allInterfaces = option (
            builtins.listToAttrs (
              lib.imap1 (index: vlan: lib.nameValuePair "eth${toString index}" { inherit vlan; }) config.virtualisation.vlans
            )
          );
          emptyDiskImages = option [ ];
          additionalPaths = option [ ];
          writableStore = option true;
          useBootLoader = option false;
          graphics = option true;
          directBoot = {
            enable = option true;
            initrd = option "/initrd";
          };
          qemu.options = lib.mkOption { default = [ ]; } // {
            definitionsWithLocations = [ ];
          };
          test.nodeName = option name;
          test.nodeNumber = option number;
        };
        networking = {
          hostName = option name;
          domain = option null;
          useNetworkd = option false;
          extraHosts = option (hosts config.virtualisation);
          interfaces = option (
            builtins.mapAttrs (_: interface: {
              ipv4.addresses = [ { address = "192.168.${toString interface.vlan}.${toString number}"; } ];
              ipv6.addresses = [ { address = "2001:db8:${toString interface.vlan}::${toString number}"; } ];
            }) config.virtualisation.allInterfaces
          );
        };
        boot = {
          kernelPackages = option (kernelPackages "6.18.1");
          kernelParams = option [
            "console=ttyS0"
            "clocksource=acpi_pm"
            "panic=1"
          ];
          initrd.services.udev.rules = option ''
            ATTR{address}=="52:54:00:12:01:0${toString number}", NAME="eth1"
          '';
        };
        testing.backdoor = option true;
        testing.initrdBackdoor = option false;
        systemd.network.enable = option false;
        assertions = option [ ];
        services.nginx.enable = option false;
        # A node's system stands for all that it was made of.
        system.build = {
          toplevel = option (
            derivationNamed "nixos" {
              text = builtins.toJSON [
                config.system.name
                config.networking.extraHosts
                config.boot.initrd.services.udev.rules
                config.services.nginx.enable
              ];
            }
          );
          kernel = option config.boot.kernelPackages.kernel;
          attestGuest = undefined;
          vm = option (derivationNamed "run-${name}-vm" { });
        };
        system.name = option name;
        system.boot.loader.kernelFile = option "bzImage";
      };
    };
  hosts = virtualisation: "192.168.1.1 client\n192.168.1.${toString virtualisation.test.nodeNumber} me\n";

  # The test framework's options, as far as attest's modules know them.
  testModule = {
    options = {
      name = undefined;
      testScript = undefined;
      globalTimeout = option 3600;
      enableOCR = option false;
      skipLint = option false;
      skipTypeCheck = option false;
      logLevel = option "info";
      extraDriverArgs = option [ ];
      extraPythonPackages = option (_: [ ]);
      requiredFeatures = option {
        nixos-test = true;
        kvm = true;
      };
      meta = option { };
      driver = undefined;
      qemu.package = option pkgs.qemu_test;
      nodes = undefined;
      allMachines = undefined;
      testScriptString = undefined;
    };
  };
  # Definitions that are modules themselves are put aside before the rest is merged.
  aside = [
    "nodes"
    "defaults"
    "extraBaseNodeModules"
  ];
  runNixOSTest =
    test:
    let
      args = {
        inherit lib;
        hostPkgs = pkgs;
        config = evaluated.config;
        options = testModule.options;
      };
      flatten =
        module:
        if builtins.isPath module then
          flatten (import module)
        else if builtins.isFunction module then
          flatten (module (builtins.intersectAttrs (builtins.functionArgs module) args))
        else
          [ module ] ++ lib.concatMap flatten (module.imports or [ ]);
      content = module: module.config or module;
      flat = flatten test;
      modulesOf = name: lib.concatMap (module: lib.optional ((content module) ? ${name}) (content module).${name}) flat;
      rest = map (
        module:
        if module ? config then
          module // { config = removeAttrs module.config aside; imports = [ ]; }
        else
          removeAttrs module (aside ++ [ "imports" ])
      ) flat;
      definitions = builtins.foldl' (all: each: all // each) { } (modulesOf "nodes");
      names = builtins.attrNames definitions;
      nodes = builtins.listToAttrs (
        lib.imap1 (
          number: name:
          lib.nameValuePair name (evalModules {
            modules = [
              (nodeModule name number)
              definitions.${name}
            ]
            ++ modulesOf "defaults"
            ++ modulesOf "extraBaseNodeModules";
            args = {
              inherit pkgs name;
              inherit nodes;
              machineNumbers = builtins.listToAttrs (lib.imap1 (index: each: lib.nameValuePair each index) names);
            };
          }).config
        ) names
      );
      script = evaluated.config.testScript;
      evaluated = evalModules {
        modules = [
          testModule
          {
            nodes = builtins.mapAttrs (_: node: node // { __leaf = true; }) nodes // { __leaf = true; };
          }
        ]
        ++ rest;
        args = { hostPkgs = pkgs; };
      };
      config = evaluated.config // {
        nodes = nodes;
      };
    in
    derivationNamed "vm-test-run-${config.name}" {
      inherit config;
      inherit (config) driver;
    };

  pkgs = {
    inherit lib system;
    path = "/nixpkgs";
    stdenv = {
      hostPlatform = {
        inherit system;
        linuxArch = builtins.head (builtins.split "-" system);
        isAarch64 = false;
      };
      cc.bintools = derivationNamed "binutils" { };
    };
    testers = { inherit runNixOSTest; };
  };
in
pkgs
