/* A PCI device from user space, by way of sysfs (Linux, Documentation/PCI/sysfs-pci.rst). Needs root. */
#ifndef PCI_H
#define PCI_H

#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int pci_open(const char *folder, const char *name, int flags)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static unsigned long pci_number(const char *folder, const char *name)
{
    char text[32] = "";
    int fd = pci_open(folder, name, O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 0)
        perror(name);
    close(fd);
    return strtoul(text, NULL, 16);
}

/*
 * The first device with these ids: enables it, masks its interrupt line (PCI 3.0, 6.2.2: command register, bit 10),
 * since nobody would serve it, and opens its BAR 0. Returns -1 if there is no such device.
 */
static int pci_open_bar0(unsigned vendor, unsigned device)
{
    int bar = -1;
    glob_t found;
    if (glob("/sys/bus/pci/devices/*", 0, NULL, &found))
        return -1;
    for (size_t i = 0; i < found.gl_pathc && bar < 0; i++) {
        const char *folder = found.gl_pathv[i];
        if (pci_number(folder, "vendor") != vendor || pci_number(folder, "device") != device)
            continue;
        uint16_t command;
        int enable = pci_open(folder, "enable", O_WRONLY), config = pci_open(folder, "config", O_RDWR);
        int ok = write(enable, "1", 1) == 1 && pread(config, &command, 2, 4) == 2;
        command |= 1 << 10;
        if (!ok || pwrite(config, &command, 2, 4) != 2) {
            perror(folder);
            exit(1);
        }
        close(enable);
        close(config);
        bar = pci_open(folder, "resource0", O_RDWR | O_SYNC);
        printf("device %s\n", strrchr(folder, '/') + 1);
    }
    globfree(&found);
    return bar;
}

#endif
