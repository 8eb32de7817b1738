/**
 * Machines to provision, made of namespaces: each has a root of its own (an overlay over this machine's), a network of its own on a
 * bridge, and a stand-in for systemctl. All of them share one process and one mount namespace of their own, whose first process holds
 * everything: when it ends, nothing is left of them. This machine sees none of it.
 */
import { startNamespaces, type NamespacesTest } from './namespaces.ts'
import { check, run, type Ran, type RunOptions } from './sh.ts'

const root = (name: string): string => `/run/machines/${name}/root`

/** First process of the namespaces: reaps what is left to it, and ends with the pipe from this process. */
const holderScript = `
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/netns /run/machines
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
ip link set lo up
echo ready
exec python3 -c '
import os, select, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while not select.select([0], [], [], 3600)[0]: pass
'`

const machineScript = `
set -eu
name=$1 address=$2 stand_in=$3
ip netns add $name
ip link add v-$name type veth peer name eth0 netns $name
ip link set v-$name master br0 up
ip -n $name link set lo up
ip -n $name addr add $address/24 dev eth0
ip -n $name link set eth0 up
base=/run/machines/$name
mkdir -p $base/upper $base/work $base/root
mount -t overlay overlay -o lowerdir=/,upperdir=$base/upper,workdir=$base/work $base/root
mount -t proc proc $base/root/proc
mount --rbind /dev $base/root/dev
mount --rbind /sys $base/root/sys
mount -t tmpfs tmpfs $base/root/run
mount -t tmpfs tmpfs $base/root/tmp
# Whatever this machine has of Shoal is not there.
rm -rf $base/root/etc/shoal $base/root/var/lib/shoal $base/root/usr/lib/shoal $base/root/usr/bin/shoal $base/root/var/log/shoal
install -m 755 $stand_in $base/root/usr/bin/systemctl
`

export interface Machine {
  readonly name: string
  readonly address: string
  /** A bash script on it, as root, to its end. */
  run(script: string, options?: RunOptions): Promise<Ran>
  /** The same, but it has to succeed; gives its standard output. */
  sh(script: string, options?: RunOptions): Promise<string>
  /** Puts a file on it. */
  put(source: string, target: string): Promise<void>
  /** Kills everything that runs on it and takes it off the network, as a power cut does. */
  halt(): Promise<void>
}

export interface Machines {
  add(name: string): Promise<Machine>
}

export const startMachines = async (t: NamespacesTest): Promise<Machines> => {
  const inside = await startNamespaces(t, ['net', 'mount'], holderScript)
  const standIn = new URL('systemctl-stand-in.py', import.meta.url).pathname
  let count = 0

  return {
    add: async (name) => {
      count += 1
      const address = `10.9.0.${10 + count}`
      await check('nsenter', [...inside, 'bash', '-c', machineScript, 'machine', name, address, standIn])
      const on = (script: string): string[] => {
        const enter = [
          'nsenter',
          `--net=/run/netns/${name}`,
          'chroot',
          root(name),
          // The test runner's own: it names files that are not in there.
          'env',
          '-u',
          'NODE_OPTIONS',
          'bash',
          '-euo',
          'pipefail',
          '-c',
          script,
        ]
        return [...inside, ...enter]
      }
      // What nsenter starts in a process namespace is out of reach of a kill of the process group, hence the timeouts inside.
      const options = (given: RunOptions = {}): RunOptions => ({ cwd: '/', timeoutMs: 120_000, ...given })
      return {
        name,
        address,
        run: (script, given) => run('nsenter', on(script), options(given)),
        sh: (script, given) => check('nsenter', on(script), options(given)),
        put: async (source, target) => {
          await check('nsenter', [...inside, 'cp', source, `${root(name)}${target}`])
        },
        halt: async () => {
          const script = `ip link set v-${name} down; ip netns pids ${name} | xargs -r kill -KILL`
          await check('nsenter', [...inside, 'bash', '-c', script])
        },
      }
    },
  }
}
