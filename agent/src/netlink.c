#include "netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REPLY_SIZE = 32768, ATTRIBUTES_SIZE = 128 };

/* One request; its body is at most an ifaddrmsg or an ifinfomsg, and a few attributes. */
struct message {
    struct nlmsghdr header;
    uint8_t body[sizeof(struct ifinfomsg) + ATTRIBUTES_SIZE];
};

int netlink_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static struct message message_make(uint16_t type, uint16_t flags, const void *body, size_t size)
{
    struct message message = {
        .header = {.nlmsg_len = (uint32_t)NLMSG_LENGTH(size), .nlmsg_type = type,
                   .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)}};
    memcpy(message.body, body, size);
    return message;
}

static void add_attribute(struct message *message, uint16_t type, const void *value, size_t size)
{
    /* Copied, as the body is bytes: a compiler may take a header that is written in place for something else, and drop it. */
    const struct rtattr attribute = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = type};
    uint8_t *place = (uint8_t *)message + NLMSG_ALIGN(message->header.nlmsg_len);
    memcpy(place, &attribute, sizeof attribute);
    memcpy(place + RTA_LENGTH(0), value, size);
    message->header.nlmsg_len = NLMSG_ALIGN(message->header.nlmsg_len) + (uint32_t)RTA_ALIGN(attribute.rta_len);
}

/* Send a request and give the messages of its answer, up to the last one, to `each`. */
static int netlink_request(int netlink, const struct message *message, void (*each)(const struct nlmsghdr *, void *), void *context)
{
    static union {
        struct nlmsghdr header;
        uint8_t bytes[REPLY_SIZE];
    } reply;
    if (send(netlink, message, message->header.nlmsg_len, 0) < 0)
        return errno;
    for (;;) {
        ssize_t got = recv(netlink, &reply, sizeof reply, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        int left = (int)got;
        for (struct nlmsghdr *header = &reply.header; NLMSG_OK(header, (unsigned)left); header = NLMSG_NEXT(header, left)) {
            if (header->nlmsg_type == NLMSG_DONE)
                return 0;
            if (header->nlmsg_type == NLMSG_ERROR)
                return -((struct nlmsgerr *)NLMSG_DATA(header))->error;
            if (each)
                each(header, context);
        }
    }
}

static const struct rtattr *find_attribute(const struct rtattr *attribute, size_t size, uint16_t type)
{
    for (; RTA_OK(attribute, size); attribute = RTA_NEXT(attribute, size))
        if (attribute->rta_type == type)
            return attribute;
    return NULL;
}

/* --- what there is --- */

struct interface_list {
    struct interface *interfaces;
    size_t count;
};

static void take_interface(const struct nlmsghdr *header, void *context)
{
    struct interface_list *list = context;
    const struct ifinfomsg *info = NLMSG_DATA(header);
    const struct rtattr *mac = find_attribute(IFLA_RTA(info), IFLA_PAYLOAD(header), IFLA_ADDRESS);
    if (info->ifi_type != ARPHRD_ETHER || !mac || RTA_PAYLOAD(mac) != ETH_ALEN || list->count == INTERFACES_MAX)
        return;
    size_t at = list->count++;
    for (; at > 0 && list->interfaces[at - 1].index > info->ifi_index; at--)
        list->interfaces[at] = list->interfaces[at - 1];
    list->interfaces[at] = (struct interface){.index = info->ifi_index, .flags = info->ifi_flags};
    memcpy(list->interfaces[at].mac, RTA_DATA(mac), ETH_ALEN);
}

int netlink_interfaces(int netlink, struct interface *interfaces, size_t *count)
{
    struct ifinfomsg all = {.ifi_family = AF_UNSPEC};
    struct message message = message_make(RTM_GETLINK, NLM_F_DUMP, &all, sizeof all);
    struct interface_list list = {interfaces, 0};
    int error = netlink_request(netlink, &message, take_interface, &list);
    *count = list.count;
    return error;
}

struct address_list {
    int index;
    struct ip_address *addresses;
    size_t count;
};

static void take_address(const struct nlmsghdr *header, void *context)
{
    struct address_list *list = context;
    const struct ifaddrmsg *info = NLMSG_DATA(header);
    /* IFA_ADDRESS is the peer's on a point-to-point interface; IFA_LOCAL, where there is one, is the interface's own. */
    const struct rtattr *local = find_attribute(IFA_RTA(info), IFA_PAYLOAD(header), IFA_LOCAL);
    if (!local)
        local = find_attribute(IFA_RTA(info), IFA_PAYLOAD(header), IFA_ADDRESS);
    size_t size = info->ifa_family == AF_INET ? 4 : 16;
    if ((int)info->ifa_index != list->index || !local || RTA_PAYLOAD(local) != size || list->count == ADDRESSES_MAX)
        return;
    struct ip_address *address = &list->addresses[list->count++];
    *address = (struct ip_address){.family = info->ifa_family, .prefix = info->ifa_prefixlen};
    memcpy(address->bytes, RTA_DATA(local), size);
}

int netlink_addresses(int netlink, int index, struct ip_address *addresses, size_t *count)
{
    struct ifaddrmsg all = {.ifa_family = AF_UNSPEC};
    struct message message = message_make(RTM_GETADDR, NLM_F_DUMP, &all, sizeof all);
    struct address_list list = {index, addresses, 0};
    int error = netlink_request(netlink, &message, take_address, &list);
    *count = list.count;
    return error;
}

/* --- changes --- */

static struct message address_message(uint16_t type, uint16_t flags, int index, const struct ip_address *address)
{
    /* No duplicate detection: it would keep an IPv6 address unusable for its first second. */
    struct ifaddrmsg body = {.ifa_family = address->family, .ifa_prefixlen = address->prefix,
                             .ifa_index = (unsigned)index, .ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0};
    size_t size = address->family == AF_INET ? 4 : 16;
    struct message message = message_make(type, NLM_F_ACK | flags, &body, sizeof body);
    add_attribute(&message, IFA_LOCAL, address->bytes, size);
    add_attribute(&message, IFA_ADDRESS, address->bytes, size);
    return message;
}

int netlink_add_address(int netlink, int index, const struct ip_address *address)
{
    struct message message = address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address);
    if (address->family == AF_INET && address->prefix < 31) {
        uint32_t number;
        memcpy(&number, address->bytes, sizeof number);
        number |= htonl(UINT32_MAX >> address->prefix);
        add_attribute(&message, IFA_BROADCAST, &number, sizeof number);
    }
    return netlink_request(netlink, &message, NULL, NULL);
}

int netlink_remove_address(int netlink, int index, const struct ip_address *address)
{
    struct message message = address_message(RTM_DELADDR, 0, index, address);
    return netlink_request(netlink, &message, NULL, NULL);
}

int netlink_set_up(int netlink, int index, bool up)
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
    struct message message = message_make(RTM_NEWLINK, NLM_F_ACK, &body, sizeof body);
    return netlink_request(netlink, &message, NULL, NULL);
}

int netlink_set_mac(int netlink, int index, const uint8_t mac[ETH_ALEN])
{
    struct ifinfomsg body = {.ifi_family = AF_UNSPEC, .ifi_index = index};
    struct message message = message_make(RTM_NEWLINK, NLM_F_ACK, &body, sizeof body);
    add_attribute(&message, IFLA_ADDRESS, mac, ETH_ALEN);
    return netlink_request(netlink, &message, NULL, NULL);
}
