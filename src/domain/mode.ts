/** st_mode: file types and permission bits, numbered as Linux numbers them on every architecture. */

export const S_IFMT = 0o170000
export const S_IFSOCK = 0o140000
export const S_IFLNK = 0o120000
export const S_IFREG = 0o100000
export const S_IFBLK = 0o060000
export const S_IFDIR = 0o040000
export const S_IFCHR = 0o020000
export const S_IFIFO = 0o010000
export const S_ISUID = 0o4000
export const S_ISGID = 0o2000
export const S_ISVTX = 0o1000
export const S_IRUSR = 0o0400
export const S_IWUSR = 0o0200
export const S_IXGRP = 0o0010

export const fileType = (mode: number): number => mode & S_IFMT
export const isDirectory = (mode: number): boolean => fileType(mode) === S_IFDIR
export const isRegular = (mode: number): boolean => fileType(mode) === S_IFREG
export const isSymlink = (mode: number): boolean => fileType(mode) === S_IFLNK

/** The mode after a write or chown by someone without privileges: setuid goes, setgid too where the group may execute. */
export const withoutPrivileges = (mode: number): number => {
  const kept = mode & ~S_ISUID
  return (kept & S_IXGRP) === 0 ? kept : kept & ~S_ISGID
}
