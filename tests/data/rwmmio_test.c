// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's rwmmio events (include/trace/events/rwmmio.h) on a machine whose readl and writel do not have them:
 * around accesses to an e1000, as lib/trace_readwrite.c and asm-generic/io.h do it.
 */
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/pci.h>

#define CREATE_TRACE_POINTS
#include <trace/events/rwmmio.h>

static noinline u32 read_it(void __iomem *addr)
{
	u32 value;

	trace_rwmmio_read(_THIS_IP_, _RET_IP_, 32, addr);
	value = readl(addr);
	trace_rwmmio_post_read(_THIS_IP_, _RET_IP_, value, 32, addr);
	return value;
}

static noinline void write_it(u32 value, void __iomem *addr)
{
	trace_rwmmio_write(_THIS_IP_, _RET_IP_, value, 32, addr);
	writel(value, addr);
	trace_rwmmio_post_write(_THIS_IP_, _RET_IP_, value, 32, addr);
}

static int run(const char *value, const struct kernel_param *param)
{
	struct pci_dev *device = pci_get_device(0x8086, 0x100e, NULL);
	void __iomem *bar;
	int i;

	if (!device)
		return -ENODEV;
	if (pci_enable_device_mem(device))
		return -EIO;
	bar = pci_iomap(device, 0, 0);
	if (!bar)
		return -ENOMEM;
	for (i = 0; i < 20; i++) {
		write_it(0x1000 + (i << 4), bar + 0x3800);	/* TDBAL */
		read_it(bar + 0x3800);
		read_it(bar + 8);				/* STATUS */
	}
	pci_iounmap(device, bar);
	pci_dev_put(device);
	return 0;
}

static const struct kernel_param_ops run_ops = { .set = run };
module_param_cb(run, &run_ops, NULL, 0200);

static int __init rwmmio_test_init(void)
{
	return 0;
}

static void __exit rwmmio_test_exit(void)
{
}

module_init(rwmmio_test_init);
module_exit(rwmmio_test_exit);
MODULE_LICENSE("GPL");
