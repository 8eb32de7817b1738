/**
 * Hosts for a cluster of real processes: each is a network namespace with an address of its own on a bridge, so that what is between
 * them can be cut and slowed. The bridge is in a namespace, too; this machine's own network sees none of it. Files, processes and mounts
 * are this machine's.
 */
import { spawn } from 'node:child_process'
import { check } from './sh.ts'

/** Ends with the pipe from this process, and the namespace with it, once nobody else is in it. */
const hold = 'read -r _'

export interface Host {
  readonly address: string
  /** What a command line begins with to run there. */
  readonly enter: readonly string[]
  /** Nothing that the source sends arrives here any more; connections stay. */
  cutFrom(source: Host): Promise<void>
  /** Nothing comes in or goes out. */
  cutOff(): Promise<void>
  /** Sends at no more than this rate. */
  slow(bitsPerSecond: number): Promise<void>
  heal(): Promise<void>
}

export interface Hosts {
  /** On the bridge: reaches all of them, whatever is cut between them. */
  readonly enter: readonly string[]
  add(): Promise<Host>
}

interface HostsTest {
  teardown(handler: () => Promise<void>): void
}

export const programsForHosts = ['unshare', 'nsenter', 'ip', 'tc', 'nft'] as const

export const startHosts = async (t: HostsTest): Promise<Hosts> => {
  const namespace = async (): Promise<{ pid: number; enter: readonly string[] }> => {
    const child = spawn('unshare', ['--net', 'bash', '-c', `ip link set lo up; echo ready; ${hold}`], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const ended = new Promise((resolve) => {
      child.once('error', resolve)
      child.once('exit', resolve)
    })
    t.teardown(async () => {
      child.kill('SIGKILL')
      await ended
    })
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve())
      void ended.then(() => reject(new Error('a network namespace could not be made')))
    })
    return { pid: child.pid!, enter: ['nsenter', `--net=/proc/${child.pid!}/ns/net`] }
  }
  const at = async (enter: readonly string[], script: string): Promise<void> => {
    await check(enter[0]!, [...enter.slice(1), 'bash', '-euc', script], { timeoutMs: 60_000 })
  }
  const hub = await namespace()
  await at(hub.enter, 'ip link add br0 type bridge; ip addr add 10.9.0.1/24 dev br0; ip link set br0 up')
  let count = 0
  const add = async (): Promise<Host> => {
    count++
    const address = `10.9.0.${10 + count}`
    const { pid, enter } = await namespace()
    await at(
      hub.enter,
      `ip link add host${count} type veth peer name eth0 netns ${pid}; ip link set host${count} master br0 up`,
    )
    await at(
      enter,
      `ip addr add ${address}/24 dev eth0; ip link set eth0 up
       nft 'table inet cut { chain in { type filter hook input priority 0; }; chain out { type filter hook output priority 0; }; }'`,
    )
    return {
      address,
      enter,
      cutFrom: (source) => at(enter, `nft add rule inet cut in ip saddr ${source.address} drop`),
      cutOff: () => at(enter, `nft 'add rule inet cut in iif eth0 drop; add rule inet cut out oif eth0 drop'`),
      slow: (bitsPerSecond) =>
        at(enter, `tc qdisc add dev eth0 root tbf rate ${bitsPerSecond} burst 64kb latency 400ms`),
      heal: () =>
        at(enter, 'nft flush chain inet cut in; nft flush chain inet cut out; tc qdisc del dev eth0 root || true'),
    }
  }
  return { enter: hub.enter, add }
}
