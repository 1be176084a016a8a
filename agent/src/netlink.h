/* Network interfaces, through rtnetlink. */
#ifndef ATTEST_NETLINK_H
#define ATTEST_NETLINK_H

#include <net/ethernet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INTERFACES_MAX = 256, ADDRESSES_MAX = 64 };

struct interface {
    int index;
    unsigned flags;
    uint8_t mac[ETH_ALEN];
};

struct ip_address {
    uint8_t family, prefix;
    uint8_t bytes[16];
};

/* A socket for the functions below, or -1 with errno. They return 0 or an errno. */
int netlink_open(void);

/* The Ethernet interfaces, by ascending index. */
int netlink_interfaces(int netlink, struct interface *interfaces, size_t *count);
int netlink_addresses(int netlink, int index, struct ip_address *addresses, size_t *count);
int netlink_add_address(int netlink, int index, const struct ip_address *address);
int netlink_remove_address(int netlink, int index, const struct ip_address *address);
int netlink_set_mac(int netlink, int index, const uint8_t mac[ETH_ALEN]);
int netlink_set_up(int netlink, int index, bool up);

#endif
