# Leaves out of a test's node who it is, where attest says so when the machine runs. Nodes that are equal but for that
# become one system then, whose machine boots once and is cloned.
{
  config,
  lib,
  ...
}:
let
  inherit (lib)
    mkForce
    mkIf
    mkOption
    types
    ;
  cfg = config.attest;
  anonymous = !cfg.bakeIdentity;
  isAnonymous = (import ../machine.nix).isAnonymous {
    inherit (config) networking virtualisation;
    networkd = config.networking.useNetworkd || config.systemd.network.enable;
  };

  linesWithout = unwanted: text: lib.concatLines (lib.filter (line: !unwanted line) (lib.splitString "\n" (lib.removeSuffix "\n" text)));

  # The framework's line for a machine: attest writes the same, for the addresses that the machine then has.
  isMachine =
    line:
    let
      parts = builtins.match "(192\\.168\\.[0-9]+\\.|2001:db8:[0-9]+::)([0-9]+) ([^ ]+)" line;
    in
    parts != null
    && toString (cfg.machineNumbers.${builtins.elemAt parts 2} or "") == builtins.elemAt parts 1;

  # The framework's rule that names a card after its address, which tells the node's number.
  isCard = lib.hasInfix ''ATTR{address}=="52:54:00:12:'';
in
{
  options = {
    attest.bakeIdentity = mkOption {
      type = types.bool;
      default = !isAnonymous;
      defaultText = lib.literalMD "`false`, unless the node gives itself another name, domain, interfaces or addresses than the test framework";
      description = ''
        Whether the guest has its name and addresses of itself, as NixOS has it, from its first second on. Otherwise
        attest gives them to the running machine, and nodes that differ by them alone are clones of one machine.
      '';
    };
    attest.machineNumbers = mkOption {
      type = types.attrsOf types.int;
      internal = true;
      description = "The numbers of the test's machines, by their names.";
    };
    # Declared a second time, for the sake of `apply`: a definition could only replace what other modules add.
    networking.extraHosts = mkOption { apply = if anonymous then linesWithout isMachine else lib.id; };
    boot.initrd.services.udev.rules = mkOption { apply = if anonymous then linesWithout isCard else lib.id; };
  };

  config = mkIf anonymous {
    system.name = mkForce "nixos";
    networking.hosts."127.0.0.2" = mkForce [ ];
    environment.etc.hostname = mkForce { text = "nixos\n"; };
    boot.initrd.systemd.contents."/etc/hostname" = mkForce { text = "nixos\n"; };
    systemd.services = lib.mapAttrs' (name: _: {
      name = "network-addresses-${name}";
      value.enable = mkForce false;
    }) config.virtualisation.allInterfaces;
  };
}
