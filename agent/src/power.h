/* The end of the machine. */
#ifndef ATTEST_POWER_H
#define ATTEST_POWER_H

#include <stdbool.h>

#include "session.h"

/* The host can ask for all but the last; a halted machine stands still until that ends it. */
enum power { POWER_NONE, POWER_OFF, POWER_REBOOT, POWER_OFF_NOW, POWER_REBOOT_NOW, POWER_HALT };

/* End the machine after the frames under way have been written. */
void power_request(enum power action);
/* Do what was requested, if anything was. Called between turns. */
void power_act(void);

/* `attest.poweroff=reboot` is on the kernel command line: this VMM ends with a reboot, and never with a power-off. */
bool power_off_is_reboot(void);

extern const struct operation power_operation;

/* What a guest says on its console that powers itself off by a reset, so that the host can tell it from a reboot. */
#define SAY_POWER_OFF "attest-stage: power off"

#endif
