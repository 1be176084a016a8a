# Replaces the driver of a test by attest's, and nothing else: the machines stay NixOS's own.
{
  config,
  lib,
  hostPkgs,
  ...
}:
let
  inherit (lib) mkForce mkOption types;
  cfg = config.attest;
  machine = import ../machine.nix;

  vlans = lib.unique (
    lib.concatMap (node: machine.vlansOf node.virtualisation) (lib.attrValues config.nodes)
  );
  containers = lib.attrNames (config.containers or { });

  # attest, with those of its optional dependencies.
  python =
    names:
    hostPkgs.python3.withPackages (
      packages:
      [ (packages.toPythonModule cfg.package) ]
      ++ lib.concatMap (name: cfg.package.optional-dependencies.${name}) names
      ++ config.extraPythonPackages packages
    );
  runner = python (lib.optional config.enableOCR "screen");
  checker = python [ "check" ];
  skipped = lib.optional config.skipTypeCheck "types" ++ lib.optional config.skipLint "names";

  arguments = [
    # A manifest has machines; where there are none, the script makes its own.
    (
      if config.nodes == { } then
        "--config ${config.driverConfigurationFile}"
      else
        "--manifest ${cfg.manifest}"
    )
    "--log-level ${config.logLevel}"
  ]
  ++ lib.optional (cfg.snapshots != null) "--snapshots ${cfg.snapshots}"
  ++ config.extraDriverArgs;

  driver =
    hostPkgs.runCommand "attest-driver-${config.name}"
      {
        nativeBuildInputs = [
          hostPkgs.makeWrapper
        ]
        ++ lib.optional (lib.length skipped < 2) checker;
        preferLocalBuild = true;
        passthru = config.passthru;
        meta = config.meta // {
          mainProgram = "nixos-test-driver";
        };
      }
      ''
        mkdir -p $out/bin
        cp ${cfg.script} $out/test-script
        ${lib.optionalString (lib.length skipped < 2) ''
          cp ${cfg.script} test-script.py
          attest check test-script.py --nodes=${lib.concatStringsSep "," cfg.machineNames} \
            --vlans=${lib.concatMapStringsSep "," toString vlans} \
            ${lib.concatMapStringsSep " " (check: "--skip ${check}") skipped}
        ''}
        makeWrapper ${runner}/bin/attest-nixos-driver $out/bin/nixos-test-driver \
          --prefix PATH : ${
            lib.makeBinPath (
              [ config.qemu.package ] ++ lib.optional config.enableOCR hostPkgs.tesseract
            )
          } \
          --set-default testScript $out/test-script \
          ${lib.concatMapStringsSep " " (each: "--add-flags ${lib.escapeShellArg each}") arguments}
      '';
in
{
  key = "attest-driver";

  options.attest = {
    package = mkOption {
      type = types.package;
      default = hostPkgs.callPackage ../package.nix { };
      defaultText = lib.literalMD "attest of this revision";
      description = "The attest that runs the test.";
    };
    manifest = mkOption {
      type = types.package;
      default = hostPkgs.writeText "attest-${config.name}.json" (
        builtins.toJSON (
          machine.manifest {
            inherit (config) name;
            inherit vlans;
            machines = lib.mapAttrs (_: node: {
              start_command = lib.getExe node.system.build.vm;
            }) config.nodes;
            timeout = config.globalTimeout;
          }
        )
      );
      defaultText = lib.literalMD "the start scripts that NixOS makes of the nodes";
      internal = true;
      description = "The test's manifest, without its script.";
    };
    script = mkOption {
      type = types.package;
      default = hostPkgs.writeText "test-script" config.testScriptString;
      defaultText = lib.literalMD "`testScript`";
      internal = true;
      description = "The test's script.";
    };
    snapshots = mkOption {
      type = types.nullOr types.package;
      default = null;
      internal = true;
      description = "The snapshots from which the machines start.";
    };
    machineNames = mkOption {
      type = types.listOf types.str;
      default = lib.attrNames config.nodes;
      internal = true;
      description = "What the script calls its machines.";
    };
  };

  config = {
    driver =
      if containers == [ ] then
        mkForce driver
      else
        throw (
          "${config.name}: containers.${lib.head containers}: attest runs virtual machines: "
          + "make it one of `nodes`"
        );
    warnings = lib.optional config.sshBackdoor.enable (
      "${config.name}: sshBackdoor has no effect on the driver: "
      + "with `--interactive` it has a Python console, with `shell_interact()` for each machine"
    );
    # What `attest nix run` builds: neither knows of the other, so that a changed script leaves the machines alone.
    passthru.attest = { inherit (cfg) manifest script; };
  };
}
