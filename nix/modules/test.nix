# A test of NixOS's framework whose machines are attest's microVMs.
vmm:
{
  config,
  lib,
  hostPkgs,
  ...
}:
let
  inherit (lib)
    mapAttrs
    mkDefault
    mkOption
    types
    ;
  cfg = config.attest;
  machine = import ../machine.nix;
  nodes = config.nodes;
  onFirecracker = cfg.vmm == "firecracker";

  kernelOf =
    node:
    hostPkgs.callPackage ../images/kernel.nix {
      inherit (node.boot.kernelPackages) kernel;
      file = node.system.boot.loader.kernelFile;
      uncompressed = cfg.vmm != "qemu";
    };

  storePathsOf =
    node:
    node.virtualisation.additionalPaths
    ++ lib.optional (builtins.hasContext config.testScriptString) (
      hostPkgs.writeStringReferencesToFile config.testScriptString
    );
  storeOf =
    nodes:
    hostPkgs.callPackage ../images/store.nix {
      name = config.name;
      label = machine.storeLabel;
      rootPaths = lib.unique (lib.concatMap storePathsOf (lib.attrValues nodes));
    };
  sharedStore = storeOf nodes;

  imageOf =
    name: node:
    let
      store = if cfg.splitStore then sharedStore else storeOf { ${name} = node; };
    in
    hostPkgs.writeText "nixos-image.json" (
      builtins.toJSON (
        machine.description (
          node.system.build.attestGuest
          // {
            root = "${store}";
            registration = store.registration;
            kernel = "${kernelOf node}";
          }
        )
      )
    );

  machineOf =
    name: node:
    machine.node {
      inherit (node) virtualisation networking attest;
      image = "${imageOf name node}";
      inherit (cfg) vmm hugePages;
      graphics = config.enableOCR;
    };

  manifest = machine.manifest {
    inherit (config) name;
    machines = machine.machines {
      nodes = mapAttrs machineOf nodes;
      inherit (cfg) replicas;
    };
    timeout = config.globalTimeout;
    firecracker = if onFirecracker then lib.getExe cfg.firecrackerPackage else null;
    cloudHypervisor =
      if cfg.vmm == "cloud-hypervisor" then lib.getExe cfg.cloudHypervisorPackage else null;
  };

  # Nodes that no snapshot can be made of, by name.
  unfit = lib.filterAttrs (
    _: node:
    cfg.warm
    && onFirecracker
    && lib.versionOlder cfg.firecrackerPackage.version "1.16.1"
    && lib.versionAtLeast node.boot.kernelPackages.kernel.version "6.18"
  ) nodes;
  warned = lib.warnIf (unfit != { }) (
    "${config.name}: ${lib.concatStringsSep ", " (lib.attrNames unfit)}: guests with kernel 6.18 or later do not "
    + "survive a snapshot of Firecracker ${cfg.firecrackerPackage.version}, so the test boots its machines; "
    + "those with `linuxPackages_6_1` do"
  );
in
{
  key = "attest-test";
  imports = [ ./driver.nix ];

  options.attest = {
    vmm = mkOption {
      type = types.enum [
        "qemu"
        "firecracker"
        "cloud-hypervisor"
      ];
      description = "What runs the machines.";
    };
    firecrackerPackage = mkOption {
      type = types.package;
      default = hostPkgs.firecracker;
      defaultText = lib.literalExpression "hostPkgs.firecracker";
      description = "The Firecracker that runs the machines; see nix/firecracker.nix for one of a fork or a revision.";
    };
    cloudHypervisorPackage = mkOption {
      type = types.package;
      default = hostPkgs.cloud-hypervisor;
      defaultText = lib.literalExpression "hostPkgs.cloud-hypervisor";
      description = "The Cloud Hypervisor that runs the machines.";
    };
    replicas = mkOption {
      type = types.attrsOf types.ints.positive;
      default = { };
      example = {
        web = 8;
      };
      description = ''
        How many machines a node is, where that is not one: of `web = 8` the machines are `web1` to `web8`. All have the
        one system that is evaluated for the node.
      '';
    };
    hugePages = mkOption {
      type = types.bool;
      default = false;
      description = "Whether the machines' memory is of the host's reserved huge pages.";
    };
    splitStore = mkOption {
      type = types.bool;
      default = true;
      description = "Whether all nodes share one image of the store; otherwise each has its own.";
    };
    warm = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the machines start from snapshots, which are derivations of their own.";
    };
  };

  config = {
    assertions = [
      {
        assertion = config.enableOCR -> cfg.vmm == "qemu";
        message =
          "enableOCR: the machines of ${cfg.vmm} have no display; "
          + "attest's testModules.attest and testModules.qemu have one";
      }
    ];

    attest = {
      vmm = mkDefault vmm;
      manifest = warned (
        hostPkgs.writeText "attest-${config.name}.json" (builtins.toJSON manifest)
      );
      machineNames = lib.attrNames manifest.nodes;
      snapshots = lib.mkIf (cfg.warm && unfit == { } && nodes != { }) (
        hostPkgs.callPackage ../snapshots.nix {
          inherit (config) name requiredFeatures;
          inherit (cfg) manifest;
          attest = cfg.package;
          qemu = config.qemu.package;
        }
      );
    };

    # The cache of whoever runs it has its snapshots, and nothing has to be built for them.
    interactive.attest.warm = mkDefault false;

    extraBaseNodeModules =
      { pkgs, ... }:
      {
        imports = [ ./microvm.nix ];
        # The newest kernel whose guests survive the snapshots of all Firecrackers.
        boot.kernelPackages = lib.mkIf (cfg.warm && onFirecracker) (
          mkDefault pkgs.linuxPackages_6_1
        );
      };
  };
}
