# A NixOS guest that attest's driver can talk to: the agent, and what the VMMs' devices need.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.attest;
in
{
  key = "attest-guest";

  options.attest = {
    agent = mkOption {
      type = types.package;
      default = pkgs.pkgsStatic.callPackage ../agent.nix { };
      defaultText = lib.literalMD "attest's agent, compiled statically";
      description = "The package with `bin/attest-agent`.";
    };
    entropy = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the guest takes randomness from its VMM (virtio-rng).";
    };
  };

  config = {
    # As early as systemd can: until the agent answers, nobody can say what goes wrong.
    systemd.services.attest-agent = {
      description = "attest guest agent";
      wantedBy = [ "sysinit.target" ];
      unitConfig = {
        DefaultDependencies = false;
        StartLimitIntervalSec = 0;
      };
      serviceConfig = {
        ExecStart = "${cfg.agent}/bin/attest-agent";
        Restart = "always";
        RestartSec = "50ms";
        KillMode = "process";
        TasksMax = "infinity";
        OOMScoreAdjust = -1000;
        OOMPolicy = "continue"; # of a command that is killed for its memory
        IgnoreSIGPIPE = false;
      };
      # A new configuration that is switched to must not end the commands that do it.
      restartIfChanged = false;
      stopIfChanged = false;
    };

    # The variables of a login shell, as the shell of NixOS's test guests has them. What refers to
    # other variables is left out: nobody expands it.
    environment.etc."attest/environment".text = lib.concatLines (
      lib.mapAttrsToList (name: value: "${name}=${toString value}") (
        lib.filterAttrs (_: value: value != null && !(lib.hasInfix "$" (toString value))) (
          config.environment.variables // { PAGER = ""; }
        )
      )
    );

    # Firecracker ends when its guest reboots, and knows no power-off: its guests have that parameter.
    systemd.generators.attest = toString (
      pkgs.writeShellScript "attest-generator" ''
        if [[ " $(</proc/cmdline) " == *" attest.poweroff=reboot "* ]]; then
          ${pkgs.coreutils}/bin/mkdir -p "$1/systemd-poweroff.service.d"
          ${pkgs.coreutils}/bin/cat >"$1/systemd-poweroff.service.d/attest.conf" <<'EOF'
        [Unit]
        SuccessAction=reboot-force
        [Service]
        Type=oneshot
        ExecStart=-/bin/sh -c 'echo "attest-stage: power off" >/dev/console'
        EOF
        fi
      ''
    );

    boot.initrd.availableKernelModules = [
      "virtio_pci"
      "virtio_blk"
      "erofs"
      "overlay"
    ]
    ++ lib.optional cfg.entropy "virtio_rng";
    # What the agent wants to find when it starts, and a bus whose devices only the kernel's command line may tell of.
    boot.initrd.kernelModules = [
      "virtio_mmio"
      "virtio_net"
      "virtio_console"
      "vmw_vsock_virtio_transport"
    ];

    # Addresses are static, and no network of a test has a DHCP server to wait for.
    networking.useDHCP = lib.mkDefault false;
    networking.usePredictableInterfaceNames = lib.mkDefault false;
  };
}
