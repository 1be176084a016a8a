# A test's node as a microVM: its store is an image, its root is on a disk of its own. NixOS's module for virtual
# machines stays imported, as tests set its options.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkForce
    mkOption
    types
    ;
  inherit (config) virtualisation;
  machine = import ../machine.nix;
  node = virtualisation.test.nodeName;

  # Options of which the framework defines a part: the test's own part is what other files define.
  ofFramework =
    file:
    lib.any (directory: lib.hasPrefix "${toString pkgs.path}/nixos/${directory}/" (toString file)) [
      "lib"
      "modules"
    ];
  ownOf =
    option:
    lib.filter (each: !ofFramework each.file && each.value != [ ]) option.definitionsWithLocations;
in
{
  key = "attest-microvm";
  imports = [
    ./guest.nix
    ./identity.nix
  ];

  # Declared a second time, for the sake of `apply`: a definition could only replace those of the test.
  options.virtualisation.sharedDirectories = mkOption {
    apply =
      directories:
      removeAttrs directories [
        "nix-store"
        "xchg"
        "shared"
        "certs"
      ];
  };

  options.attest = {
    root = mkOption {
      type = types.enum [
        "disk"
        "memory"
      ];
      default = "disk";
      description = "Where the machine writes its root: to a disk of `virtualisation.diskSize` MiB, which it keeps when it reboots or is started again, or into its memory.";
    };
    readyUnit = mkOption {
      type = types.str;
      default = "multi-user.target";
      description = "The systemd unit that must be active before the script goes on, and before a snapshot is made.";
    };
  };

  config = {
    virtualisation = {
      diskImage = mkForce null;
      mountHostNixStore = mkForce false;
      useNixStoreImage = mkForce false;
      writableStore = lib.mkDefault true;
      graphics = lib.mkDefault false;
      fileSystems = {
        "/" = lib.mkIf (config.attest.root == "disk") {
          device = mkForce "/dev/disk/by-label/${machine.rootLabel}";
          fsType = mkForce "ext4";
          noCheck = true; # the kernel replays its journal
        };
        "/nix/.ro-store" = {
          device = "/dev/disk/by-label/${machine.storeLabel}";
          fsType = "erofs";
          neededForBoot = true;
          options = [ "ro" ];
        };
        "/nix/store" =
          if virtualisation.writableStore then
            {
              overlay = {
                lowerdir = [ "/nix/.ro-store" ];
                upperdir = "/nix/.rw-store/upper";
                workdir = "/nix/.rw-store/work";
              };
            }
          else
            {
              device = "/nix/.ro-store";
              fsType = "none";
              options = [ "bind" ];
            };
      };
    };

    assertions =
      machine.assertions node virtualisation
      ++ lib.concatMap (
        name:
        map (each: {
          assertion = false;
          message = machine.refusal node "virtualisation.qemu.${name} (${toString each.file})";
        }) (ownOf options.virtualisation.qemu.${name})
      ) [
        "options"
        "drives"
        "networkingOptions"
      ]
      ++ [
        {
          assertion = !config.testing.initrdBackdoor;
          message = machine.refusal node "testing.initrdBackdoor";
        }
      ];

    # The shell on /dev/hvc0 that the agent stands in for.
    testing.backdoor = mkForce false;

    # What the machine's description needs, evaluated when a test asks for it.
    system.build.attestGuest = {
      arch = pkgs.stdenv.hostPlatform.uname.processor;
      toplevel = builtins.unsafeDiscardStringContext "${config.system.build.toplevel}";
      kernelVersion = config.boot.kernelPackages.kernel.modDirVersion;
      initrd = virtualisation.directBoot.initrd;
      inherit (config.boot) kernelParams;
      onDisk = config.attest.root == "disk";
    };
  };
}
