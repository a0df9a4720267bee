"""What public sources say of the registers whose descriptions are shipped: written down from them, not from ours.

A line is a register, its offset and width in bytes, what can be done with it, and its fields; a field without an access
of its own has the register's. Of a register whose line has no fields only the first part is compared.
"""

import pytest

from mmiotap.registers import shipped
from mmiotap.registers.model import Register

#: QEMU, docs/specs/edu.rst, "MMIO area spec": offsets, RO, RW, WO, bits; hw/misc/edu.c: the interrupt registers take
#: all 32 bits.
EDU = """
ID              0x00 4 RO    MAGIC[7:0] MINOR[23:16] MAJOR[31:24]
LIVENESS        0x04 4 RW    VALUE[31:0]
FACTORIAL       0x08 4 RW    VALUE[31:0]
STATUS          0x20 4 RW    COMPUTING[0:0]=RO IRQFACT[7:7]
IRQ_STATUS      0x24 4 RO    FACT[0:0] SOFT_LOW[7:1] DMA[8:8] SOFT_HIGH[31:9]
IRQ_RAISE       0x60 4 WO1S  FACT[0:0] SOFT_LOW[7:1] DMA[8:8] SOFT_HIGH[31:9]
IRQ_ACK         0x64 4 WO1C  FACT[0:0] SOFT_LOW[7:1] DMA[8:8] SOFT_HIGH[31:9]
DMA_SOURCE      0x80 8 RW    ADDRESS[63:0]
DMA_DESTINATION 0x88 8 RW    ADDRESS[63:0]
DMA_COUNT       0x90 8 RW    BYTES[63:0]
DMA_COMMAND     0x98 8 RW    START[0:0] DIRECTION[1:1] IRQ[2:2]
"""

#: Linux, include/linux/nvme.h (NVME_REG_*, NVME_CAP_*, NVME_CC_*, NVME_CSTS_*, NVME_CMBSZ_*); QEMU,
#: include/block/nvme.h (NvmeBar, *_SHIFT and *_MASK); of CMBEBS, CMBSWTP, BPINFO, BPRSEL, NSSES and CRMS nvme-cli's
#: libnvme (types.h); RW1C, RW1S and the doorbells' RW the NVM Express base specification, 3.1.3, and nvme.h of
#: Microsoft's.
NVME = """
CAP     0x000 8 RO  MQES[15:0] CQR[16:16] AMS[18:17] TO[31:24] DSTRD[35:32] NSSRS[36:36] CSS[44:37] BPS[45:45]
+ CPS[47:46]
+ MPSMIN[51:48] MPSMAX[55:52] PMRS[56:56] CMBS[57:57] NSSS[58:58] CRMS[60:59] NSSES[61:61]
VS      0x008 4 RO  TER[7:0] MNR[15:8] MJR[31:16]
INTMS   0x00c 4 W1S IVMS[31:0]
INTMC   0x010 4 W1C IVMC[31:0]
CC      0x014 4 RW  EN[0:0] CSS[6:4] MPS[10:7] AMS[13:11] SHN[15:14] IOSQES[19:16] IOCQES[23:20] CRIME[24:24]
CSTS    0x01c 4 RO  RDY[0:0] CFS[1:1] SHST[3:2] NSSRO[4:4]=W1C PP[5:5] ST[6:6]
NSSR    0x020 4 RW  NSSRC[31:0]
AQA     0x024 4 RW  ASQS[11:0] ACQS[27:16]
ASQ     0x028 8 RW  ASQB[63:12]
ACQ     0x030 8 RW  ACQB[63:12]
CMBLOC  0x038 4 RO  BIR[2:0] CQMMS[3:3] CQPDS[4:4] CDPMLS[5:5] CDPCILS[6:6] CDMMMS[7:7] CQDA[8:8] OFST[31:12]
CMBSZ   0x03c 4 RO  SQS[0:0] CQS[1:1] LISTS[2:2] RDS[3:3] WDS[4:4] SZU[11:8] SZ[31:12]
BPINFO  0x040 4 RO  BPSZ[14:0] BRS[25:24] ABPID[31:31]
BPRSEL  0x044 4 RW  BPRSZ[9:0] BPROF[29:10] BPID[31:31]
BPMBL   0x048 8 RW  BMBBA[63:12]
CMBMSC  0x050 8 RW  CRE[0:0] CMSE[1:1] CBA[63:12]
CMBSTS  0x058 4 RO  CBAI[0:0]
CMBEBS  0x05c 4 RO  CMBSZU[3:0] CMBRBB[4:4] CMBWBZ[31:8]
CMBSWTP 0x060 4 RO  CMBSWTU[3:0] CMBSWTV[31:8]
NSSD    0x064 4 RW  NSSC[31:0]
CRTO    0x068 4 RO  CRWMT[15:0] CRIMT[31:16]
PMRCAP  0xe00 4 RO  RDS[3:3] WDS[4:4] BIR[7:5] PMRTU[9:8] PMRWBM[13:10] PMRTO[23:16] CMSS[24:24]
PMRCTL  0xe04 4 RW  EN[0:0]
PMRSTS  0xe08 4 RO  ERR[7:0] NRDY[8:8] HSTS[11:9] CBAI[12:12]
PMREBS  0xe0c 4 RO  PMRSZU[3:0] PMRRBB[4:4] PMRWBZ[31:8]
PMRSWTP 0xe10 4 RO  PMRSWTU[3:0] PMRSWTV[31:8]
PMRMSCL 0xe14 4 RW  CMSE[1:1] CBA[31:12]
PMRMSCU 0xe18 4 RW  CBA[31:0]
Q[0].SQTDBL    0x1000 4 RW SQT[15:0]
Q[0].CQHDBL    0x1004 4 RW CQH[15:0]
Q[1535].CQHDBL 0x3ffc 4 RW CQH[15:0]
"""

#: Linux, e1000_hw.h (offsets; E1000_ and the register's name, bits), and of the 8254x manual what only it says:
#: 13.4.16 (PBA), 13.4.17 (ICR is cleared by reading, and by ones), 13.4.20, 13.4.21, 13.4.23, 13.4.24 (XFCE), 13.4.27
#: to 13.4.30 (RDLEN, FPD reads 0), 13.4.33, 13.4.36 (TDBAL is 31:4), table 13-86 (TXDCTL), 13.5.3, 13.6.7, 13.6.8,
#: 13.8.1 to 13.8.5. Linux's ethtool test writes and reads back the bits of FCAL to TDLEN. QEMU's hw/net/e1000.c keeps
#: 11 bits of TDFH, TDFT and FFLT, 13 of the others of 13.8, 4 of FFMT.
E1000 = """
CTRL      0x0000 4 RW
CTRL_DUP  0x0004 4 RW
STATUS    0x0008 4 RO FD[0:0] LU[1:1] FUNCTION_ID[3:2] TXOFF[4:4] TBIMODE[5:5] SPEED[7:6] ASDV[9:8] PCI66[11:11]
+ BUS64[12:12]
+ PCIX_MODE[13:13] PCIXSPD[15:14]
EECD      0x0010 4 RW SK[0:0] CS[1:1] DI[2:2] DO[3:3]=RO FWE[5:4] EE_REQ[6:6] EE_GNT[7:7]=RO EE_PRES[8:8]=RO
+ EE_SIZE[9:9]
+ ADDR_BITS[10:10] EE_TYPE[13:13]
EERD      0x0014 4 RW START[0:0] DONE[4:4]=RO ADDR[15:8] DATA[31:16]=RO
CTRL_EXT  0x0018 4 RW GPI_EN[3:0] SDP4_DATA[4:4] PHYINT[5:5]=RO SDP6_DATA[6:6] SDP7_DATA[7:7] SDP4_IODIR[8:8]
+ SDP5_IODIR[9:9]
+ SDP6_IODIR[10:10] SDP7_IODIR[11:11] ASDCHK[12:12] EE_RST[13:13] IPS[14:14] SPD_BYPS[15:15] RO_DIS[17:17]
+ VREG_POWER_DOWN[21:21] LINK_MODE[23:22] DRV_LOAD[28:28]
MDIC      0x0020 4 RW DATA[15:0] REGADD[20:16] PHYADD[25:21] OP[27:26] R[28:28] I[29:29] E[30:30]
FCAL      0x0028 4 RW FCAL[31:0]
FCAH      0x002c 4 RW FCAH[15:0]
FCT       0x0030 4 RW FCT[15:0]
VET       0x0038 4 RW VET[15:0]
ICR       0x00c0 4 W1CRC
ICS       0x00c8 4 WO1S TXDW[0:0] TXQE[1:1] LSC[2:2] RXSEQ[3:3] RXDMT0[4:4] RXO[6:6] RXT0[7:7] MDAC[9:9] RXCFG[10:10]
+ PHYINT[12:12]
+ GPI_SDP6[13:13] GPI_SDP7[14:14] TXD_LOW[15:15] SRPD[16:16]
IMS       0x00d0 4 W1S
IMC       0x00d8 4 WO1C
RCTL      0x0100 4 RW EN[1:1] SBP[2:2] UPE[3:3] MPE[4:4] LPE[5:5] LBM[7:6] RDMTS[9:8] MO[13:12] BAM[15:15]
+ BSIZE[17:16] VFE[18:18]
+ CFIEN[19:19] CFI[20:20] DPF[22:22] PMCF[23:23] BSEX[25:25] SECRC[26:26]
FCTTV     0x0170 4 RW TTV[15:0]
TXCW      0x0178 4 RW TXCONFIGWORD[15:0] TXCONFIG[30:30] ANE[31:31]
RXCW      0x0180 4 RO RXCONFIGWORD[15:0] NC[26:26] IV[27:27] CC[28:28] C[29:29] SYNCHRONIZE[30:30] ANC[31:31]
TCTL      0x0400 4 RW EN[1:1] PSP[3:3] CT[11:4] COLD[21:12] SWXOFF[22:22] RTLC[24:24] NRTU[25:25]
TIPG      0x0410 4 RW IPGT[9:0] IPGR1[19:10] IPGR2[29:20]
PBA       0x1000 4 RW RXA[6:0] RXA_R[15:7]=RO TXA[31:16]=RO
FCRTL     0x2160 4 RW RTL[15:3] XONE[31:31]
FCRTH     0x2168 4 RW RTH[15:3] XFCE[31:31]
RDFPC     0x2430 4 RW COUNT[12:0]
RDBAL     0x2800 4 RW RDBAL[31:4]
RDLEN     0x2808 4 RW LEN[19:7]
RDH       0x2810 4 RW RDH[15:0]
RDTR      0x2820 4 RW DELAY[15:0] FPD[31:31]=WO
RXDCTL    0x2828 4 RW PTHRESH[5:0] HTHRESH[13:8] WTHRESH[21:16] GRAN[24:24]
TDFH      0x3410 4 RW FIFO[10:0]
TDFHS     0x3420 4 RW FIFO[12:0]
TDFPC     0x3430 4 RW COUNT[12:0]
TDBAL     0x3800 4 RW TDBAL[31:4]
TDLEN     0x3808 4 RW LEN[19:7]
TXDCTL    0x3828 4 RW PTHRESH[5:0] HTHRESH[13:8] WTHRESH[21:16] GRAN[24:24] LWTHRESH[31:25]
TARC0     0x3840 4 RW
TXDCTL1   0x3928 4 RW
TORL      0x40c0 4 RO COUNT[31:0]
TORH      0x40c4 4 RC COUNT[31:0]
IAC       0x4100 4 RC COUNT[31:0]
ICRXOC    0x4124 4 RC COUNT[31:0]
RXCSUM    0x5000 4 RW PCSS[7:0] IPOFLD[8:8] TUOFLD[9:9] IPV6OFL[10:10]
RFCTL     0x5008 4 RW
MTA[127]  0x53fc 4 RW DATA[31:0]
RA[15].RAL 0x5478 4 RW RAL[31:0]
RA[15].RAH 0x547c 4 RW RAH[15:0] AS[17:16] AV[31:31]
VFTA[127] 0x57fc 4 RW DATA[31:0]
WUC       0x5800 4 RW APME[0:0] PME_EN[1:1] PME_STATUS[2:2]=W1C APMPME[3:3] SPM[31:31]
WUS       0x5810 4 W1C
MANC2H    0x5860 4 RW
WUPL      0x5900 4 RW LEN[11:0]
WUPM[31]  0x5a7c 4 RW DATA[31:0]
SWSM      0x5b50 4 RW SMBI[0:0] SWESMBI[1:1] WMNG[2:2] DRV_LOAD[3:3]
FFLT[3].LENGTH 0x5f18 4 RW LEN[10:0]
FFMT[127].MASK 0x93f8 4 RW BYTES[3:0]
FFVT[127].VALUE 0x9bf8 4 RW DATA[31:0]
PBM[16383] 0x1fffc 4 RW DATA[31:0]
"""


def elements(name: str) -> dict[str, Register]:
    """Registers by their names; of an array the last one."""
    found = {}
    path = shipped.find(name)
    assert path
    for one in shipped.elaborated(path).registers:
        last = "".join(f"[{count - 1}]" for count in one.counts)
        found[one.name + last] = one
    return found


def offset(one: Register) -> int:
    return one.end - one.width


@pytest.mark.parametrize(("name", "facts"), [("edu", EDU), ("nvme", NVME), ("e1000", E1000)])
def test_what_sources_say(name: str, facts: str) -> None:
    ours = elements(name)
    lines = [line.split() for line in facts.replace("\n+", "").strip().splitlines()]
    assert name != "edu" or {line[0] for line in lines} == set(ours)
    for register, where, width, access, *fields in lines:
        one = ours[register]
        assert (offset(one), one.width) == (int(where, 16), int(width)), register
        said = [f"{field.name}[{field.lsb + field.width - 1}:{field.lsb}]={field.access}" for field in one.fields]
        if fields:
            assert said == [field if "=" in field else f"{field}={access}" for field in fields], register
        else:
            assert {field.access for field in one.fields} == {access}, register


#: Of fields: names of values. Linux, e1000_hw.h: E1000_STATUS_PCIX_SPEED_*, E1000_EECD_FWE_*,
#: E1000_CTRL_EXT_LINK_MODE_*, E1000_MDIC_OP_*, E1000_LEDCTL_MODE_*, E1000_RCTL_RDMTS_*. include/linux/nvme.h:
#: NVME_CC_*, NVME_CSTS_SHST_*. libnvme, types.h: enum nvme_unit, nvme_cap, nvme_bpinfo, nvme_cmbsz. QEMU,
#: hw/misc/edu.c: EDU_DMA_FROM_PCI, EDU_DMA_TO_PCI.
VALUES = """
edu DMA_COMMAND DIRECTION FROM_RAM=0 TO_RAM=1
nvme CC CSS NVM=0 ALL=6 ADMIN_ONLY=7
nvme CC AMS RR=0 WRR=1 VENDOR=7
nvme CC SHN NONE=0 NORMAL=1 ABRUPT=2
nvme CSTS SHST OPERATING=0 OCCURRING=1 COMPLETE=2
nvme CAP CPS NOT_REPORTED=0 CONTROLLER=1 DOMAIN=2 SUBSYSTEM=3
nvme CMBSZ SZU KIB4=0 KIB64=1 MIB1=2 MIB16=3 MIB256=4 GIB4=5 GIB64=6
nvme BPINFO BRS NOTHING_READ=0 READING=1 READ=2 FAILED=3
nvme CMBEBS CMBSZU BYTES=0 KIB=1 MIB=2 GIB=3
nvme PMRSTS HSTS NORMAL=0 RESTORE_ERROR=1 READ_ONLY=2 UNRELIABLE=3
e1000 CTRL SPEED MBIT10=0 MBIT100=1 MBIT1000=2
e1000 STATUS PCIXSPD MHZ66=0 MHZ100=1 MHZ133=2
e1000 EECD FWE DISABLED=1 ENABLED=2
e1000 CTRL_EXT LINK_MODE GMII=0 TBI=3
e1000 MDIC OP WRITE=1 READ=2
e1000 RCTL RDMTS HALF=0 QUARTER=1 EIGHTH=2
e1000 LEDCTL LED3_MODE LINK_10_1000=0 LINK_100_1000=1 LINK_UP=2 ACTIVITY=3 LINK_ACTIVITY=4 LINK_10=5 LINK_100=6
+ LINK_1000=7
+ PCIX_MODE=8 FULL_DUPLEX=9 COLLISION=10 BUS_SPEED=11 BUS_SIZE=12 PAUSED=13 LED_ON=14 LED_OFF=15
"""


def test_names_of_values() -> None:
    registers = {name: elements(name) for name in ("edu", "nvme", "e1000")}
    for name, register, field, *values in (line.split() for line in VALUES.replace("\n+", "").strip().splitlines()):
        [found] = [one for one in registers[name][register].fields if one.name == field]
        assert [f"{text}={value}" for value, text in sorted(found.values.items())] == values, (register, field)
