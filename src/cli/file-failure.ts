/** Why a file or directory that a person named cannot be used, in words. */

const reasons: Readonly<Record<string, string>> = {
  EACCES: 'this user may not',
  EEXIST: 'something that is no directory is there',
  EISDIR: 'it is a directory',
  ENOENT: 'there is no such file or directory',
  ENOSPC: 'the disk is full',
  ENOTDIR: 'a part of the path is not a directory',
  EPERM: 'this user may not',
  EROFS: 'its file system is read-only',
}

export const fileFailure = (caught: unknown): string => {
  const code = caught instanceof Error && 'code' in caught ? String(caught.code) : String(caught)
  return reasons[code] ?? code
}
