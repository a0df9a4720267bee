// One access a microsecond under Frida's Stalker: what sees each access to the mapping that benchmarks/patched.c makes.
// Sent at the program's end: how many there were. A row has offset, instruction and time; what was read or written is not in it.
const low = Memory.alloc(8), high = Memory.alloc(8), seen = Memory.alloc(8), rows = Memory.alloc(65536 * 24);
const code = new CModule(`
#include <gum/guminterceptor.h>
extern guint64 low, high, seen, rows[];
typedef struct { gint64 base, index, scale, displacement, pc; } Operand;

static guint64 value (GumCpuContext *cpu, gint64 number)
{
  switch (number)
  {
    case 0: return cpu->rax; case 1: return cpu->rcx; case 2: return cpu->rdx; case 3: return cpu->rbx;
    case 4: return cpu->rsp; case 5: return cpu->rbp; case 6: return cpu->rsi; case 7: return cpu->rdi;
    case 8: return cpu->r8; case 9: return cpu->r9; case 10: return cpu->r10; case 11: return cpu->r11;
    case 12: return cpu->r12; case 13: return cpu->r13; case 14: return cpu->r14; case 15: return cpu->r15;
    default: return 0;
  }
}

void on_access (GumCpuContext *cpu, gpointer data)
{
  Operand *o = data;
  guint64 address = value (cpu, o->base) + value (cpu, o->index) * o->scale + o->displacement;
  if (address < low || address >= high)
    return;
  guint64 *row = rows + seen++ % 65536 * 3;
  row[0] = address - low, row[1] = o->pc, row[2] = g_get_monotonic_time ();
}
`, { low, high, seen, rows });

const registers = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'];
const operands = []; // kept alive
const program = Process.mainModule, end = program.base.add(program.size);

function call(iterator, instruction, { base, index, scale, disp }) {
  const operand = Memory.alloc(40);
  [registers.indexOf(base), registers.indexOf(index), scale, disp].forEach((n, i) => operand.add(8 * i).writeS64(n));
  operand.add(32).writePointer(instruction.address);
  operands.push(operand);
  iterator.putCallout(code.on_access, operand);
}

function transform(iterator) {
  for (let instruction = iterator.next(); instruction !== null; instruction = iterator.next()) {
    const ours = instruction.address.compare(program.base) >= 0 && instruction.address.compare(end) < 0;
    if (ours && !['lea', 'nop'].includes(instruction.mnemonic))
      instruction.operands.filter(o => o.type === 'mem' && o.value.base !== 'rip').forEach(o => call(iterator, instruction, o.value));
    iterator.keep();
  }
}

Interceptor.attach(Module.getGlobalExportByName('mmap'), {
  onEnter(args) { this.file = args[4].toInt32(); this.length = args[1].toInt32(); },
  onLeave(result) {
    if (this.file >= 0 && this.length === 4096) {
      low.writePointer(result);
      high.writePointer(result.add(4096));
    }
  },
});
Interceptor.attach(Module.getGlobalExportByName('exit'), {
  onEnter() {
    send(seen.readU64().toNumber());
    recv('noted', () => {}).wait();
  },
});
Stalker.follow(Process.id, { transform });
Process.attachThreadObserver({ onAdded(thread) { Stalker.follow(thread.id, { transform }); } });
