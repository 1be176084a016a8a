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
    name: number: numbers:
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
          sharedDirectories = option { xchg = { }; };
          qemu = lib.genAttrs [ "options" "drives" "networkingOptions" ] (
            _: option [ ] // { definitionsWithLocations = [ ]; }
          );
          test.nodeName = option name;
          test.nodeNumber = option number;
        };
        networking = {
          hostName = option name;
          domain = option null;
          useNetworkd = option false;
          extraHosts = option (hosts numbers);
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
        environment.variables = option { EDITOR = "nano"; };
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
  hosts =
    numbers:
    lib.concatLines (
      map (name: "192.168.1.${toString numbers.${name}} ${name}") (builtins.attrNames numbers)
    )
    + "192.168.1.1 somewhere.test\n";

  # The test framework's options, as far as attest's modules know them.
  testModule = {
    options = {
      name = undefined;
      testScript = undefined;
      globalTimeout = option 3600;
      enableOCR = option false;
      sshBackdoor.enable = option false;
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
      assertions = option [ ];
      driver = option (named "nixos-test-driver");
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
      flatten =
        module:
        if builtins.isPath module then
          flatten (import module)
        else if builtins.isFunction module then
          flatten (
            module (
              builtins.intersectAttrs (builtins.functionArgs module) {
                inherit lib config;
                hostPkgs = pkgs;
                options = testModule.options;
              }
            )
          )
        else
          [ module ] ++ lib.concatMap flatten (module.imports or [ ]);
      flat = flatten test;
      contents = map (module: module.config or (removeAttrs module [ "imports" "options" "key" ])) flat;
      modulesOf = name: lib.concatMap (content: lib.optional (content ? ${name}) content.${name}) contents;

      modules = builtins.foldl' (all: each: all // each) { } (modulesOf "nodes");
      names = builtins.attrNames modules;
      numbers = builtins.listToAttrs (lib.imap1 (number: name: lib.nameValuePair name number) names);
      nodes = builtins.listToAttrs (
        lib.imap1 (
          number: name:
          lib.nameValuePair name (evalModules {
            modules = [
              (nodeModule name number numbers)
              modules.${name}
            ]
            ++ modulesOf "defaults"
            ++ modulesOf "extraBaseNodeModules";
            args = {
              inherit pkgs name nodes;
            };
          })
        ) names
      );
      config = evalModules {
        modules = [
          testModule
          { options = lib.genAttrs [ "nodes" "allMachines" ] (_: option nodes); }
          { options.testScriptString = option (
              if lib.isFunction config.testScript then config.testScript { inherit nodes; } else config.testScript
            );
          }
        ]
        ++ lib.concatMap (module: lib.optional (module ? options) { inherit (module) options; }) flat
        ++ map (content: { config = removeAttrs content aside; }) contents;
        args = { };
      };
    in
    derivationNamed "vm-test-run-${config.name}" {
      text = "${config.driver}/bin/nixos-test-driver";
      inherit config;
      inherit (config) driver;
      extend = { modules }: runNixOSTest { imports = [ test ] ++ modules; };
    };

  named = name: derivationNamed name { };
  pkgs =
    lib.genAttrs [
      "firecracker"
      "cloud-hypervisor"
      "qemu_test"
      "makeWrapper"
      "tesseract"
      "e2fsprogs"
      "erofs-utils"
      "bash"
      "bashNonInteractive"
      "coreutils"
      "iproute2"
      "util-linux"
      "util-linuxMinimal"
      "versionCheckHook"
      "ruff"
      "mypy"
      "nixfmt-tree"
    ] named
    // {
      inherit lib;
      path = "/nixpkgs";
      stdenv = {
        hostPlatform = {
          inherit system;
          isAarch64 = false;
          uname.processor = builtins.head (builtins.split "-" system);
        };
        cc.bintools = named "binutils";
        mkDerivation = arguments: derivationNamed arguments.pname { inherit (arguments) version meta; };
      };
      linuxPackages_6_1 = kernelPackages "6.1.9";
      linuxPackages_6_18 = kernelPackages "6.18.1";
      callPackage =
        file: arguments:
        let
          function = import file;
        in
        function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // arguments);
      pkgsStatic = pkgs;
      runCommand =
        name: attributes: text:
        derivationNamed name (attributes // { inherit text; })
        // {
          overrideAttrs = change: derivationNamed name ({ inherit text; } // change attributes);
        };
      writeShellScript = name: text: derivationNamed name { inherit text; };
      writeText = name: text: derivationNamed name { inherit text; };
      writeStringReferencesToFile = text: named "references";
      closureInfo = { rootPaths }: derivationNamed "closure-info" { text = toString rootPaths; };
      python3 = {
        withPackages = choose: named "python3-env-${toString (builtins.length (choose { toPythonModule = lib.id; }))}";
      };
      python3Packages =
        lib.genAttrs [ "hatchling" "click" "msgspec" "qemu-qmp" "rich" "mypy" "pyflakes" "ptpython" "junitparser" "pillow" ] named
        // {
          buildPythonApplication =
            make:
            let
              arguments = make arguments;
            in
            derivationNamed arguments.pname { inherit (arguments) version passthru optional-dependencies meta; text = arguments.env.ATTEST_AGENT_DIR; };
        };
      mkShell = { packages, ... }: derivationNamed "shell" { text = toString packages; };
      nixosTests.nginx = runNixOSTest {
        name = "nginx";
        nodes.webserver.services.nginx.enable = true;
        testScript = { nodes, ... }: toString nodes.webserver.virtualisation.cores;
      };
      testers = { inherit runNixOSTest; };
    };
in
pkgs
