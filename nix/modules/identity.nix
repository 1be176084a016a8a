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

  # The framework's rules name a card after its address, which tells the node's number.
  withoutCards =
    rules:
    lib.concatLines (
      lib.filter (rule: !(lib.hasInfix ''ATTR{address}=="52:54:00:12:'' rule)) (
        lib.splitString "\n" (lib.removeSuffix "\n" rules)
      )
    );
in
{
  options = {
    attest.bakeIdentity = mkOption {
      type = types.bool;
      default = !isAnonymous;
      defaultText = lib.literalMD ''
        `false`, unless the node gives itself another name, domain, interfaces, addresses or gateway
        than the test framework
      '';
      description = ''
        Whether the guest has its name and addresses of itself, as NixOS has it, from its first second on. Otherwise
        attest gives them to the running machine, and nodes that differ by them alone are clones of one machine.
      '';
    };
    # Declared a second time, for the sake of `apply`: a definition could only replace what other modules add.
    boot.initrd.services.udev.rules = mkOption {
      apply = if anonymous then withoutCards else lib.id;
    };
  };

  config = mkIf anonymous {
    system.name = mkForce "nixos";
    networking.hosts."127.0.0.2" = mkForce [ ];
    environment.etc.hostname = mkForce { text = "nixos\n"; };
    boot.initrd.systemd.contents."/etc/hostname" = mkForce { text = "nixos\n"; };
    # There for those who wait for them or need them, and without a word in them of the node's addresses.
    systemd.services = lib.mapAttrs' (name: _: {
      name = "network-addresses-${name}";
      value = {
        script = mkForce ":";
        preStop = mkForce "";
      };
    }) config.virtualisation.allInterfaces;
  };
}
