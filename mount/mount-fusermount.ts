/**
 * Mounting as an ordinary user: fusermount3, which is setuid root, opens the device, mounts it and sends the descriptor over a socket
 * (SCM_RIGHTS). It keeps the rules: the user must own the directory, nosuid and nodev are forced, and allow_other needs
 * user_allow_other in /etc/fuse.conf.
 * Source: fusermount3(1), mount.fuse3(8), util/fusermount.c of libfuse.
 */
import { closeSync } from 'node:fs'
import { UsageError } from '../src/domain/errors.ts'
import { run } from './mount-run.ts'
import { nativeDevice } from './native-device.ts'

/** fusermount3 splits its options at commas that have no backslash before them. */
export const escapeOption = (value: string): string => value.replaceAll(/[\\,]/g, String.raw`\$&`)

/** The mounted device, non-blocking. UsageError in fusermount3's own words when it refuses. */
export const fusermount = async (mountPoint: string, options: readonly string[]): Promise<number> => {
  const native = nativeDevice()
  if (native === undefined) {
    throw new UsageError(
      'an ordinary user can mount only with the native addon, which was not built here (node mount/native/build.mjs says why); root can mount without it',
    )
  }
  const [ours, theirs] = native.socketPair()
  try {
    const ended = await run('fusermount3', ['-o', options.join(','), '--', mountPoint], {
      fd: theirs,
      env: { _FUSE_COMMFD: '3' },
    })
    if (ended.code === 127) {
      throw new UsageError('there is no fusermount3, which mounts for ordinary users: install the package fuse3')
    }
    if (ended.code !== 0) {
      const why = ended.stderr.replaceAll(/^fusermount3: /gm, '').replaceAll('\n', '; ')
      throw new UsageError(`cannot mount on ${mountPoint}: ${why || `fusermount3 ended with ${ended.code}`}`)
    }
    const descriptor = native.receive(ours)
    if (descriptor < 0) throw new UsageError(`fusermount3 sent no descriptor (errno ${-descriptor})`)
    return descriptor
  } finally {
    closeSync(ours)
    closeSync(theirs)
  }
}
