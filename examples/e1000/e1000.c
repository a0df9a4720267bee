/*
 * e1000 [ROUNDS]: drives an Intel 82540EM from user space, through resource0: reset, EEPROM, filter tables, statistics.
 *
 * Section numbers are those of the PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (8254x).
 * Two threads work on disjoint registers, and both look at STATUS. One round is about 670 accesses; 20 rounds by default.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pci.h"

enum {
    VENDOR = 0x8086,
    DEVICE = 0x100e,
    BAR_SIZE = 128 * 1024,

    CTRL = 0x0000,   /* 13.4.1 device control */
    STATUS = 0x0008, /* 13.4.2 device status */
    EERD = 0x0014,   /* 13.4.4 EEPROM read */
    ICR = 0x00c0,    /* 13.4.17 interrupt cause, cleared by reading */
    IMC = 0x00d8,    /* 13.4.21 interrupt mask clear */
    RCTL = 0x0100,   /* 13.4.22 receive control */
    TCTL = 0x0400,   /* 13.4.33 transmit control */
    STATS = 0x4000,  /* 13.7 statistics, 0x4000 to 0x40fc; cleared by reading */
    MTA = 0x5200,    /* 13.5.1 multicast table array, 128 entries */
    RAL = 0x5400,    /* 13.5.2 receive address low, 16 entries, 8 bytes apart */
    RAH = 0x5404,    /* 13.5.3 receive address high */

    EEPROM_WORDS = 64,
    STATS_WORDS = 64,
    MTA_ENTRIES = 128,
    ADDRESSES = 16,
};

#define CTRL_RST (1u << 26)
#define EERD_START 1u
#define EERD_DONE (1u << 4)
#define RAH_VALID (1u << 31)
#define EEPROM_SUM 0xbaba /* 5.6, word 3Fh: the sum of all words */

static volatile uint8_t *bar;
static unsigned rounds = 20;

static uint32_t read32(uint32_t reg) { return *(volatile uint32_t *)(bar + reg); }
static void write32(uint32_t reg, uint32_t value) { *(volatile uint32_t *)(bar + reg) = value; }

static void check(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "e1000: wrong: %s\n", what);
        exit(1);
    }
}

/* 13.4.1: RST clears itself. Interrupts are masked and both directions stopped before; masked once more after. */
static void reset(void)
{
    write32(IMC, ~0u);
    write32(RCTL, 0);
    write32(TCTL, 0);
    write32(CTRL, read32(CTRL) | CTRL_RST);
    usleep(1000);
    while (read32(CTRL) & CTRL_RST)
        usleep(1000);
    write32(IMC, ~0u);
    read32(ICR);
}

static uint16_t eeprom_word(unsigned word)
{
    uint32_t eerd;
    write32(EERD, word << 8 | EERD_START);
    do
        eerd = read32(EERD);
    while (!(eerd & EERD_DONE));
    return (uint16_t)(eerd >> 16);
}

static void *read_eeprom(void *nothing)
{
    for (unsigned round = 0; round < rounds; round++) {
        uint16_t sum = 0;
        for (unsigned word = 0; word < EEPROM_WORDS; word++) {
            sum = (uint16_t)(sum + eeprom_word(word));
            read32(STATUS);
        }
        check(sum == EEPROM_SUM, "EEPROM checksum");
    }
    return nothing;
}

static void *write_filters(void *nothing)
{
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < MTA_ENTRIES; i++)
            write32(MTA + 4 * i, round << 16 | i);
        for (unsigned i = 0; i < MTA_ENTRIES; i++)
            check(read32(MTA + 4 * i) == (round << 16 | i), "multicast table");
        for (unsigned i = 1; i < ADDRESSES; i++) { /* number 0 is the station's own address */
            write32(RAL + 8 * i, 0x02000000 + i);
            write32(RAH + 8 * i, RAH_VALID | round);
            check(read32(RAL + 8 * i) == 0x02000000 + i, "receive address, low");
            check(read32(RAH + 8 * i) == (RAH_VALID | round), "receive address, high");
            read32(STATUS);
            write32(RAH + 8 * i, 0);
        }
        for (unsigned i = 0; i < STATS_WORDS; i++) {
            read32(STATS + 4 * i);
            read32(STATUS);
        }
    }
    return nothing;
}

int main(int argc, char **argv)
{
    if (argc == 2)
        rounds = (unsigned)strtoul(argv[1], NULL, 0);
    int fd = pci_open_bar0(VENDOR, DEVICE);
    if (fd < 0) {
        fprintf(stderr, "e1000: no 82540EM (8086:100e) on the PCI bus; tests/guest runs this program in QEMU\n");
        return 1;
    }
    bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    close(fd);

    reset();
    uint16_t mac[3];
    for (unsigned i = 0; i < 3; i++) /* 5.6, words 00h to 02h: the address, low byte first */
        mac[i] = eeprom_word(i);
    printf("e1000: address %02x:%02x:%02x:%02x:%02x:%02x, status 0x%08x\n", mac[0] & 0xff, mac[0] >> 8, mac[1] & 0xff,
           mac[1] >> 8, mac[2] & 0xff, mac[2] >> 8, read32(STATUS));
    check(read32(RAL) == ((uint32_t)mac[1] << 16 | mac[0]), "station address, low");

    pthread_t one, two;
    if (pthread_create(&one, NULL, read_eeprom, NULL) || pthread_create(&two, NULL, write_filters, NULL)) {
        fprintf(stderr, "e1000: cannot create a thread\n");
        return 1;
    }
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    printf("e1000: %u rounds, all right\n", rounds);
    return 0;
}
