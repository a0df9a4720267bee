/*
 * A network driver in the kernel that reads its device: guest_stats INTERFACE ROUNDS CALLS. Asks the driver for its statistics, which
 * e1000 reads from some 50 registers each time, and prints nanoseconds of a call, a line a round.
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int argc, char **argv)
{
    static _Alignas(8) char answer[65536];
    struct ifreq request = {.ifr_data = answer};
    int rounds = atoi(argv[2]), calls = atoi(argv[3]), socket_ = socket(AF_INET, SOCK_DGRAM, 0);

    strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
    for (int round = 0; round < rounds; round++) {
        long start = now();
        for (int i = 0; i < calls; i++) {
            ((struct ethtool_stats *)answer)->cmd = ETHTOOL_GSTATS;
            if (ioctl(socket_, SIOCETHTOOL, &request)) {
                perror("SIOCETHTOOL");
                return 1;
            }
        }
        printf("%ld\n", (now() - start) / calls);
        fflush(stdout);
    }
    return 0;
}
