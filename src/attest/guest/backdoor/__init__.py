"""The connection to the backdoor shell of NixOS's test guests, in the place of an agent."""
