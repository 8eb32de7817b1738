/** Flags of open(2) in Linux's x86 numbering, as FUSE sends them. */
export const openFlag = {
  ACCMODE: 0o3,
  RDONLY: 0,
  WRONLY: 1,
  EXCL: 0o200,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NOATIME: 0o1000000,
} as const
