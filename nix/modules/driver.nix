# Replaces the driver of a test by attest's, and nothing else.
{
  config,
  lib,
  options,
  hostPkgs,
  ...
}:
let
  inherit (lib) mkForce mkOption types;
  cfg = config.attest;

  # The framework's own input for its driver, or where it is older than that, one of the same form.
  configuration =
    if options ? driverConfigurationFile then
      config.driverConfigurationFile
    else
      hostPkgs.writeText "driver-configuration.json" (
        builtins.toJSON {
          vms = lib.mapAttrs (name: node: {
            inherit name;
            start_script = lib.getExe node.system.build.vm;
          }) config.nodes;
          inherit vlans;
          global_timeout = config.globalTimeout;
          test_script = hostPkgs.writeText "test-script" config.testScriptString;
        }
      );

  python = hostPkgs.python3.withPackages (
    packages:
    [ (packages.toPythonModule cfg.package) ]
    ++ lib.optionals config.enableOCR cfg.package.optional-dependencies.screen
    ++ config.extraPythonPackages packages
  );
  checker = hostPkgs.python3.withPackages (
    packages: [ (packages.toPythonModule cfg.package) ] ++ cfg.package.optional-dependencies.check
  );
  vlans = lib.unique (
    lib.concatMap (node: (import ../machine.nix).vlansOf node.virtualisation) (
      lib.attrValues config.nodes
    )
  );
  skipped = lib.optional config.skipTypeCheck "types" ++ lib.optional config.skipLint "names";

  driver =
    hostPkgs.runCommand "attest-driver-${config.name}"
      {
        nativeBuildInputs = [ hostPkgs.makeWrapper ] ++ lib.optional (lib.length skipped < 2) checker;
        testScript = config.testScriptString;
        passAsFile = [ "testScript" ];
        preferLocalBuild = true;
        passthru = config.passthru;
        meta = config.meta // {
          mainProgram = "nixos-test-driver";
        };
      }
      ''
        mkdir -p $out/bin
        cp $testScriptPath $out/test-script
        ${lib.optionalString (lib.length skipped < 2) ''
          cp $testScriptPath test-script.py
          attest check test-script.py --nodes ${lib.concatStringsSep "," cfg.machineNames} \
            --vlans ${lib.concatMapStringsSep "," toString (if vlans == [ ] then [ 1 ] else vlans)} \
            ${lib.concatMapStringsSep " " (check: "--skip ${check}") skipped}
        ''}
        makeWrapper ${python}/bin/attest-nixos-driver $out/bin/nixos-test-driver \
          --prefix PATH : ${
            lib.makeBinPath (
              [ config.qemu.package ] ++ lib.optional config.enableOCR hostPkgs.tesseract
            )
          } \
          --add-flags ${lib.escapeShellArg cfg.driverInput} \
          --add-flags "--log-level ${config.logLevel}" \
          ${lib.concatMapStringsSep " " (each: "--add-flags ${lib.escapeShellArg each}") config.extraDriverArgs}
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
    driverInput = mkOption {
      type = types.str;
      default = "--config ${configuration}";
      internal = true;
      description = "What the driver is told of the test.";
    };
    machineNames = mkOption {
      type = types.listOf types.str;
      default = lib.attrNames config.nodes;
      internal = true;
      description = "What the script calls its machines.";
    };
  };

  config = {
    driver = mkForce driver;
    passthru.attest = {
      inherit (cfg) package;
    };
  };
}
