/**
 * The ioctls of chattr(1) and lsattr(1), as the kernel hands them on: it asks with FS_IOC_GETFLAGS for the flags (u32) and with
 * FS_IOC_FSGETXATTR for struct fsxattr, which says the same in other bits, and has checked ownership and capabilities itself. Before it sets
 * anything it asks in the second way, whichever way the program has chosen.
 * Source: fs/fuse/ioctl.c, fs/file_attr.c and include/uapi/linux/fs.h of Linux.
 */

export const flagsIoctl = {
  GETFLAGS: 0x8008_6601,
  SETFLAGS: 0x4008_6602,
  FSGETXATTR: 0x801c_581f,
  FSSETXATTR: 0x401c_5820,
} as const

const fsxattrBytes = 28

/** FS_*_FL and FS_XFLAG_* of the flags that both have. */
const pairs = [
  { flag: 0x10, xflag: 0x8 },
  { flag: 0x20, xflag: 0x10 },
  { flag: 0x80, xflag: 0x40 },
  { flag: 0x40, xflag: 0x80 },
] as const

/** The answer to one of the two that ask. */
export const encodeFlags = (command: number, flags: number): Buffer => {
  if (command === flagsIoctl.GETFLAGS) {
    const value = Buffer.alloc(4)
    value.writeUInt32LE(flags)
    return value
  }
  const value = Buffer.alloc(fsxattrBytes)
  value.writeUInt32LE(pairs.reduce((sum, { flag, xflag }) => ((flags & flag) === 0 ? sum : sum + xflag), 0))
  return value
}

/** What one of the two that set wants the flags to be; undefined: it wants what there is none of, such as a project. */
export const decodeFlags = (command: number, data: Buffer): number | undefined => {
  if (command === flagsIoctl.SETFLAGS) return data.length >= 4 ? data.readUInt32LE() : undefined
  if (data.length < fsxattrBytes) return undefined
  let left = data.readUInt32LE()
  let flags = 0
  for (const { flag, xflag } of pairs) {
    if ((left & xflag) === 0) continue
    left -= xflag
    flags += flag
  }
  const others = left !== 0 || data.subarray(4, 8).some((byte) => byte !== 0) || data.readUInt32LE(12) !== 0
  return others ? undefined : flags
}
