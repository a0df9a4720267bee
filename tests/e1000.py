"""What the 8254x manual (317453) calls the registers that Linux's e1000 driver touches."""

from mmiotap.registers import choose
from mmiotap.trace.reader import Trace

#: Registers of the 8254x that hold data, not fields: what is written there is shown as it is.
DATA = ("MTA", "VFTA", "RAL", "FCAL", "RDBAH", "TDBAH")

#: Every register that the driver touches, with what the manual (317453, chapter 13) says its offset is.
SEEN = """
0x0000 CTRL, 0x0008 STATUS, 0x0010 EECD, 0x0020 MDIC, 0x0028 FCAL, 0x002c FCAH, 0x0030 FCT, 0x0038 VET, 0x00c0 ICR,
0x00c4 ITR, 0x00c8 ICS, 0x00d0 IMS, 0x00d8 IMC, 0x0100 RCTL, 0x0170 FCTTV, 0x0400 TCTL, 0x0410 TIPG, 0x0458 AIFS,
0x0e00 LEDCTL, 0x1000 PBA, 0x2160 FCRTL, 0x2168 FCRTH, 0x2800 RDBAL, 0x2804 RDBAH, 0x2808 RDLEN, 0x2810 RDH, 0x2818
RDT, 0x2820 RDTR, 0x282c RADV, 0x3800 TDBAL, 0x3804 TDBAH, 0x3808 TDLEN, 0x3810 TDH, 0x3818 TDT, 0x3820 TIDV, 0x3828
TXDCTL, 0x382c TADV, 0x4000 CRCERRS, 0x4004 ALGNERRC, 0x4008 SYMERRS, 0x400c RXERRC, 0x4010 MPC, 0x4014 SCC, 0x4018
ECOL, 0x401c MCC, 0x4020 LATECOL, 0x4028 COLC, 0x4030 DC, 0x4034 TNCRS, 0x4038 SEC, 0x403c CEXTERR, 0x4040 RLEC,
0x4048 XONRXC, 0x404c XONTXC, 0x4050 XOFFRXC, 0x4054 XOFFTXC, 0x4058 FCRUC, 0x405c PRC64, 0x4060 PRC127, 0x4064
PRC255, 0x4068 PRC511, 0x406c PRC1023, 0x4070 PRC1522, 0x4074 GPRC, 0x4078 BPRC, 0x407c MPRC, 0x4080 GPTC, 0x4088
GORCL, 0x408c GORCH, 0x4090 GOTCL, 0x4094 GOTCH, 0x40a0 RNBC, 0x40a4 RUC, 0x40a8 RFC, 0x40ac ROC, 0x40b0 RJC, 0x40b4
MGTPRC, 0x40b8 MGTPDC, 0x40bc MGTPTC, 0x40c0 TORL, 0x40c4 TORH, 0x40c8 TOTL, 0x40cc TOTH, 0x40d0 TPR, 0x40d4 TPT,
0x40d8 PTC64, 0x40dc PTC127, 0x40e0 PTC255, 0x40e4 PTC511, 0x40e8 PTC1023, 0x40ec PTC1522, 0x40f0 MPTC, 0x40f4 BPTC,
0x40f8 TSCTC, 0x40fc TSCTFC, 0x5000 RXCSUM, 0x5800 WUC, 0x5820 MANC
"""


def accesses(trace: Trace, *regs: str) -> list[tuple[str, int, int, str | None, str | None]]:
    decoder = choose.decoder(trace, regs, [], perl=False, ours=True)
    assert decoder is not None
    return [
        (event["kind"], event["offset"], event["value"], event["register"], event["fields"])
        for table in decoder.named(trace.batches())
        for event in table.to_pylist()
        if event["kind"] in ("read", "write")
    ]


def the_manual() -> dict[int, str]:
    expected = {int(offset, 16): name for offset, name in (one.split() for one in SEEN.split(","))}
    expected |= {0x5200 + 4 * i: f"MTA[{i}]" for i in range(128)}
    expected |= {0x5600 + 4 * i: f"VFTA[{i}]" for i in range(128)}
    expected |= {0x5400 + 8 * i: f"RA[{i}].RAL" for i in range(15)}
    return expected | {0x5404 + 8 * i: f"RA[{i}].RAH" for i in range(15)}


def share_with_fields(found: list[tuple[str, int, int, str | None, str | None]]) -> float:
    """Of the writes of something to registers that have fields: how many name some of these."""
    control = [
        fields
        for kind, _, value, name, fields in found
        if kind == "write" and value and name and name.partition("[")[0].rpartition(".")[2] not in DATA
        and not name.endswith(".RAL")
    ]  # fmt: skip
    assert len(control) > 4000
    return sum(1 for fields in control if fields and not fields.startswith("?")) / len(control)
