/**
 * Which versions of the protocol a process speaks, and which one two of them speak with each other: the newest that both know. A message
 * may always get new fields, which older readers skip; what an older peer would misunderstand is a new version.
 *
 * Invariant: a release speaks the version of the release before it, so that a cluster can be upgraded one process after the other.
 */
export interface ProtocolVersions {
  /** At least 1. */
  oldest: number
  /** At least `oldest`. */
  newest: number
}

/** From version 2 on the master knows files that are open under a lease alone (see src/client/open-files.ts). */
export const opensUnderLeasesVersion = 2

export const protocolVersions: ProtocolVersions = { oldest: 1, newest: 2 }

/** As it travels. A process that knows nothing of ranges sends the one version that it speaks, and 0. */
export interface SentVersions {
  protocolVersion: number
  protocolVersionNewest: number
}

export const versionsToSend = ({ oldest, newest }: ProtocolVersions): SentVersions => ({
  protocolVersion: oldest,
  protocolVersionNewest: newest,
})

const received = ({ protocolVersion, protocolVersionNewest }: SentVersions): ProtocolVersions => ({
  oldest: protocolVersion,
  newest: Math.max(protocolVersion, protocolVersionNewest),
})

/** Undefined: they have none in common. */
export const agreedVersion = (ours: ProtocolVersions, sent: SentVersions): number | undefined => {
  const theirs = received(sent)
  const newest = Math.min(ours.newest, theirs.newest)
  return newest >= Math.max(ours.oldest, theirs.oldest) ? newest : undefined
}

const text = ({ oldest, newest }: ProtocolVersions): string =>
  oldest === newest ? `version ${oldest}` : `versions ${oldest} to ${newest}`

/** For whoever runs a peer ("client", "chunk server") with which the master has no version in common. */
export const versionRefusal = (ours: ProtocolVersions, sent: SentVersions, peer: string): string => {
  const theirs = received(sent)
  const older = theirs.newest < ours.oldest ? `the ${peer}` : 'the master'
  return `This master speaks ${text(ours)} of the protocol, the ${peer} ${text(theirs)}. Install a newer Shoal for ${older}.`
}

/** Whether a master's answer is one that can be: 0 is that of a master that knows nothing of ranges. */
export const isSpoken = ({ oldest, newest }: ProtocolVersions, answered: number): boolean =>
  answered === 0 || (answered >= oldest && answered <= newest)
